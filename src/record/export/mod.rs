//! The frames in formats of others, a file a format.

pub mod csv;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::frames::Frames;
use super::provenance::Provenance;
use super::store::replace_bytes;

/// A format that frames can be taken away in.
pub trait Export {
    /// The files, with their paths inside a folder. The same frames give the same bytes.
    fn files(&self, frames: &Frames, provenance: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>>;
}

/// Writes what `format` makes of the frames of `results` into `out`; returns the paths.
pub fn export(format: &dyn Export, results: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let files = format.files(&Frames::read(results)?, &Provenance::read(results)?)?;
    let write = |(name, bytes): (PathBuf, Vec<u8>)| {
        let path = out.join(name);
        let folder = path.parent().unwrap_or(out);
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        replace_bytes(&path, &bytes)?;
        Ok(path)
    };
    files.into_iter().map(write).collect()
}
