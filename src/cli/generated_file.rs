//! The file that generated lines are appended to, in the order of the prompts. While it is unfinished, a file beside it tells what it is
//! the beginning of, so that the same command goes on where an earlier one was interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hydrometer_base::fs::{read_if_there, replace_bytes};
use hydrometer_base::user_error;

/// How often what was written is put on the disk, beyond the reach of a power failure.
const SYNC: Duration = Duration::from_secs(2);

pub struct GeneratedFile {
    file: File,
    path: PathBuf,
    synced: Instant,
}

/// The path of the file beside `path`.
fn sidecar(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.unfinished"))
}

/// The number of complete lines that `path` already has of the output that `identity` identifies; 0 if it does not exist. A user error
/// if it is anything else.
pub fn resumable(path: &Path, identity: &str) -> Result<usize> {
    let shown = path.display();
    match (path.exists(), read_if_there(&sidecar(path))?) {
        (false, _) => Ok(0),
        (true, None) => Err(user_error!("{shown} already exists; remove it, or choose another --out FILE")),
        (true, Some(of)) if of != identity.as_bytes() => Err(user_error!(
            "{shown} is the unfinished output of another model, other prompts or other settings; remove it, or choose another \
             --out FILE"
        )),
        (true, Some(_)) => Ok(complete(path)?.0),
    }
}

/// The number of complete lines, and their bytes.
fn complete(path: &Path) -> Result<(usize, u64)> {
    let mut reader = BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?);
    let (mut lines, mut bytes, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok((lines, bytes));
        }
        lines += 1;
        bytes += length as u64;
    }
}

impl GeneratedFile {
    /// Opens `path` to append to its complete lines.
    pub fn open(path: &Path, identity: &str) -> Result<Self> {
        replace_bytes(&sidecar(path), identity.as_bytes())?;
        let open = || -> Result<File> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            file.set_len(complete(path)?.1)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, path: path.to_path_buf(), synced: Instant::now() })
    }

    /// Appends a line.
    pub fn append(&mut self, mut line: String) -> Result<()> {
        line.push('\n');
        let failed = || format!("cannot write {}", self.path.display());
        self.file.write_all(line.as_bytes()).with_context(failed)?;
        if self.synced.elapsed() >= SYNC {
            self.file.sync_data().with_context(failed)?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    /// The output is complete.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("cannot write {}", self.path.display()))?;
        let sidecar = sidecar(&self.path);
        fs::remove_file(&sidecar).with_context(|| format!("cannot remove {}", sidecar.display()))
    }
}
