//! Results as every subcommand that shows them reads them: the frames, their provenance, and the frames that were changed since
//! they were written.
//!
//! A frame counts as changed if its SHA-256 is not the recorded one.

use std::path::Path;

use anyhow::Result;

use super::frames::{Frames, IMPORTS, NAMES, OPTIONAL, file_of};
use super::provenance::{Provenance, frame_hashes};

/// The results in a folder.
pub struct Checked {
    pub frames: Frames,
    pub provenance: Provenance,
    /// Files of frames that have changed since they were written.
    pub changed: Vec<String>,
}

impl Checked {
    /// Reads the results in `folder`; an error names the file that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let provenance = Provenance::read(folder)?;
        let changed = changed(folder, &provenance);
        Ok(Self { frames: Frames::read(folder)?, provenance, changed })
    }

    /// A sentence on the changed frames in `folder`; `None` if there are none.
    pub fn warning(&self, folder: &Path) -> Option<String> {
        warning(folder, &self.changed)
    }
}

/// Files of frames in `folder` whose SHA-256 differs from the one in `provenance`, or is missing there although every result
/// records it.
pub fn changed(folder: &Path, provenance: &Provenance) -> Vec<String> {
    let found = frame_hashes(folder);
    let differs = |name: &&'static str| {
        let file = file_of(name);
        match (provenance.frames.get(&file), found.get(&file)) {
            (Some(recorded), Some(hash)) => recorded != hash,
            (Some(_), None) => true,
            // Results that predate the hash of this frame; `verify` checks its numbers.
            (None, Some(_)) => *name != IMPORTS,
            (None, None) => !OPTIONAL.contains(name),
        }
    };
    NAMES.into_iter().filter(differs).map(file_of).collect()
}

/// `results/a: evals.parquet is not the frame that provenance.json records; …`, if a file is changed.
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
