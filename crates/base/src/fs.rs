//! Atomic file writes (a temporary file in the same folder, fsync, rename), checksums, and I/O errors for users.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::user_error;

/// Creates or replaces `path` atomically with what `write` writes. A crash leaves the old file or the new one, never a part.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace_by_name(path, |part| write(&mut File::create(part)?))
}

/// Like [`replace_file`], for a `write` that opens the file itself under the temporary name it is given.
pub fn replace_by_name(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let replaced = PartFile::beside(path).and_then(|part| {
        write(part.path())?;
        part.finish()
    });
    replaced.with_context(|| format!("cannot write {}", path.display()))
}

/// A file that is being written beside its place. It appears there once it is finished; nothing is left of one that never is,
/// unless its process was killed: see [`remove_parts`].
pub struct PartFile {
    part: PathBuf,
    place: PathBuf,
}

impl PartFile {
    /// For a file at `place`. The part itself is the caller's to create.
    pub fn beside(place: &Path) -> Result<Self> {
        let name = place.file_name().context("a file name")?.to_string_lossy();
        // Another process, on another machine even, may write the same file.
        let part = folder_of(place).join(format!(".{name}.{:016x}.part", RandomState::new().build_hasher().finish()));
        Ok(Self { part, place: place.to_path_buf() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.part
    }

    /// Puts what was written in its place, so that a power failure does not undo it.
    pub fn finish(self) -> Result<()> {
        File::open(&self.part)?.sync_all()?;
        fs::rename(&self.part, &self.place)?;
        File::open(folder_of(&self.place))?.sync_all()?;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // There is none any more where it has been renamed.
        let _ = fs::remove_file(&self.part);
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates or replaces `path` with `bytes`.
pub fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, |file| Ok(file.write_all(bytes)?))
}

/// Removes temporary files that killed processes left in `folder`, if they were last modified at least `age` ago.
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

/// Whether a write failed because of the machine and not the program: a full disk, a quota, a read-only mount.
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

/// SHA-256 of a file in lower-case hex. Streams the file, so memory use is constant.
pub fn sha256_file(path: &Path) -> Result<String> {
    let cannot = |error| unreadable(path, error);
    let mut file = File::open(path).map_err(cannot)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(cannot)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// The error for a file or folder that cannot be read: a [`UserError`](crate::UserError) unless the device failed.
pub fn unreadable(path: &Path, error: io::Error) -> anyhow::Error {
    let shown = if path.as_os_str().is_empty() { Path::new(".") } else { path }.display();
    match is_path_error(&error) {
        true => user_error!("cannot read {shown}: {error}"),
        false => anyhow::Error::new(error).context(format!("cannot read {shown}")),
    }
}

/// The error for a folder that cannot be created: a [`UserError`](crate::UserError) unless the device failed.
pub fn uncreated(path: &Path, error: io::Error) -> anyhow::Error {
    match is_path_error(&error) {
        true => user_error!("cannot create {}: {error}", path.display()),
        false => anyhow::Error::new(error).context(format!("cannot create {}", path.display())),
    }
}

/// Whether the path or its permissions caused the error, rather than the device.
fn is_path_error(error: &io::Error) -> bool {
    use std::io::ErrorKind::{
        AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    let kinds = [
        AlreadyExists,
        InvalidFilename,
        InvalidInput,
        IsADirectory,
        NotADirectory,
        NotFound,
        PermissionDenied,
        ReadOnlyFilesystem,
    ];
    // ELOOP (too many symbolic links), whose `ErrorKind` is not stable.
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(40)
}

/// The content of the file at `path`, or `None` if it does not exist. Any other failure to read it is an error.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|error| unreadable(path, error)),
    }
}

/// The subfolders of `folder` with their names, sorted; includes symbolic links if `links`. Empty if `folder` does not exist.
pub fn folders_in(folder: &Path, links: bool) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unreadable(folder, error))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `lost+found` belongs to the file system; it is not a run.
        if (kind.is_dir() || links && kind.is_symlink()) && name != "lost+found" {
            all.push((name, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Makes sure that files can be created in `folder`, and creates the folder if it does not exist. The error message calls the
/// folder `what` and ends with `cure`.
pub fn writable(folder: &Path, what: &str, cure: &str) -> Result<()> {
    let probe = folder.join(format!(".probe.{}", std::process::id()));
    let tried = fs::create_dir_all(folder).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe));
    tried.map_err(|error| user_error!("{what} {} cannot be written: {error}; {cure}", folder.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Longest folder name, in bytes.
const FOLDER_MAX: usize = 255;
/// Bytes kept at the beginning of a longer name, and at its end, which holds the RNG seed and the hash.
const HEAD: usize = 150;
const TAIL: usize = 60;

/// `name` as a portable folder name: unsafe characters become `_`, and an overlong name loses its middle.
pub fn file_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._=+-".contains(c) { c } else { '_' }).collect();
    match clean.as_str() {
        // These would name the folder itself or its parent.
        "" | "." | ".." => "_".repeat(clean.len().max(1)),
        long if long.len() > FOLDER_MAX => format!("{}...{}", &long[..HEAD], &long[long.len() - TAIL..]),
        _ => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_one_valid_path_component_and_valid_names_stay() {
        assert_eq!(file_name("soft-ce-top_k=5+x.y-s0-0123abcd"), "soft-ce-top_k=5+x.y-s0-0123abcd");
        assert_eq!(file_name("cache-x/../../evil-k5-0123abcd"), "cache-x_.._.._evil-k5-0123abcd");
        assert_eq!(file_name("a\\b\0c\u{1b}d|<é>"), "a_b_c_d____");
        assert_eq!(["", ".", "..", "..."].map(file_name), ["_", "_", "__", "..."]);
        let long = |middle: &str| file_name(&format!("{}{middle}-s0-0123abcd", "x".repeat(5000)));
        assert!(long("").len() <= FOLDER_MAX && long("").ends_with("-s0-0123abcd"), "{}", long(""));
        assert_ne!(
            file_name(&format!("{}-s0-0123abcd", "x".repeat(300))),
            file_name(&format!("{}-s0-0123abce", "x".repeat(300)))
        );
        assert_eq!(file_name(&"x".repeat(FOLDER_MAX)), "x".repeat(FOLDER_MAX));
    }
}
