//! `export --format json` exports every number of the report under a name, for use in other texts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::lab::Lab;

fn results(experiment: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(experiment)
}

fn exported(experiment: &str) -> Value {
    let lab = Lab::new();
    lab.ok(&["export", results(experiment).to_str().unwrap(), "--format", "json", "--out", "out"]);
    let text = fs::read_to_string(lab.path().join(format!("out/{experiment}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Oracle: the committed report, whose tables are formatted by other code. A row of the comparison has the arm, the number of finished
/// runs, the perplexity, the difference in percent and in nats, both p-values and the nats per token.
#[test]
fn exported_texts_equal_the_reports() {
    for experiment in ["quickstart", "methods", "smollm2"] {
        let numbers = exported(experiment);
        let report = fs::read_to_string(results(experiment).join("report.md")).unwrap().replace('\\', "").replace("&lt;", "<");
        for facet in numbers["facets"].as_array().unwrap() {
            let name = facet["facet"].as_str().unwrap();
            let part = report.split("|:--|").nth(1).unwrap();
            let part = part.split(&format!("**{name}**")).last().unwrap();
            for label in facet["cells"].as_array().unwrap() {
                let cell = &numbers["cells"][label.as_str().unwrap()];
                let text = |name: &str| cell["numbers"][name]["text"].as_str().unwrap_or_default().to_string();
                let start = format!("| {} | {} ok", cell["arm"].as_str().unwrap(), cell["runs"]["finished"]);
                let row = part.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row of {label}"));
                let columns: Vec<&str> = row.split(" | ").collect();
                assert_eq!(columns[2], text("perplexity"), "{label}");
                assert_eq!(columns[7], text("nll"), "{label}");
                let Some(nats) = cell["numbers"].get("nats") else { continue };
                let interval = format!("{} [{}, {}]", text("nats"), show(&nats["low"]), show(&nats["high"]));
                assert_eq!(columns[3..7], [text("percent"), interval, text("p"), text("p_holm")], "{label}");
            }
        }
    }
}

fn show(number: &Value) -> &str {
    number["text"].as_str().unwrap()
}

/// Oracle: the committed claims and the sentences of the report about them.
#[test]
fn verdicts_are_keyed_by_claim_id() {
    let numbers = exported("methods");
    let claims: Value = serde_json::from_str(&fs::read_to_string(results("methods").join("claims.json")).unwrap()).unwrap();
    let claims = claims["claims"].as_array().unwrap();
    assert_eq!(claims.len(), numbers["claims"].as_object().unwrap().len());
    for claim in claims {
        let found = &numbers["claims"][claim["id"].as_str().unwrap()];
        assert_eq!(found["verdict"], claim["verdict"]);
        let sentence = found["sentence"].as_str().unwrap();
        assert!(sentence.contains(&format!("{} to {}", show(&found["low"]), show(&found["high"]))), "{sentence}");
    }
}

/// A cell without an interval is distinguished from one whose interval is inconclusive.
#[test]
fn one_seed_gives_no_verdict_and_says_so() {
    let numbers = exported("smollm2");
    for (label, cell) in numbers["cells"].as_object().unwrap() {
        let expected = if label == "finetune" { Value::Null } else { "unknown".into() };
        assert_eq!(cell["verdict"], expected, "{label}");
        assert!(cell["numbers"].get("nats").is_none() && cell["numbers"]["perplexity"].get("low").is_none(), "{label}");
    }
}
