//! Checksums of a frame by run and by column: together they locate a number that changed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use crc32fast::Hasher;
use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::frames::Frames;

/// CRC-32 in hex of the rows of each run and of each column of a frame.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub runs: BTreeMap<String, String>,
    pub columns: BTreeMap<String, String>,
}

impl Fingerprint {
    /// The fingerprint of a frame whose first column names the run, or the import, of a row. Numbers are hashed by their bits,
    /// the rows of a run in order.
    pub fn of(frame: &DataFrame) -> Result<Self> {
        let first = frame.columns().first().context("a frame without columns")?;
        let names: Vec<Option<String>> = first.cast(&DataType::String)?.str()?.iter().map(|run| run.map(String::from)).collect();
        let mut runs: BTreeMap<&str, Hasher> = BTreeMap::new();
        let mut columns = BTreeMap::new();
        for column in frame.columns() {
            let mut whole = Hasher::new();
            for (row, run) in names.iter().enumerate() {
                let cell = bytes(&column.get(row)?);
                whole.update(&cell);
                runs.entry(run.as_deref().unwrap_or_default()).or_default().update(&cell);
            }
            columns.insert(column.name().to_string(), hex(whole));
        }
        Ok(Self { runs: runs.into_iter().map(|(run, hasher)| (run.to_string(), hex(hasher))).collect(), columns })
    }

    /// Runs and columns in which `self` and `other` differ.
    pub fn differences(&self, other: &Self) -> (Vec<String>, Vec<String>) {
        (differing(&self.runs, &other.runs), differing(&self.columns, &other.columns))
    }
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let all: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    all.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

fn hex(hasher: Hasher) -> String {
    format!("{:08x}", hasher.finalize())
}

/// A tag, the length and the value, so that different sequences of cells have different bytes.
fn bytes(value: &AnyValue) -> Vec<u8> {
    let (tag, value) = match value {
        AnyValue::Null => (0, Vec::new()),
        AnyValue::Boolean(value) => (1, vec![u8::from(*value)]),
        AnyValue::Int64(value) => (2, value.to_le_bytes().to_vec()),
        AnyValue::Float64(value) => (3, value.to_bits().to_le_bytes().to_vec()),
        other => (4, other.str_value().as_bytes().to_vec()),
    };
    let mut all = vec![tag];
    all.extend((value.len() as u32).to_le_bytes());
    all.extend(value);
    all
}

/// The fingerprints of all frames by file name.
pub fn fingerprints(frames: &Frames) -> Result<BTreeMap<String, Fingerprint>> {
    frames.named().into_iter().map(|(name, frame)| Ok((format!("{name}.parquet"), Fingerprint::of(frame)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::DocumentRow;

    #[test]
    fn a_changed_number_is_located_by_its_run_and_its_column() {
        let row = |run: &str, nll_sum: f64| DocumentRow {
            run: run.into(),
            split: "valid".into(),
            document: "one".into(),
            nll_sum,
            tokens: 7,
        };
        let of = |rows: &[DocumentRow]| Fingerprint::of(&DocumentRow::frame(rows).unwrap()).unwrap();
        let before = of(&[row("a", 1.0), row("b", 2.0)]);
        assert_eq!(before, of(&[row("a", 1.0), row("b", 2.0)]));
        let (runs, columns) = before.differences(&of(&[row("a", 1.0), row("b", 2.0 + f64::EPSILON * 2.0)]));
        assert_eq!((runs, columns), (vec!["b".to_string()], vec!["nll_sum".to_string()]));
        let (runs, _) = before.differences(&of(&[row("a", 1.0)]));
        assert_eq!(runs, ["b"]);
    }
}
