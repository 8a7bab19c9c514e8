//! What became of the lines of a file: what was read, what was left out, what of a teacher's answers reached the student.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::damage::Tally;
use super::encode::Counts;
use crate::record::store::replace_bytes;

/// A file, or the files of a split, as imported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Import {
    pub tally: Tally,
    /// Examples or documents with something to predict.
    pub examples: u64,
    /// Their targets that count.
    pub targets: u64,
    pub counts: Counts,
    /// Answers that were asked for at each target.
    pub k: u64,
    /// Rows with fewer than `k` usable ids.
    pub short_k: u64,
    /// Sequences that the file has again.
    pub repeated: u64,
}

impl Import {
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_bytes(path, serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// What [`Self::write`] has written; nothing where it has not.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }

    pub fn unmapped_rate(&self) -> Option<f64> {
        rate(self.counts.unmapped, self.counts.entries)
    }

    pub fn duplicate_rate(&self) -> Option<f64> {
        rate(self.counts.duplicate, self.counts.entries)
    }

    pub fn short_k_rate(&self) -> Option<f64> {
        rate(self.short_k, self.counts.rows).filter(|_| self.k > 0)
    }

    pub fn mismatched_rate(&self) -> Option<f64> {
        rate(self.counts.mismatched, self.counts.rows)
    }
}

fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
