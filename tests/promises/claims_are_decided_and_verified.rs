//! Claims in the experiment file get verdicts, written beside the frames, and `verify` notices whatever no longer follows from them.

use std::fs;

use hydrometer::record::frames::{DocumentRow, Frames};
use serde_json::Value;

use super::lab::{EXPERIMENT, Lab};

const CLAIMS: &str = r#"
[fair]
match = "tokens"

[[claim]]
id     = "finetuning-learns"
says   = "Finetuning ends below the perplexity of a uniform guess."
a      = { method = "finetune" }
expect = "perplexity(a) < 250"

[[claim]]
id     = "mse-wins-by-half"
says   = "Matching logits halves the perplexity of finetuning."
a      = { method = "logit-mse" }
b      = { method = "finetune" }
expect = "perplexity(a) < 0.5 * perplexity(b)"
"#;

fn code(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lab.run(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn claims_get_verdicts_and_verify_notices_every_change() {
    let lab = Lab::new();
    // Several documents, since an interval needs the variation between them.
    let text = fs::read_to_string(lab.path().join("train.txt")).unwrap();
    let lines: Vec<String> = text.split("\n\n").take(12).map(|part| format!("{{\"text\": {part:?}}}\n")).collect();
    lab.write("valid.jsonl", &lines.concat());
    let experiment = EXPERIMENT.replace("seeds   = 1", "seeds   = 2").replace("12.8k", "6.4k");
    let experiment = experiment.replace("valid.txt", "valid.jsonl").replace("format = \"text\", ", "");
    lab.write("lab.toml", &format!("{experiment}{CLAIMS}"));
    assert_eq!(code(&lab, &["verify", "lab.toml"]).0, Some(5), "there is nothing to verify");
    lab.ok(&["run", "lab.toml"]);
    let results = lab.path().join("results/lab");
    let claims: Value = serde_json::from_slice(&fs::read(results.join("claims.json")).unwrap()).unwrap();
    assert_eq!(claims["claims"][0]["verdict"], "supported", "{claims:#}");
    assert_eq!(claims["claims"][1]["verdict"], "refuted", "{claims:#}");
    let report = fs::read_to_string(results.join("report.md")).unwrap();
    let first = report.lines().find(|line| line.starts_with("- ")).unwrap();
    assert!(first.starts_with("- The perplexity of ") && first.contains("; claim supported: Finetuning ends below"), "{first}");
    let (exit, said) = code(&lab, &["verify", "lab.toml"]);
    assert_eq!(exit, Some(4), "a claim is refuted");
    assert!(said.contains("; claim refuted: ") && said.contains("(mse-wins-by-half; "), "{said}");
    assert_eq!(code(&lab, &["verify", "lab.toml", "--accept-refuted"]).0, Some(0), "the verdict still follows from the frames");

    // `verify` needs only the frames and the unchanged experiment file, not the data that the file names.
    fs::rename(lab.path().join("valid.jsonl"), lab.path().join("away.jsonl")).unwrap();
    let (exit, said) = code(&lab, &["verify", "lab.toml", "--accept-refuted"]);
    assert!(
        exit == Some(0)
            && said.contains("; claim refuted: ")
            && said.contains("(mse-wins-by-half; ")
            && said.contains("not needed here"),
        "{said}"
    );
    lab.ok(&["report", "lab.toml"]);
    assert_eq!(code(&lab, &["run", "lab.toml"]).0, Some(2), "training needs it");
    lab.write("lab.toml", &format!("{experiment}{CLAIMS}# another file\n"));
    let (exit, said) = code(&lab, &["verify", "lab.toml"]);
    assert!(exit == Some(2) && said.contains("valid.jsonl"), "{said}");
    fs::rename(lab.path().join("away.jsonl"), lab.path().join("valid.jsonl")).unwrap();

    // After removing the refuted claim and rewriting the report, everything follows from the frames.
    lab.write("lab.toml", &format!("{experiment}{}", CLAIMS.split("\n[[claim]]\nid     = \"mse").next().unwrap()));
    let (exit, said) = code(&lab, &["verify", "lab.toml"]);
    assert!(exit == Some(4) && said.contains("claims.json"), "the claims were edited: {said}");
    let before = lab.numbers("runs");
    lab.ok(&["report", "lab.toml"]);
    assert_eq!(code(&lab, &["verify", "lab.toml"]).0, Some(0));
    assert_eq!(lab.numbers("runs"), before, "claims are not part of a run");
    let (exit, said) = code(&lab, &["verify", "lab.toml", "--rerun"]);
    assert!(exit == Some(0) && said.contains("trained again, all numbers are the same to the bit"), "{said}");
    assert!(!lab.path().join("runs/rerun-lab").exists());

    // Every changed file is named.
    let touched = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let path = results.join(name);
        let kept = fs::read(&path).unwrap();
        fs::write(&path, change(kept.clone())).unwrap();
        let (exit, said) = code(&lab, &["verify", "lab.toml"]);
        assert_eq!(exit, Some(4), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
        fs::write(&path, kept).unwrap();
    };
    touched("report.md", &|bytes| String::from_utf8(bytes).unwrap().replace("perplexity", "Perplexity").into_bytes());
    touched("plots/loss.png", &|bytes| bytes[..bytes.len() - 1].to_vec());
    for frame in ["runs.parquet", "curves.parquet", "evals.parquet", "documents.parquet"] {
        touched(frame, &|bytes| bytes[..bytes.len() / 2].to_vec());
    }
    touched("documents.parquet", &|mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    });
    // A changed number in a readable frame is named by its column and run; a number that contradicts another is reported too.
    let kept = ["documents", "evals", "provenance"].map(|name| {
        let path = results.join(if name == "provenance" { "provenance.json".into() } else { format!("{name}.parquet") });
        (fs::read(&path).unwrap(), path)
    });
    let mut frames = Frames::read(&results).unwrap();
    let mut rows = DocumentRow::rows(&frames.documents).unwrap();
    rows[3].nll_sum += 0.5;
    let run = rows[3].run.clone();
    frames.documents = DocumentRow::frame(&rows).unwrap();
    frames.write(&results).unwrap();
    let (exit, said) = code(&lab, &["verify", "lab.toml"]);
    assert_eq!(exit, Some(4), "{said}");
    assert!(said.contains(&format!("documents.parquet is not the frame that was written: nll_sum of {run} changed")), "{said}");
    assert!(said.contains(&format!("documents.parquet: the documents of {run} give an nll of")), "{said}");
    kept.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    assert_eq!(code(&lab, &["verify", "lab.toml"]).0, Some(0));
}
