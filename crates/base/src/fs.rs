//! Files that are whole or absent: written beside their place, synced, then renamed.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::user_error;

/// Creates or replaces `path` with what `write` puts into the file. A crash leaves the old file or the new one, never half.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace_by_name(path, |part| write(&mut File::create(part)?))
}

/// The same for a `write` that opens the file itself, under the name it is given.
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

/// The error of a file or folder that cannot be read: the user's to mend, unless the device fails.
pub fn unreadable(path: &Path, error: io::Error) -> anyhow::Error {
    let shown = if path.as_os_str().is_empty() { Path::new(".") } else { path }.display();
    match theirs(&error) {
        true => user_error!("cannot read {shown}: {error}"),
        false => anyhow::Error::new(error).context(format!("cannot read {shown}")),
    }
}

/// The same of a folder that cannot be made.
pub fn uncreated(path: &Path, error: io::Error) -> anyhow::Error {
    match theirs(&error) {
        true => user_error!("cannot create {}: {error}", path.display()),
        false => anyhow::Error::new(error).context(format!("cannot create {}", path.display())),
    }
}

/// Whether a path or its rights are why, rather than the device.
fn theirs(error: &io::Error) -> bool {
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
    // Too many symbolic links, whose kind has no stable name.
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(40)
}

/// What the file at `path` holds; `None` where there is none. That it cannot be read does not mean that it is not there.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|error| unreadable(path, error)),
    }
}

/// The folders in `folder` with their names, links among them where `links`, sorted; none where there is no such folder.
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
        // What a file system keeps for itself is nobody's run.
        if (kind.is_dir() || links && kind.is_symlink()) && name != "lost+found" {
            all.push((name, entry.path()));
        }
    }
    all.sort();
    Ok(all)
}

/// Makes sure that files can be made in `folder`, which is made where there is none; `what` is it in a sentence, and `cure` what
/// helps.
pub fn writable(folder: &Path, what: &str, cure: &str) -> Result<()> {
    let probe = folder.join(format!(".probe.{}", std::process::id()));
    let tried = fs::create_dir_all(folder).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe));
    tried.map_err(|error| user_error!("{what} {} cannot be written: {error}; {cure}", folder.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Longest name of a folder, in bytes.
const FOLDER_MAX: usize = 255;
/// What is kept of a longer one: how it begins, and the seed and the hash in which it ends.
const HEAD: usize = 150;
const TAIL: usize = 60;

/// `name` as that of a folder: what a file system might not like becomes `_`, and what is too long for one loses its middle.
pub fn file_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._=+-".contains(c) { c } else { '_' }).collect();
    match clean.as_str() {
        // The folder itself, or the one above.
        "" | "." | ".." => "_".repeat(clean.len().max(1)),
        long if long.len() > FOLDER_MAX => format!("{}...{}", &long[..HEAD], &long[long.len() - TAIL..]),
        _ => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_one_component_that_any_file_system_takes_and_clean_ones_are_kept() {
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
