//! Oracle: transformers in f64 on the same folders, recorded in their `golden.json` and `golden.safetensors`.

use std::process::Output;

use hydrometer::dist::Mesh;
use hydrometer::model::hf;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder};
use super::lab::program;

fn eval(checkpoint: &str, data: &str, more: &[&str]) -> Output {
    let mut command = program();
    command.args(["eval", "--output", "json", "--model"]).arg(folder(checkpoint)).arg("--data").arg(folder(data)).args(more);
    command.output().unwrap()
}

fn measured(checkpoint: &str, more: &[&str]) -> Value {
    let output = eval(checkpoint, "text.jsonl", more);
    assert!(output.status.success(), "{checkpoint} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn golden(checkpoint: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(checkpoint).join("golden.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["cases"].as_array().unwrap().clone()
}

/// Evaluates with the windows of `expected` and asserts that the results agree; returns them.
fn agrees(checkpoint: &str, expected: &Value, more: &[&str], tolerance: f64) -> Value {
    let (context, stride) = (expected["context"].to_string(), expected["stride"].to_string());
    let found = measured(checkpoint, &[&["--context", &context, "--stride", &stride], more].concat());
    let close = |what: &str| {
        let (a, b) = (found[what].as_f64().unwrap(), expected[what].as_f64().unwrap());
        assert!((a - b).abs() <= tolerance * b, "{checkpoint} {expected} {more:?}: {what} {a}");
    };
    close("nll");
    close("bits_per_byte");
    assert_eq!(found["perplexity"].as_f64().unwrap(), found["nll"].as_f64().unwrap().exp());
    for what in ["tokens", "documents"] {
        assert_eq!(found[what], expected[what], "{checkpoint} {more:?}: {what}");
    }
    if tolerance < 1e-3 {
        assert_eq!(found["token_accuracy"], expected["token_accuracy"], "{checkpoint} {more:?}");
    }
    found
}

#[test]
fn evaluations_agree_for_every_window_on_one_rank() {
    for checkpoint in CHECKPOINTS {
        for case in golden(checkpoint) {
            agrees(checkpoint, &case, &[], 1e-6);
        }
    }
}

/// The fixtures have 4 attention heads, 1 to 4 key and value heads, and a vocabulary of 97.
#[test]
fn evaluations_agree_on_two_and_four_tensor_parallel_ranks() {
    for checkpoint in CHECKPOINTS {
        let cases = golden(checkpoint);
        // Calibration uses the most likely token of the whole vocabulary, not of a shard.
        let ece = |ranks: &[&str]| agrees(checkpoint, &cases[2], ranks, 1e-6)["ece"].as_f64().unwrap();
        let (one, two) = (ece(&[]), ece(&["--tp", "2"]));
        agrees(checkpoint, &cases[0], &["--tp", "4"], 1e-6);
        assert!(one > 0.0 && one < 1.0 && (two - one).abs() <= 1e-5 * one, "{checkpoint}: {one} {two}");
    }
}

/// bf16 has 8 significant bits: rounding alone changes these NLLs by a few parts per thousand.
#[test]
fn evaluations_in_bf16_agree_within_its_rounding() {
    for checkpoint in CHECKPOINTS {
        agrees(checkpoint, &golden(checkpoint)[0], &["--precision", "bf16"], 1e-2);
    }
}

#[test]
fn every_logit_agrees() {
    for checkpoint in CHECKPOINTS {
        let golden = Tensor::read_safetensors(folder(checkpoint).join("golden.safetensors")).unwrap();
        let get = |name: &str| &golden.iter().find(|(found, _)| found == name).unwrap().1;
        let mesh = Mesh::single(Device::Cpu);
        let decoder = hf::open(&folder(checkpoint)).unwrap().decoder(64, Kind::Float, &mesh).unwrap();
        let found = tch::no_grad(|| decoder.logits(&get("ids").unsqueeze(0), &mesh.tp)).unwrap().squeeze_dim(0);
        let expected = get("logits");
        let worst = (found - expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]);
        assert!(worst <= 1e-5 * scale, "{checkpoint}: off by {worst} of {scale}");
    }
}
