//! `compare --format` writes the same comparison as Markdown, LaTeX, Typst and CSV.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::lab::Lab;

fn results(experiment: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(experiment)
}

fn compared(experiments: &[&str], more: &[&str]) -> String {
    let folders: Vec<PathBuf> = experiments.iter().map(|name| results(name)).collect();
    let mut arguments = vec!["compare"];
    arguments.extend(folders.iter().map(|folder| folder.to_str().unwrap()));
    arguments.extend(more);
    let output = Lab::new().run(&arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Oracle: the committed report.
#[test]
fn the_markdown_table_equals_the_reports() {
    let report = fs::read_to_string(results("methods").join("report.md")).unwrap();
    let tables: Vec<&str> =
        report.split("\n\n").filter(|part| part.starts_with("| arm | ") && part.contains("perplexity |")).collect();
    let text = compared(&["methods"], &["--format", "markdown"]);
    assert!(text.contains(tables[0]), "{text}");
}

/// An independent reader of RFC 4180: quoted fields with doubled quotes, commas and line breaks.
fn read_csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => field.push(chars.next().unwrap()),
            ('"', _) => quoted = !quoted,
            (',', false) => row.push(std::mem::take(&mut field)),
            ('\n', false) => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            (c, _) => field.push(c),
        }
    }
    assert!(row.is_empty() && field.is_empty() && !quoted, "the last line ends");
    let head = rows.remove(0);
    rows.into_iter()
        .map(|row| {
            assert_eq!(row.len(), head.len());
            head.iter().cloned().zip(row).collect()
        })
        .collect()
}

/// Oracle: `--output json`.
#[test]
fn csv_has_the_numbers_of_the_json_bit_for_bit() {
    let rows = read_csv(&compared(&["methods", "quickstart"], &["--format", "csv"]));
    let json: Value = serde_json::from_str(&compared(&["methods", "quickstart"], &["--output", "json"])).unwrap();
    let mut rows_left = rows.iter();
    let same = |row: &BTreeMap<String, String>, column: &str, value: &Value| match value.as_f64() {
        Some(value) => assert_eq!(row[column].parse::<f64>().unwrap().to_bits(), value.to_bits(), "{column} of {}", row["label"]),
        None => assert_eq!(row[column], "", "{column} of {}", row["label"]),
    };
    for comparison in json["comparisons"].as_array().unwrap() {
        for cell in comparison["cells"].as_array().unwrap() {
            let row = rows_left.next().unwrap();
            assert_eq!([&row["experiment"], &row["role"]], [comparison["experiment"].as_str().unwrap(), "student"]);
            assert_eq!([&row["label"], &row["arm"]], ["label", "method"].map(|name| cell[name].as_str().unwrap()));
            for axis in cell["axes"].as_array().unwrap() {
                assert_eq!(row[&format!("axis_{}", axis["axis"].as_str().unwrap())], axis["value"].as_str().unwrap());
            }
            let difference = &cell["difference"];
            for (column, value) in [
                ("perplexity", &cell["perplexity"]["mean"]),
                ("perplexity_low", &cell["perplexity"]["low"]),
                ("nll", &cell["nll"]),
                ("ok", &cell["ok"]),
                ("percent", &difference["percent"]["mean"]),
                ("nats", &difference["nll"]["mean"]),
                ("nats_high", &difference["nll"]["high"]),
                ("p_holm", &difference["nll"]["p_holm"]),
                ("documents", &difference["nll"]["documents"]),
                ("token_accuracy_high", &cell["metrics"]["token_accuracy"]["high"]),
            ] {
                same(row, column, value);
            }
        }
        for reference in comparison["references"].as_array().unwrap() {
            let row = rows_left.next().unwrap();
            assert_eq!(row["role"], reference["role"].as_str().unwrap());
            same(row, "perplexity", &reference["perplexity"]);
            same(row, "bits_per_byte", &reference["metrics"]["bits_per_byte"]["mean"]);
        }
    }
    for pooled in json["pooled"].as_array().unwrap() {
        let row = rows_left.next().unwrap();
        assert_eq!([&row["role"], &row["arm"]], ["pooled", pooled["arm"].as_str().unwrap()]);
        same(row, "nats", &pooled["nll"]["mean"]);
    }
    assert!(rows_left.next().is_none());
}

#[test]
fn every_format_has_all_arms_all_panels_and_the_requested_reference() {
    for format in ["markdown", "latex", "typst", "csv", "terminal"] {
        let text = compared(&["methods"], &["--format", format, "--to", "bucket"]);
        for name in ["metaseq-alone", "tokens=200k", "tokens=800k", "unigram"] {
            assert!(text.contains(name), "{format}: {name}");
        }
        assert!(format == "csv" || text.contains("vs bucket"), "{format}");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{format}");
    }
}

#[test]
fn a_table_format_together_with_json_is_refused() {
    let folder = results("quickstart");
    let output = Lab::new().run(&["compare", folder.to_str().unwrap(), "--format", "latex", "--output", "json"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{told}");
    assert!(told.lines().count() == 1 && told.contains("--format latex") && told.contains("--output json"), "{told}");
}
