//! 100,000 lines, 1% of them damaged in ten ways: reading stops at the first with its file, line and reason, or counts each kind.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use super::lab::Lab;

/// The ten kinds, each with an example line.
const DAMAGE: [(&str, &[u8]); 10] = [
    ("not-utf8", b"{\"src\": \"a\xff\", \"tgt\": \"b\"}"),
    ("torn", b"{\"src\": \"a\", \"tgt\": \"b"),
    ("not-json", b"{\"src\": \"a\", \"tgt\": b}"),
    ("not-an-object", b"[\"a\", \"b\"]"),
    ("missing-key", b"{\"src\": \"a\", \"target\": \"b\"}"),
    ("missing-key", b"{\"src\": null, \"tgt\": \"b\"}"),
    ("wrong-type", b"{\"src\": 1, \"tgt\": \"b\"}"),
    ("wrong-type", b"{\"src\": \"a\", \"tgt\": [\"b\"]}"),
    ("empty-text", b"{\"src\": \"a\", \"tgt\": \"  \"}"),
    ("not-json", b"\x00\x01\x02{{{{\\\\\"\"\x7f"),
];
const LINES: usize = 100_000;

fn write(lab: &Lab) {
    let path = lab.path().join("lines.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for index in 0..LINES {
        match index % 100 {
            // The first is in line 38.
            37 => file.write_all(DAMAGE[index / 100 % DAMAGE.len()].1).unwrap(),
            _ => write!(file, "{{\"src\": \"the king {index}\", \"tgt\": \"speaks of night {} – ü\"}}", index % 7).unwrap(),
        }
        file.write_all(b"\n").unwrap();
    }
}

const EXPERIMENT: &str = r#"
[base]
data = { path = "lines.jsonl", format = "src-tgt-jsonl", tokenizer = { bpe = 300 } }
student = { hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
tokens = 64
batch = 32
seeds = 1
[method.finetune]
objective = "hard-ce"
"#;

#[test]
fn reading_stops_at_the_first_damaged_line_or_counts_each_kind() {
    let lab = Lab::new();
    write(&lab);
    // `run` stops before any training.
    lab.write("x.toml", EXPERIMENT);
    let output = lab.run(&["run", "x.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("lines.jsonl:38: byte 11 is not UTF-8; correct the line, or set on_bad_line = \"skip\""), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let trained = std::fs::read_dir(lab.path().join("runs")).unwrap().flatten();
    assert!(trained.into_iter().all(|entry| entry.file_name().to_string_lossy().starts_with("data-")));

    let output = lab.run(&["data", "lines.jsonl", "--output", "json", "--on-bad-line", "skip"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    DAMAGE.iter().for_each(|(kind, _)| *wanted.entry(kind).or_default() += LINES as u64 / 100 / DAMAGE.len() as u64);
    let bad: BTreeMap<&str, u64> =
        found["bad"].as_object().unwrap().iter().map(|(kind, n)| (kind.as_str(), n.as_u64().unwrap())).collect();
    assert_eq!(bad, wanted);
    assert_eq!((&found["lines"], &found["examples"]), (&LINES.into(), &(LINES - LINES / 100).into()));
    assert!(found["first_bad"].as_str().unwrap().ends_with("lines.jsonl:38: byte 11 is not UTF-8"), "{found}");
}

#[test]
fn a_run_that_skips_lines_reports_them() {
    let lab = Lab::new();
    let good = "{\"src\": \"the king\", \"tgt\": \"speaks of night\"}\n".repeat(20);
    let mut bytes = good.clone().into_bytes();
    DAMAGE.iter().for_each(|(_, line)| bytes.extend([line, &b"\n"[..]].concat()));
    std::fs::write(lab.path().join("train.jsonl"), bytes).unwrap();
    lab.write("valid.jsonl", &good);
    let data = "train = \"train.jsonl\", valid = \"valid.jsonl\", on_bad_line = \"skip\"";
    lab.write("x.toml", &EXPERIMENT.replace("path = \"lines.jsonl\"", data));
    let output = lab.run(&["run", "x.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let wanted = "train: 10 of 30 lines left out: empty-text 1, missing-key 2, not-an-object 1, not-json 2, not-utf8 1, torn 1, wrong-type 2";
    assert!(said.contains(wanted), "{said}");
}
