//! TensorBoard's event files: one folder per run, scalars by step.
//!
//! A file is a sequence of TFRecords. Each consists of length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes.
//! The bytes are an `Event` in protocol buffers (tensorflow/core/lib/io/record_writer.h, core/util/event.proto,
//! core/framework/summary.proto). Both are small enough to write here without a crate for either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::file_name;

use super::Export;
use crate::frames::{CurveRow, EvalRow, Frames, RunRow};
use crate::provenance::Provenance;
use crate::steps::STEP_METRICS;

/// `<run>/events.out.tfevents.*`: `train/…` of every step, `eval/<split>/…` of every evaluation, in single precision. Times are
/// those of the training steps, as if every run had ended when the experiment did.
pub struct TensorBoard;

impl Export for TensorBoard {
    fn files(&self, frames: &Frames, provenance: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let (mut curves, mut evals): (BTreeMap<String, Vec<CurveRow>>, BTreeMap<String, Vec<EvalRow>>) = Default::default();
        for row in CurveRow::rows(&frames.curves)? {
            curves.entry(row.run.clone()).or_default().push(row);
        }
        for row in EvalRow::rows(&frames.evals)? {
            evals.entry(row.run.clone()).or_default().push(row);
        }
        let runs = RunRow::rows(&frames.runs)?.into_iter();
        let written = runs.filter(|row| curves.contains_key(&row.run) || evals.contains_key(&row.run));
        let file = |row: RunRow| {
            let begun = provenance.finished_at as f64 - row.wall_s.unwrap_or(0.0);
            let none = (Vec::new(), Vec::new());
            let (steps, evals) = (curves.get(&row.run).unwrap_or(&none.0), evals.get(&row.run).unwrap_or(&none.1));
            // TensorBoard finds files by `tfevents` in the name and orders them by the number after it.
            let name = format!("events.out.tfevents.{:010}.hydrometer", provenance.finished_at.max(0));
            (Path::new(&file_name(&row.run)).join(name), events(begun, steps, evals))
        };
        Ok(written.map(file).collect())
    }
}

fn events(begun: f64, steps: &[CurveRow], evals: &[EvalRow]) -> Vec<u8> {
    let mut out = Vec::new();
    record(&mut out, &event(begun, 0, Field::Text(3, "brain.Event:2")));
    let mut seconds = 0.0;
    let mut times = BTreeMap::new();
    let mut before = 0;
    for row in steps {
        let spent = (row.tokens - before) as f64 / row.tokens_per_s;
        seconds += if spent.is_finite() { spent } else { 0.0 };
        (before, _) = (row.tokens, times.insert(row.step, seconds));
        let tagged = STEP_METRICS.iter().filter_map(|item| Some((format!("train/{}", item.column), (item.value)(row)?)));
        let values: Vec<(String, f64)> = tagged.collect();
        record(&mut out, &event(begun + seconds, row.step, Field::Bytes(5, summary(&values))));
    }
    for row in evals {
        let tagged = row.scores.there().map(|(metric, value)| (format!("eval/{}/{}", row.split, metric.name()), value));
        let values: Vec<(String, f64)> = tagged.collect();
        let time = begun + times.get(&row.step).copied().unwrap_or(0.0);
        record(&mut out, &event(time, row.step, Field::Bytes(5, summary(&values))));
    }
    out
}

/// A field of a protocol-buffer message with its number.
enum Field<'a> {
    Double(u32, f64),
    Float(u32, f32),
    Varint(u32, u64),
    Text(u32, &'a str),
    Bytes(u32, Vec<u8>),
}

fn put(out: &mut Vec<u8>, field: Field) {
    let mut tagged = |number: u32, wire: u32, value: &[u8]| {
        out.extend(varint(u64::from(number << 3 | wire)));
        out.extend(value);
    };
    match field {
        Field::Double(number, value) => tagged(number, 1, &value.to_le_bytes()),
        Field::Float(number, value) => tagged(number, 5, &value.to_le_bytes()),
        Field::Varint(number, value) => tagged(number, 0, &varint(value)),
        Field::Text(number, value) => tagged(number, 2, &[varint(value.len() as u64), value.as_bytes().to_vec()].concat()),
        Field::Bytes(number, value) => tagged(number, 2, &[varint(value.len() as u64), value].concat()),
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// `Event { wall_time = 1, step = 2, what }`.
fn event(wall_time: f64, step: i64, what: Field) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, Field::Double(1, wall_time));
    put(&mut out, Field::Varint(2, step as u64));
    put(&mut out, what);
    out
}

/// `Summary { repeated Value { tag = 1, simple_value = 2 } = 1 }`.
fn summary(values: &[(String, f64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        put(&mut one, Field::Text(1, tag));
        put(&mut one, Field::Float(2, *value as f32));
        put(&mut out, Field::Bytes(1, one));
    }
    out
}

fn record(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = (bytes.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(bytes);
    out.extend(masked(crc32c(bytes)).to_le_bytes());
}

/// The masking of TFRecords, which avoids problems with checksums of data that contains checksums.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: the files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: RFC 3720, B.4, the vectors of CRC-32C.
    #[test]
    fn the_checksum_agrees_with_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Oracle: the bytes that TensorBoard 2.21's own `RecordWriter` writes of this event.
    #[test]
    fn a_record_is_what_tensorboard_writes() {
        let mut out = Vec::new();
        record(&mut out, &event(1.5, 300, Field::Bytes(5, summary(&[("train/loss".into(), 0.25)]))));
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "2100000000000000017becf609000000000000f83f10ac022a130a110a0a747261696e2f6c6f7373150000803e6557981f");
    }
}
