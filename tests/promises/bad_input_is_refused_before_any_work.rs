//! Every mistake: exit code 2, one sentence, no folder of runs.

use super::lab::{EXPERIMENT, Lab};

/// Runs the experiment after `change` and expects exit code 2 with `message` on standard error.
fn refused(change: impl Fn(&str) -> String, arguments: &[&str], message: &str) {
    let lab = Lab::new();
    lab.write("lab.toml", &change(EXPERIMENT));
    let output = lab.run(&[&["run", "lab.toml"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(message), "said: {said}\nexpected: {message}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let trained = std::fs::read_dir(lab.path().join("runs")).map_or(0, |entries| entries.count());
    assert_eq!(trained, 0, "nothing may have started");
}

#[test]
fn a_misspelt_key() {
    refused(
        |toml| toml.replace("objective = \"soft-ce\"", "objctive = \"soft-ce\""),
        &[],
        "lab.toml:22:1: unknown key \"objctive\" in [method.soft-ce]; did you mean \"objective\"?",
    );
}

#[test]
fn a_missing_corpus_file() {
    refused(|toml| toml.replace("\"train.txt\"", "\"trian.txt\""), &[], "no corpus file at ./trian.txt");
}

#[test]
fn a_top_k_larger_than_the_vocabulary() {
    refused(|toml| toml.replace("top_k = 10", "top_k = 301"), &[], "top_k 301 is larger than the vocabulary of 300");
}

#[test]
fn a_batch_that_does_not_divide_over_dp() {
    refused(str::to_string, &["--dp", "3"], "batch 256 does not divide over dp = 3");
}

#[test]
fn an_unwritable_results_folder() {
    refused(str::to_string, &["--results", "train.txt/results"], "the results folder train.txt/results cannot be written");
}

#[test]
fn a_syntax_error() {
    refused(|toml| toml.replace("seeds   = 1", "seeds   = = 1"), &[], "lab.toml:11:");
}

#[test]
fn an_undefined_teacher() {
    refused(
        |toml| toml.replace("top_k = 10", "top_k = 10\nteacher = \"bg\""),
        &[],
        "unknown teacher \"bg\"; did you mean \"big\"?",
    );
}
