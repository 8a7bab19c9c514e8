//! Oracle: Hugging Face's Python tokenizers, whose ids for published pre-tokenizer rules on difficult text are in
//! tests/fixtures/rules/golden.json (made by make_rules.py), and transformers' NLL in f64 of two tiny models that differ only in their
//! rule.

use std::fs;
use std::path::PathBuf;

use hydrometer::data::tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::folder;
use super::lab::program;

fn rules(name: &str) -> PathBuf {
    folder("../rules").join(name)
}

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&fs::read(rules(name)).unwrap()).unwrap()
}

#[test]
fn every_rule_gives_the_same_ids_for_every_text() {
    let lab = TempDir::new().unwrap();
    let golden = json_of("golden.json");
    let texts = golden["texts"].as_array().unwrap();
    for (name, rule) in golden["rules"].as_object().unwrap() {
        let mut file = golden["tokenizer"].clone();
        for part in ["normalizer", "pre_tokenizer"] {
            file[part] = rule[part].clone();
        }
        let path = lab.path().join("tokenizer.json");
        fs::write(&path, file.to_string()).unwrap();
        let opened = tokenizer::open(&path).unwrap();
        for (text, ids) in texts.iter().zip(rule["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(json!(tokenizer::encode(&opened, text, true).unwrap().get_ids()), *ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_rule_that_groups_digits_gives_the_same_nll() {
    let expected = json_of("expected.json");
    for name in ["cl100k", "qwen2"] {
        let mut command = program();
        command.arg("eval").arg("--model").arg(rules(name)).arg("--data").arg(rules("numbers.jsonl"));
        let output = command.args(["--output", "json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["tokens"], expected[name]["tokens"], "{name}");
        let nll = |value: &Value| value["nll"].as_f64().unwrap();
        assert!((nll(&found) / nll(&expected[name]) - 1.0).abs() < 1e-5, "{name}: {found}");
    }
}

/// An invalid rule, and rules that do not terminate on some text: a one-line error, exit code 2, and no truncated text.
#[test]
fn a_failing_rule_is_reported() {
    let lab = TempDir::new().unwrap();
    let evaluate = |rule: &str, text: &str| {
        for name in ["config.json", "model.safetensors"] {
            fs::copy(rules("qwen2").join(name), lab.path().join(name)).unwrap();
        }
        let mut file = json_of("qwen2/tokenizer.json");
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(rule);
        fs::write(lab.path().join("tokenizer.json"), file.to_string()).unwrap();
        let data = lab.path().join("data.jsonl");
        fs::write(&data, json!({ "text": text }).to_string()).unwrap();
        let mut command = program();
        let output = command.arg("eval").arg("--model").arg(lab.path()).arg("--data").arg(data).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for rule in ["(", "[a", "(?<x", "\\p{Nonesuch}", "*"] {
        let (code, said) = evaluate(rule, "The old mill.");
        assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{rule}: {said}");
        assert!(said.contains("tokenizer.json: not a tokenizer.json: "), "{rule}: {said}");
    }
    let (code, said) = evaluate("(?:a|aa)+[bc]|.", &"a".repeat(60));
    assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("tokenizer.json cannot cut \"aaaa"), "{said}");
    assert!(said.contains("retry-limit"), "{said}");
}
