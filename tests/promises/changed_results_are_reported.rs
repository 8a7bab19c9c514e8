//! Oracle: the frames that `run` wrote. Every verb that shows results reports a frame that differs from them, and `verify` names the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use hydrometer::record::frames::Frames;
use serde_json::Value;

use super::lab::Lab;

const TINY: &str = r#"
question = "Are the results what was written?"
[base]
data = { train = "train.txt", valid = "valid.txt", format = "text", tokenizer = { bpe = 280 } }
student = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
context = 32
tokens = 512
batch = 128
seeds = 1
[method.finetune]
objective = "hard-ce"
"#;

fn tell(output: &Output) -> (Option<i32>, String) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn finished() -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.write("tiny.toml", TINY);
    lab.ok(&["run", "tiny.toml"]);
    lab.ok(&["verify", "tiny.toml"]);
    let results = lab.path().join("results/tiny");
    (lab, results)
}

/// Every verb that shows results.
const SHOW: [&[&str]; 4] = [
    &["report", "tiny.toml"],
    &["compare", "results/tiny"],
    &["export", "results/tiny", "--format", "csv", "--out", "out"],
    &["export", "results/tiny", "--format", "tensorboard", "--out", "events"],
];

fn with(path: &Path, change: impl Fn(&mut Vec<u8>), then: impl FnOnce()) {
    let kept = fs::read(path).unwrap();
    let mut bytes = kept.clone();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    then();
    fs::write(path, kept).unwrap();
}

#[test]
fn every_changed_frame_is_reported_by_every_verb() {
    let (lab, results) = finished();
    let report = fs::read(results.join("report.md")).unwrap();
    for name in ["runs", "curves", "evals", "documents", "imports"] {
        let file = format!("{name}.parquet");
        for at in [5, 3] {
            with(
                &results.join(&file),
                |bytes| {
                    let at = bytes.len() * at / 7;
                    bytes[at] ^= 8
                },
                || {
                    let (code, said) = tell(&lab.run(&["verify", "tiny.toml"]));
                    assert!(code == Some(4) && said.contains(&file) && !said.contains("panicked"), "{file}: {code:?} {said}");
                    for verb in SHOW {
                        let output = lab.run(verb);
                        let (code, said) = tell(&output);
                        let stderr = String::from_utf8_lossy(&output.stderr);
                        assert!(stderr.contains(&file) && !said.contains("panicked"), "{verb:?} {file}: {said}");
                        assert!(matches!(code, Some(0 | 2 | 4)), "{verb:?} {file}: {code:?} {said}");
                    }
                    let (code, _) = tell(&lab.run(&["report", "tiny.toml"]));
                    assert_eq!(
                        (code, fs::read(results.join("report.md")).unwrap()),
                        (Some(4), report.clone()),
                        "no page is written"
                    );
                },
            );
        }
        let path = results.join(&file);
        fs::rename(&path, lab.path().join("away")).unwrap();
        let (code, said) = tell(&lab.run(&["verify", "tiny.toml"]));
        assert!(code == Some(4) && said.contains(&format!("{file} is missing")), "{said}");
        fs::rename(lab.path().join("away"), &path).unwrap();
    }
    // A readable frame with other content, or without a column.
    let kept = ["evals", "imports"]
        .map(|name| (results.join(format!("{name}.parquet")), fs::read(results.join(format!("{name}.parquet"))).unwrap()));
    let frames = Frames::read(&results).unwrap();
    let mut changed = frames.clone();
    changed.evals = changed.evals.drop("nll").unwrap();
    changed.write(&results).unwrap();
    let (code, said) = tell(&lab.run(&["verify", "tiny.toml"]));
    assert!(code == Some(4) && said.contains("evals.parquet is damaged: the column `nll` is missing"), "{said}");
    let (code, said) = tell(&lab.run(&["compare", "results/tiny"]));
    assert!(code == Some(2) && said.contains("evals.parquet is damaged: the column `nll` is missing"), "{said}");
    let mut changed = frames.clone();
    let imports = changed.imports.as_mut().unwrap();
    let doubled = imports.vstack(imports).unwrap();
    *imports = doubled;
    changed.write(&results).unwrap();
    let output = lab.run(&["compare", "results/tiny", "--output", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["changed_frames"][0]["frames"], serde_json::json!(["imports.parquet"]));
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim().lines().count(), 1);
    // Running again rewrites the frames.
    lab.ok(&["run", "tiny.toml"]);
    lab.ok(&["verify", "tiny.toml"]);
    kept.iter().for_each(|(path, bytes)| assert_eq!(&fs::read(path).unwrap(), bytes, "the same bytes as before"));
}

/// The fixture has one flipped bit, at which the reader of polars 0.55 panics.
#[test]
fn a_frame_that_makes_the_reader_panic_is_reported_as_damaged() {
    let (lab, results) = finished();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/frames/documents-thrift-bool.parquet");
    fs::copy(fixture, results.join("documents.parquet")).unwrap();
    for (verb, code) in SHOW.iter().copied().chain([&["verify", "tiny.toml"][..]]).zip([4, 2, 2, 2, 4]) {
        let output = lab.command(verb).env("RUST_BACKTRACE", "1").output().unwrap();
        let (found, said) = tell(&output);
        assert!(
            found == Some(code) && said.contains("documents.parquet") && !said.contains("panicked"),
            "{verb:?}: {found:?} {said}"
        );
    }
}

#[test]
fn damaged_provenance_and_extra_files_are_reported() {
    let (lab, results) = finished();
    let path = results.join("provenance.json");
    let text = fs::read_to_string(&path).unwrap();
    let damages = [
        String::new(),
        text[..text.len() / 2].to_string(),
        "[1, 2]".to_string(),
        text.replace("\"reference\"", "\"refarence\""),
        text.replace("\"cores\": ", "\"cores\": \"\", \"x\": "),
    ];
    for damaged in damages {
        fs::write(&path, damaged).unwrap();
        let (code, said) = tell(&lab.run(&["verify", "tiny.toml"]));
        assert!(code == Some(4) && said.contains("provenance.json is damaged: "), "{code:?} {said}");
        for verb in SHOW {
            let (code, said) = tell(&lab.run(verb));
            assert!(code == Some(2) && said.contains("provenance.json is damaged: "), "{verb:?}: {code:?} {said}");
        }
    }
    // Without checksums, the frames cannot be verified.
    fs::write(&path, text.replace("\"frames\"", "\"framez\"")).unwrap();
    assert_eq!(tell(&lab.run(&["verify", "tiny.toml"])).0, Some(4));
    lab.ok(&["run", "tiny.toml"]);
    lab.ok(&["verify", "tiny.toml"]);
    for (file, code) in [("plots/old.svg", 4), ("more.parquet", 4), ("claims.json", 4), ("notes.txt", 0)] {
        fs::write(results.join(file), "x").unwrap();
        let (found, said) = tell(&lab.run(&["verify", "tiny.toml"]));
        assert!(found == Some(code) && said.contains(file), "{file}: {found:?} {said}");
        fs::remove_file(results.join(file)).unwrap();
    }
    // Pages that cannot be written are an error before any training.
    fs::remove_dir_all(lab.path().join("runs")).unwrap();
    fs::remove_file(results.join("report.md")).unwrap();
    fs::create_dir(results.join("report.md")).unwrap();
    let (code, said) = tell(&lab.run(&["run", "tiny.toml"]));
    assert!(code == Some(2) && said.contains("report.md is a folder where a file is to be written"), "{said}");
    assert!(!lab.path().join("runs").exists(), "nothing may have started");
}
