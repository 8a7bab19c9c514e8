//! What became of the lines of a file: what was read, what was left out, what of a teacher's answers reached the student.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::note;
use serde::{Deserialize, Serialize};

use super::answers::Counts;
use super::line_error::Tally;

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
    /// What the answers cost, where they were asked of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Charged>,
}

/// What an endpoint was asked, and what it charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Charged {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Where a price is known.
    pub cost: Option<f64>,
}

impl Import {
    /// Adds what was imported later.
    pub fn add(&mut self, more: &Self) {
        self.tally.lines += more.tally.lines;
        self.examples += more.examples;
        self.targets += more.targets;
        self.counts.add(&more.counts);
        self.k = more.k;
        self.short_k += more.short_k;
        self.repeated += more.repeated;
        self.charged = more.charged.or(self.charged);
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        replace_bytes(path, serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// What [`Self::write`] has written; nothing where it has not.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }

    /// Says on standard error what became of the answers of teacher `name`.
    pub fn say(&self, name: &str) {
        let percent = |rate: Option<f64>| rate.map_or("none".to_string(), |rate| format!("{:.2}%", 100.0 * rate));
        note!(
            "teacher {name}: {} examples, {} rows of answers; ids unmapped {}, duplicate {}; rows short of {} ids {}, of another \
             context {}",
            self.examples,
            self.counts.rows,
            percent(self.unmapped_rate()),
            percent(self.duplicate_rate()),
            self.k,
            percent(self.short_k_rate()),
            percent(self.mismatched_rate()),
        );
        if let Some(words) = self.tally.words() {
            note!("teacher {name}: {words}");
        }
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
