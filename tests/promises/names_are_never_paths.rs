//! Names in an experiment never lead outside `runs/` and `results/`, and unprintable names are refused before any work.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use super::lab::{EXPERIMENT, Lab};

fn entries(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Oracle: the folders that exist afterwards.
#[test]
fn names_with_slashes_dots_or_any_length_stay_below_runs() {
    let lab = Lab::new();
    let inner = lab.path().join("deep/er");
    std::fs::create_dir_all(inner.join("runs/cache-x")).unwrap();
    for file in ["train.txt", "valid.txt"] {
        std::fs::rename(lab.path().join(file), inner.join(file)).unwrap();
    }
    let long = "n".repeat(5000);
    let toml = EXPERIMENT
        .replace("[teacher.big]", "[teacher.\"x/../../../evil\"]")
        .replace("[method.soft-ce]", "[method.\"../../<script>|\\\\ é\"]")
        .replace("[method.logit-mse]", &format!("[method.{long}]"))
        .replace("12.8k", "1k")
        .replace("\"10k\"", "\"1k\"");
    std::fs::write(inner.join("lab.toml"), toml).unwrap();
    let run = |arguments: &[&str]| {
        let output = lab.command(arguments).current_dir(&inner).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["run", "lab.toml"]);
    assert_eq!(entries(&inner), ["lab.toml", "results", "runs", "train.txt", "valid.txt"].map(String::from).into());
    assert_eq!(entries(lab.path()), ["deep", "lab.toml"].map(String::from).into());
    assert_eq!(entries(&lab.path().join("deep")), ["er".to_string()].into());
    assert_eq!(entries(&inner.join("runs/cache-x")), BTreeSet::new(), "a folder that merely shares a prefix with the name");
    assert!(
        entries(&inner.join("runs")).contains("teacher-x_.._.._.._evil-")
            || entries(&inner.join("runs")).iter().any(|name| name.starts_with("cache-x_.._.._.._evil-k20-"))
    );
    // Other verbs find the run by its cleaned name.
    let status: Value = serde_json::from_slice(&run(&["status", "lab.toml", "--output", "json"])).unwrap();
    let jobs = status["jobs"].as_array().unwrap();
    assert!(jobs.iter().all(|job| job["status"] == "done"), "{status:#}");
    assert!(jobs.iter().all(|job| job["run"].as_str().unwrap().len() <= 255));
    run(&["export", "results/lab", "--format", "tensorboard", "--out", "events"]);
    run(&["verify", "lab.toml"]);
}

#[test]
fn unprintable_names_are_refused_with_their_line() {
    let cases = [
        ("[method.finetune]", "[method.\"\"]", "lab.toml:18:9: this method has no name; write e.g. [method.finetune]"),
        ("[method.finetune]", "[method.\" \"]", "lab.toml:18:9: this method has no name"),
        ("[method.finetune]", "[method.\"\\u001b[31mred\"]", "lab.toml:18:9: the name of the method \"\\u{1b}[31mred\" holds"),
        ("[method.finetune]", "[method.\"a\\nb\"]", "holds the control character \\n"),
        ("[method.finetune]", "[method.\"a\\u009bb\"]", "holds the control character \\u{9b}"),
        ("[method.finetune]", "[method.\"a\u{202e}b\"]", "holds the control character \\u{202e}"),
        ("[method.finetune]", "[method.\"a\\u0000b\"]", "holds the control character \\u{0}"),
        ("[teacher.big]", "[teacher.\"\"]", "lab.toml:14:10: this teacher has no name; write e.g. [teacher.big]"),
        ("[teacher.big]", "[teacher.\"b\\u007f\"]", "lab.toml:14:10: the name of the teacher \"b\\u{7f}\" holds"),
        (
            "[method.finetune]",
            "[[claim]]\nid = \"c\\u0007\"\nexpect = \"nll(a) < 9\"\na = { method = \"finetune\" }\n[method.finetune]",
            "lab.toml:19:6: the name of the claim \"c\\u{7}\" holds",
        ),
    ];
    for (from, to, message) in cases {
        let lab = Lab::new();
        lab.write("lab.toml", &EXPERIMENT.replace(from, to));
        let output = lab.run(&["run", "lab.toml"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message) && said.trim().lines().count() == 1, "{said}\nexpected {message}");
        assert!(!lab.path().join("runs").exists(), "nothing may have started");
    }
}

#[test]
fn file_names_unfit_for_an_experiment_are_refused() {
    let lab = Lab::new();
    for name in ["bad\u{1b}.toml", "two\nlines.toml", "...toml", "..toml", "\u{202e}x.toml"] {
        lab.write(name, EXPERIMENT);
        for verb in ["plan", "run", "status", "report", "verify", "compare"] {
            let output = lab.run(&[verb, name]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{verb} {name:?}: {said}");
            assert!(said.contains("rename the file") && said.trim().lines().count() == 1, "{verb} {name:?}: {said}");
            assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
        }
    }
    assert!(!lab.path().join("runs").exists() && !lab.path().join("results").exists());
}

#[test]
fn arguments_that_are_not_utf8_are_refused_at_once() {
    let lab = Lab::new();
    let bad = OsStr::from_bytes(b"bad\xff.toml");
    std::fs::write(lab.path().join(bad), EXPERIMENT).unwrap();
    let all: [&[&str]; 6] = [
        &["run"],
        &["plan"],
        &["run", "lab.toml", "--runs"],
        &["run", "lab.toml", "--results"],
        &["data"],
        &["eval", "--data", "train.txt", "--model"],
    ];
    for before in all {
        let output = lab.command(before).arg(bad).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{before:?}: {said}");
        assert!(said.contains("the argument \"bad\\xFF.toml\" is not UTF-8"), "{before:?}: {said}");
    }
    assert!(!lab.path().join("runs").exists());
}
