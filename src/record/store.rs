//! Files that are whole or absent: written beside their place, synced, then renamed.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Creates or replaces `path` with what `write` puts into the file. A crash leaves the old file or the new one, never half.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace_by_name(path, |part| write(&mut File::create(part)?))
}

/// The same for a `write` that opens the file itself, under the name it is given.
pub fn replace_by_name(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().context("a file name")?.to_string_lossy();
    // Another process, on another machine even, may write the same file.
    let part = folder.join(format!(".{name}.{:016x}.part", RandomState::new().build_hasher().finish()));
    let finish = || -> Result<()> {
        write(&part)?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, path)?;
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    finish().inspect_err(|_| drop(fs::remove_file(&part))).with_context(|| format!("cannot write {}", path.display()))
}

/// Creates or replaces `path` with `bytes`.
pub fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, |file| Ok(file.write_all(bytes)?))
}

/// Removes from `folder` what a process that was killed had begun to write, as far as it was begun before `age`.
pub fn remove_parts(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let old =
            || entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|is| is >= age));
        if name.starts_with('.') && name.ends_with(".part") && old() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether the machine rather than the program is why something could not be written: a full disk, a quota, a read-only mount.
pub fn is_storage(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WriteZero};
    let storage =
        |cause: &io::Error| [FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WriteZero].contains(&cause.kind());
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(storage))
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file in lower-case hex, read as a stream.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
