//! The frames in formats of others, a file a format.

pub mod csv;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{replace_bytes, writable};

use super::checked::Checked;
use super::frames::Frames;
use super::provenance::Provenance;

/// A format that frames can be taken away in.
pub trait Export {
    /// The files, with their paths inside a folder. The same frames give the same bytes.
    fn files(&self, frames: &Frames, provenance: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>>;
}

/// Writes what `format` makes of `results` into `out`; returns the paths.
pub fn export(format: &dyn Export, results: &Checked, out: &Path) -> Result<Vec<PathBuf>> {
    let files = format.files(&results.frames, &results.provenance)?;
    let folder_of = |path: &Path| path.parent().unwrap_or(out).to_path_buf();
    writable(out, "the folder", ANOTHER)?;
    files
        .into_iter()
        .map(|(name, bytes)| {
            let path = out.join(name);
            writable(&folder_of(&path), "the folder", ANOTHER)?;
            replace_bytes(&path, &bytes)?;
            Ok(path)
        })
        .collect()
}

/// What helps where `--out` cannot be written.
pub const ANOTHER: &str = "choose another with --out DIR";
