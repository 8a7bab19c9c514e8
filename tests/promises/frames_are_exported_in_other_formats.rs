//! The committed frames as CSV and as TensorBoard events, and comparisons with any arm as reference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hydrometer::record::frames::{CurveRow, EvalRow, Frames};
use serde_json::Value;

use super::lab::Lab;

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results/quickstart")
}

#[test]
fn csv_has_every_number_bit_for_bit() {
    let lab = Lab::new();
    let folder = quickstart();
    lab.ok(&["export", folder.to_str().unwrap(), "--format", "csv", "--out", "out"]);
    let frames = Frames::read(&folder).unwrap();
    for (name, frame) in frames.named() {
        let text = fs::read_to_string(lab.path().join(format!("out/{name}.csv"))).unwrap();
        assert_eq!(text.lines().count(), frame.height() + 1, "{name}");
    }
    let text = fs::read_to_string(lab.path().join("out/evals.csv")).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let nll = head.iter().position(|column| *column == "nll").unwrap();
    let found: Vec<u64> = lines.map(|line| line.split(',').nth(nll).unwrap().parse::<f64>().unwrap().to_bits()).collect();
    let wanted: Vec<u64> = EvalRow::rows(&frames.evals).unwrap().iter().map(|row| row.nll().to_bits()).collect();
    assert_eq!(found, wanted);
}

/// An independent decoder of TensorBoard's event format. The writer's unit tests check the checksums.
fn scalars(bytes: &[u8]) -> BTreeMap<(i64, String), f32> {
    let (mut all, mut rest) = (BTreeMap::new(), bytes);
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let (mut step, mut summary) = (0, Vec::new());
        for (field, value) in fields(&rest[12..12 + length]) {
            match (field, value) {
                (2, Wire::Varint(value)) => step = value as i64,
                (5, Wire::Bytes(value)) => summary = value,
                _ => {}
            }
        }
        for (_, value) in fields(&summary) {
            let Wire::Bytes(value) = value else { panic!("a value is a message") };
            let (mut tag, mut scalar) = (String::new(), None);
            for (field, value) in fields(&value) {
                match (field, value) {
                    (1, Wire::Bytes(text)) => tag = String::from_utf8(text).unwrap(),
                    (2, Wire::Four(bits)) => scalar = Some(f32::from_bits(bits)),
                    _ => panic!("field {field}"),
                }
            }
            all.insert((step, tag), scalar.unwrap());
        }
        rest = &rest[16 + length..];
    }
    all
}

enum Wire {
    Varint(u64),
    Eight,
    Bytes(Vec<u8>),
    Four(u32),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Wire::Varint(varint(&mut bytes)),
            1 => {
                bytes = &bytes[8..];
                Wire::Eight
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                Wire::Bytes(value.to_vec())
            }
            5 => {
                let (value, rest) = bytes.split_at(4);
                bytes = rest;
                Wire::Four(u32::from_le_bytes(value.try_into().unwrap()))
            }
            wire => panic!("wire type {wire}"),
        };
        all.push((key >> 3, value));
    }
    all
}

#[test]
fn tensorboard_events_have_every_step_and_evaluation() {
    let lab = Lab::new();
    let folder = quickstart();
    lab.ok(&["export", folder.to_str().unwrap(), "--format", "tensorboard", "--out", "out"]);
    let frames = Frames::read(&folder).unwrap();
    let read = |run: &str| {
        let files: Vec<PathBuf> =
            fs::read_dir(lab.path().join("out").join(run)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() == 1 && files[0].file_name().unwrap().to_string_lossy().contains("tfevents"), "{files:?}");
        scalars(&fs::read(&files[0]).unwrap())
    };
    let mut runs: BTreeMap<String, BTreeMap<(i64, String), f32>> = BTreeMap::new();
    for row in CurveRow::rows(&frames.curves).unwrap() {
        let found = runs.entry(row.run.clone()).or_insert_with(|| read(&row.run));
        assert_eq!(found[&(row.step, "train/loss".to_string())], row.loss as f32);
        assert_eq!(found.get(&(row.step, "train/retained_mass".to_string())).copied(), row.retained_mass.map(|x| x as f32));
    }
    for row in EvalRow::rows(&frames.evals).unwrap() {
        let found = runs.entry(row.run.clone()).or_insert_with(|| read(&row.run));
        assert_eq!(found[&(row.step, format!("eval/{}/perplexity", row.split))], row.perplexity() as f32);
    }
    assert_eq!(runs.len(), frames.runs.height());
}

/// Oracle: a − b = −(b − a).
#[test]
fn any_arm_can_be_the_reference_of_a_comparison() {
    let lab = Lab::new();
    let folder = quickstart();
    let against = |arm: &str| -> Value {
        let output = lab.run(&["compare", folder.to_str().unwrap(), "--to", arm, "--output", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let difference = |found: &Value, arm: &str, what: &str| -> f64 {
        let cells = found["comparisons"][0]["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["method"] == arm).unwrap();
        cell["difference"]["nll"][what].as_f64().unwrap()
    };
    let (finetune, soft) = (against("finetune"), against("soft-ce"));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    close(difference(&finetune, "soft-ce", "mean"), -difference(&soft, "finetune", "mean"));
    close(difference(&finetune, "soft-ce", "low"), -difference(&soft, "finetune", "high"));
    let output = lab.run(&["compare", folder.to_str().unwrap(), "--to", "nobody"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("it has finetune, soft-ce, logit-mse"), "{said}");
    assert_eq!(lab.run(&["compare", "nowhere"]).status.code(), Some(2));
}
