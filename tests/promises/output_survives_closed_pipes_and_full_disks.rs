//! A closed pipe ends the output but not the work, a full disk is reported, and JSON output is one document. Oracle: POSIX pipes,
//! `/dev/full`, and serde_json.

use std::fs::File;
use std::io::pipe;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tch::Tensor;

use super::fixtures;
use super::lab::Lab;

/// A finished experiment, and the inputs of the other verbs.
fn lab() -> Lab {
    let lab = Lab::trained();
    let row = |values: [f32; 4]| Tensor::from_slice(&values).view([1, 4]);
    let case = [("logits", row([0.3, -1.2, 2.0, 0.7])), ("labels", Tensor::from_slice(&[2i64]))];
    Tensor::write_safetensors(&case, lab.path().join("in.safetensors")).unwrap();
    lab
}

/// A successful call of every verb. Outputs that must not exist yet get names with `round`.
fn verbs(round: usize) -> Vec<String> {
    let (model, text) = (fixtures::folder("llama"), fixtures::folder("text.jsonl"));
    let (model, text) = (model.display(), text.display());
    [
        "plan lab.toml".to_string(),
        "run lab.toml".into(),
        "status lab.toml".into(),
        "why finetune-s0".into(),
        "report lab.toml".into(),
        "compare results/lab".into(),
        "verify lab.toml".into(),
        "export results/lab --format csv --out csv".into(),
        format!("export finetune-s0 --out hf-{round}"),
        "data train.txt".into(),
        format!("eval --model {model} --data {text} --context 64"),
        format!("teach --model {model} --data {text} --context 64 --top-k 3 --out cache"),
        "teach --inspect cache".into(),
        "teach --export metaseq-jsonl --cache cache --out out.jsonl".into(),
        "loss --case in.safetensors --objective hard-ce --out out.safetensors".into(),
        "doctor".into(),
    ]
    .into()
}

/// A pipe whose reading end is closed.
fn closed() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn run(lab: &Lab, flags: &[&str], verb: &str, stdout: Stdio, stderr: Stdio) -> Output {
    let arguments: Vec<&str> = flags.iter().copied().chain(verb.split(' ')).collect();
    lab.command(&arguments).stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn every_verb_prints_one_document_survives_a_closed_pipe_and_reports_a_full_disk() {
    let lab = lab();
    for (index, verb) in verbs(0).iter().enumerate() {
        let said = run(&lab, &["--output", "json"], verb, Stdio::piped(), Stdio::piped());
        let document = serde_json::from_slice::<Value>(&said.stdout);
        assert!(document.is_ok(), "{verb}: {document:?} of {:?}", String::from_utf8_lossy(&said.stdout));
        let left = run(&lab, &[], &verbs(1)[index], closed(), closed());
        assert_eq!(left.status.code(), Some(0), "{verb} with closed outputs");
        let left = run(&lab, &["--output", "json"], &verbs(2)[index], full(), Stdio::piped());
        let stderr = String::from_utf8_lossy(&left.stderr);
        assert_eq!(left.status.code(), Some(1), "{verb}: {stderr}");
        let sentence = "hydrometer: cannot write to standard output: No space left on device";
        assert_eq!(stderr.lines().filter(|line| line.starts_with(sentence)).count(), 1, "{verb}: {stderr}");
    }
}

#[test]
fn help_and_errors_survive_a_closed_pipe() {
    let lab = Lab::new();
    for (arguments, code) in
        [("--help", 0), ("plan --help", 0), ("--version", 0), ("plan nowhere.toml", 2), ("plan", 2), ("plan --nonsense", 2)]
    {
        for stderr in [closed(), full()] {
            assert_eq!(run(&lab, &[], arguments, closed(), stderr).status.code(), Some(code), "{arguments:?}");
        }
    }
    assert_eq!(run(&lab, &[], "--help", full(), Stdio::piped()).status.code(), Some(1));
}

#[test]
fn an_export_to_stdout_stops_with_its_reader_and_refuses_output_json() {
    let lab = Lab::new();
    let (model, text) = (fixtures::folder("llama"), fixtures::folder("text.jsonl"));
    let text_of = |path: &Path| path.to_str().unwrap().to_string();
    lab.ok(&[
        "teach",
        "--model",
        &text_of(&model),
        "--data",
        &text_of(&text),
        "--context",
        "64",
        "--top-k",
        "3",
        "--out",
        "cache",
    ]);
    for format in ["metaseq-jsonl", "parquet"] {
        let export = format!("teach --export {format} --cache cache");
        assert_eq!(run(&lab, &[], &export, closed(), Stdio::piped()).status.code(), Some(0), "{format}");
        let left = run(&lab, &[], &export, full(), Stdio::piped());
        assert_eq!(left.status.code(), Some(1), "{}", String::from_utf8_lossy(&left.stderr));
        let json = run(&lab, &["--output", "json"], &export, Stdio::piped(), Stdio::piped());
        assert_eq!((json.status.code(), json.stdout.len()), (Some(2), 0));
        assert!(String::from_utf8_lossy(&json.stderr).contains("pass --out FILE"));
    }
}

#[test]
fn a_sweep_continues_when_nobody_reads_its_output() {
    let lab = Lab::new();
    let left = run(&lab, &[], "run lab.toml", closed(), closed());
    assert_eq!(left.status.code(), Some(0));
    let status = lab.run(&["status", "lab.toml", "--output", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["done"], &status["total"]), (&Value::from(3), &Value::from(3)));
    assert!(lab.path().join("results/lab/report.html").exists());
}
