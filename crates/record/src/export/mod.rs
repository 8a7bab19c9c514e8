//! Exports of the frames to other formats, one file per format.

pub mod csv;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{replace_bytes, writable};

use super::checked::Checked;
use super::frames::Frames;
use super::provenance::Provenance;

/// A format that frames can be exported to.
pub trait Export {
    /// The files, with their paths relative to the output folder. The same frames give the same bytes.
    fn files(&self, frames: &Frames, provenance: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>>;
}

/// Writes `results` in `format` into the folder `out`; returns the paths.
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

/// The remedy if `--out` cannot be written.
pub const ANOTHER: &str = "choose another with --out DIR";
