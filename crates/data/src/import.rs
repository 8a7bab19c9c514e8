//! The import report of a file: lines read and skipped, and how many of the teacher's logprobs reached the student.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::replace_bytes;
use serde::{Deserialize, Serialize};

use super::answers::Counts;
use super::line_error::Tally;

/// The report for a file, or for the files of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Import {
    pub tally: Tally,
    /// Examples or documents with at least one target.
    pub examples: u64,
    /// Their targets that count.
    pub targets: u64,
    pub counts: Counts,
    /// Number of logprobs wanted per target.
    pub k: u64,
    /// Rows with fewer than `k` usable ids.
    pub short_k: u64,
    /// Duplicate sequences.
    pub repeated: u64,
    /// The cost of the logprobs, if an endpoint provided them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Charged>,
}

/// What was requested from an endpoint, and what it charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Charged {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Known only if a price is.
    pub cost: Option<f64>,
}

impl Import {
    /// Adds the report of a later import.
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

    /// Writes the report as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_bytes(path, serde_json::to_string_pretty(self)?.as_bytes())
    }

    /// Reads what [`Self::write`] wrote; `None` if the file is missing or damaged.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }

    /// Prints a summary for teacher `name` on standard error.
    pub fn say(&self, name: &str) {
        let percent = |rate: Option<f64>| rate.map_or("none".to_string(), |rate| format!("{:.2}%", 100.0 * rate));
        tracing::info!(
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
            tracing::info!("teacher {name}: {words}");
        }
    }

    /// Share of the listed ids that the student's vocabulary does not have, in [0, 1]; `None` without ids, as for all rates.
    pub fn unmapped_rate(&self) -> Option<f64> {
        rate(self.counts.unmapped, self.counts.entries)
    }

    /// Share of the listed ids that repeat another id of their row.
    pub fn duplicate_rate(&self) -> Option<f64> {
        rate(self.counts.duplicate, self.counts.entries)
    }

    /// Share of the rows with fewer than `k` usable ids.
    pub fn short_k_rate(&self) -> Option<f64> {
        rate(self.short_k, self.counts.rows).filter(|_| self.k > 0)
    }

    /// Share of the rows whose teacher read a different context than the student does.
    pub fn mismatched_rate(&self) -> Option<f64> {
        rate(self.counts.mismatched, self.counts.rows)
    }
}

fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
