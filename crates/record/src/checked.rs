//! Results as they are read by every verb that shows them: the frames, their provenance, and which frames are not those that were
//! written.
//!
//! Checksums come first: a frame that has its recorded SHA-256 is read as it is, one that has another is told.

use std::path::Path;

use anyhow::Result;

use super::frames::{Frames, NAMES, OPTIONAL, file_of};
use super::provenance::{Provenance, frame_hashes};

/// The results in a folder.
pub struct Checked {
    pub frames: Frames,
    pub provenance: Provenance,
    /// Files of frames that are not those that were written.
    pub changed: Vec<String>,
}

impl Checked {
    /// Reads the results in `folder`; an error names the file that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let provenance = Provenance::read(folder)?;
        let changed = changed(folder, &provenance);
        Ok(Self { frames: Frames::read(folder)?, provenance, changed })
    }

    /// What is wrong with the frames in `folder`, in a sentence; `None` where nothing is.
    pub fn warning(&self, folder: &Path) -> Option<String> {
        warning(folder, &self.changed)
    }
}

/// Files of frames in `folder` whose SHA-256 is not the one that `provenance` records, or of which it records none though every
/// result has them.
pub fn changed(folder: &Path, provenance: &Provenance) -> Vec<String> {
    let found = frame_hashes(folder);
    let differs = |name: &&'static str| {
        let file = file_of(name);
        match (provenance.frames.get(&file), found.get(&file)) {
            (Some(recorded), Some(hash)) => recorded != hash,
            (Some(_), None) => true,
            // Results from before the hash of this frame was recorded; `verify` looks at its numbers.
            (None, _) => *name != OPTIONAL,
        }
    };
    NAMES.into_iter().filter(differs).map(file_of).collect()
}

/// `results/a: evals.parquet differs from provenance.json; …`, where some file is changed.
pub fn warning(folder: &Path, changed: &[String]) -> Option<String> {
    let (files, verb) = match changed {
        [] => return None,
        [one] => (one.clone(), "is not the frame"),
        several => (several.join(", "), "are not the frames"),
    };
    let folder = folder.display();
    Some(format!(
        "{folder}: {files} {verb} that provenance.json records; `hydrometer verify` names what changed, `hydrometer run` writes the \
         frames again"
    ))
}
