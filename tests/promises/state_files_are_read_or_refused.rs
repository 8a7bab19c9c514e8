//! Random damage to a journal, a cache, the frames, their provenance or the input of `loss` causes no panic, no signal and no wrong
//! number. Oracle: the kind of the error in the library, the exit code of a verb.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hydrometer::UserError;
use hydrometer::record::frames::Frames;
use hydrometer::record::journal::{self, Event};
use hydrometer::record::provenance::Provenance;
use rand::RngExt;
use serde_json::Value;
use tch::Tensor;

use super::fixtures::folder;
use super::lab::Lab;
use super::mutation::{of_bytes, of_value, rounds};

/// The result of `read`, or `None` for a one-line [`UserError`]. Any other error or a panic fails the test.
fn read_or_refused<T>(what: &str, read: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| panic!("{what}: a panic")) {
        Ok(found) => Some(found),
        Err(error) => {
            assert!(error.is::<UserError>(), "{what}: no mistake of the user's: {error:?}");
            assert_eq!(error.to_string().lines().count(), 1, "{what}: {error}");
            None
        }
    }
}

/// Runs a verb and asserts that it exits with one of `codes` and, unless that is 0, prints an error. Returns the code.
fn ends_with(lab: &Lab, what: &str, arguments: &[&str], codes: &[i32]) -> i32 {
    let output = lab.run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let code = output.status.code().unwrap_or_else(|| panic!("{what}: a signal: {said}"));
    assert!(codes.contains(&code) && !said.contains("panicked") && !said.contains("internal error"), "{what}: {code}: {said}");
    assert!(code == 0 || !said.trim().is_empty(), "{what}: nothing is said");
    code
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

#[test]
fn damaged_journals_lose_lines_and_gain_none() {
    let lab = Lab::trained();
    let journals: Vec<(PathBuf, Vec<u8>)> = files(&lab.path().join("runs"))
        .into_iter()
        .filter(|path| path.ends_with("journal.jsonl"))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(journals.len() >= 3, "at least a teacher, a cache and a student");
    let path = lab.path().join("journal.jsonl");
    for (round, mut random) in rounds(600) {
        let (from, whole) = &journals[round as usize % journals.len()];
        let damaged = of_bytes(whole, &mut random);
        std::fs::write(&path, &damaged).unwrap();
        let what = format!("round {round} of {}", from.display());
        let events = read_or_refused(&what, || journal::read(&path)).unwrap_or_default();
        // A line is accepted only if it was written like that: its checksum matches.
        let written: Vec<String> = String::from_utf8_lossy(whole).lines().map(str::to_string).collect();
        let counted = String::from_utf8_lossy(&damaged).lines().filter(|line| journal::parse_line(line).is_some()).count();
        let known = String::from_utf8_lossy(&damaged).lines().filter(|line| written.iter().any(|one| one == line)).count();
        assert_eq!(counted, known, "{what}: a damaged line is accepted");
        assert!(events.iter().filter(|event| !matches!(event, Event::Torn { .. })).count() <= counted, "{what}");
        let _ = journal::whole_steps(&events);
    }
}

#[test]
fn damaged_frames_and_provenance_are_read_or_refused_and_never_verified() {
    let lab = Lab::trained();
    let results = lab.path().join("results/lab");
    let names = ["runs.parquet", "curves.parquet", "evals.parquet", "documents.parquet", "imports.parquet", "provenance.json"];
    let whole: BTreeMap<&str, Vec<u8>> = names.iter().map(|name| (*name, std::fs::read(results.join(name)).unwrap())).collect();
    for (round, mut random) in rounds(240) {
        let name = names[round as usize % names.len()];
        let damaged = match (name, random.random_range(0..2)) {
            ("provenance.json", 0) => {
                let mut value: Value = serde_json::from_slice(&whole[name]).unwrap();
                of_value(&mut value, &mut random);
                value.to_string().into_bytes()
            }
            _ => of_bytes(&whole[name], &mut random),
        };
        std::fs::write(results.join(name), &damaged).unwrap();
        let what = format!("round {round}: {name}");
        read_or_refused(&what, || Frames::read(&results));
        read_or_refused(&what, || Provenance::read(&results));
        // The verbs only in some rounds, since starting a process is slow.
        if round % 8 < 2 {
            let changed = damaged != whole[name] && name != "provenance.json";
            ends_with(&lab, &what, &["verify", "lab.toml"], if changed { &[4] } else { &[0, 4] });
            ends_with(&lab, &what, &["compare", "results/lab"], &[0, 2, 4]);
            ends_with(&lab, &what, &["export", "results/lab", "--format", "csv", "--out", "csv"], &[0, 2, 4]);
        }
        std::fs::write(results.join(name), &whole[name]).unwrap();
    }
    ends_with(&lab, "whole again", &["verify", "lab.toml"], &[0]);
}

#[test]
fn damaged_caches_are_refused_in_one_line() {
    let lab = Lab::new();
    lab.write("text.jsonl", "{\"text\": \"The old mill ran past the river, and the river ran.\"}\n");
    let model = folder("../chat");
    let model = model.to_str().unwrap();
    lab.ok(&["teach", "--model", model, "--data", "text.jsonl", "--top-k", "4", "--out", "cache"]);
    ends_with(&lab, "whole", &["teach", "--inspect", "cache"], &[0]);
    let all: Vec<(PathBuf, Vec<u8>)> =
        files(&lab.path().join("cache")).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    for (round, mut random) in rounds(48) {
        let (path, whole) = &all[round as usize % all.len()];
        let what = format!("round {round} of {}", path.display());
        let json: Option<Value> = serde_json::from_slice(whole).ok();
        let damaged = match json {
            Some(mut value) if random.random_range(0..2) == 0 => {
                of_value(&mut value, &mut random);
                value.to_string().into_bytes()
            }
            _ => of_bytes(whole, &mut random),
        };
        std::fs::write(path, damaged).unwrap();
        ends_with(&lab, &what, &["teach", "--inspect", "cache"], &[0, 2]);
        std::fs::write(path, whole).unwrap();
    }
}

#[test]
fn damaged_inputs_of_loss_give_finite_numbers_or_a_one_line_error() {
    let lab = Lab::new();
    let (n, v, k) = (3, 6, 2);
    let tensors = [
        ("logits", Tensor::arange(n * v, (tch::Kind::Float, tch::Device::Cpu)).view([n, v]) * 0.1),
        ("target_ids", Tensor::from_slice(&[2i64, 5, 0, 3, 4, 1]).view([n, k])),
        ("target_logprobs", Tensor::from_slice(&[-0.5f32, -1.5, -0.2, -2.5, -0.9, -1.0]).view([n, k])),
        ("labels", Tensor::from_slice(&[1i64, 3, 4])),
    ];
    let path = lab.path().join("in.safetensors");
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let objectives = ["soft-ce", "kl-reverse", "logit-mse", "hard-ce"];
    for (round, mut random) in rounds(48) {
        std::fs::write(&path, of_bytes(&whole, &mut random)).unwrap();
        let objective = objectives[round as usize % objectives.len()];
        let out = lab.path().join("out.safetensors");
        let _ = std::fs::remove_file(&out);
        let arguments = ["loss", "--case", "in.safetensors", "--objective", objective, "--out", "out.safetensors"];
        let what = format!("round {round}, {objective}");
        match ends_with(&lab, &what, &arguments, &[0, 2]) {
            0 => {
                for (name, tensor) in Tensor::read_safetensors(&out).unwrap() {
                    assert!(bool::try_from(tensor.isfinite().all()).unwrap(), "{what}: {name} is not finite");
                }
            }
            _ => assert!(!out.exists(), "{what}: refused, but written"),
        }
    }
}
