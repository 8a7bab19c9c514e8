//! Every mistake gives exit code 2 and a one-line error, and no run folder is created.

use super::fixtures::folder;
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
fn a_misspelt_key_is_refused() {
    refused(
        |toml| toml.replace("objective = \"soft-ce\"", "objctive = \"soft-ce\""),
        &[],
        "lab.toml:22:1: unknown key \"objctive\" in [method.soft-ce]; did you mean \"objective\"?",
    );
}

#[test]
fn losses_without_a_definition_are_refused() {
    for (with, message) in [
        ("objective = \"hard-ce\"\nlabel_smoothing = 1.0", "lab.toml:23:1: label_smoothing must be a number from 0 to below 1"),
        ("objective = \"kl-reverse\"\nskew = -0.1", "lab.toml:23:1: skew must be a number from 0 to below 1"),
        ("objective = \"kl-reverse\"\nestimator = \"k1\"", "lab.toml:23:1: estimator \"k1\" needs ids that the student drew"),
        ("objective = \"jsd\"\nskew = 0.1", "lab.toml:23:1: skew does not apply to jsd"),
        ("objective = \"kl-reverse\"\ntail = \"renormalize\"", "lab.toml:23:1: tail \"renormalize\" gives unlisted ids no mass"),
    ] {
        refused(|toml| toml.replace("objective = \"soft-ce\"\ntop_k = 10\ntail = \"bucket\"", with), &[], message);
    }
}

#[test]
fn a_missing_corpus_file_is_refused() {
    refused(|toml| toml.replace("\"train.txt\"", "\"trian.txt\""), &[], "no corpus file at ./trian.txt");
}

#[test]
fn a_top_k_larger_than_the_vocabulary_is_refused() {
    refused(|toml| toml.replace("top_k = 10", "top_k = 301"), &[], "top_k 301 is larger than the vocabulary of 300");
}

#[test]
fn a_batch_that_does_not_divide_over_dp_is_refused() {
    refused(str::to_string, &["--dp", "3"], "batch 256 does not divide over dp = 3");
}

#[test]
fn an_unwritable_results_folder_is_refused() {
    refused(str::to_string, &["--results", "train.txt/results"], "the results folder train.txt/results cannot be written");
}

#[test]
fn a_syntax_error_is_refused() {
    refused(|toml| toml.replace("seeds   = 1", "seeds   = = 1"), &[], "lab.toml:11:");
}

#[test]
fn an_undefined_teacher_is_refused() {
    refused(
        |toml| toml.replace("top_k = 10", "top_k = 10\nteacher = \"bg\""),
        &[],
        "unknown teacher \"bg\"; did you mean \"big\"?",
    );
}

#[test]
fn runs_or_results_inside_the_data_folder_are_refused() {
    for (flags, inside) in [
        (["--runs", "texts/runs", "--results", "r"], "texts/runs is inside the data folder ./texts"),
        (["--runs", "runs", "--results", "./texts/../texts/new/r"], "./texts/../texts/new/r is inside the data folder ./texts"),
    ] {
        let lab = Lab::new();
        std::fs::create_dir(lab.path().join("texts")).unwrap();
        std::fs::rename(lab.path().join("train.txt"), lab.path().join("texts/train.txt")).unwrap();
        lab.write("lab.toml", &EXPERIMENT.replace("\"train.txt\"", "\"texts\""));
        for verb in ["plan", "run"] {
            let output = lab.run(&[&[verb, "lab.toml"], &flags[..]].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{verb}: {said}");
            assert!(said.contains(inside), "{verb}: {said}");
            assert_eq!(
                std::fs::read_dir(lab.path().join("texts")).unwrap().count(),
                1,
                "nothing is written into the data folder"
            );
        }
    }
}

/// The checkpoint initialises the student in the first experiment and is the teacher in the second.
#[test]
fn a_checkpoint_with_nan_weights_is_refused() {
    let lab = Lab::new();
    let hf = lab.path().join("hf");
    std::fs::create_dir(&hf).unwrap();
    for entry in std::fs::read_dir(folder("../chat")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, hf.join(path.file_name().unwrap())).unwrap();
    }
    let weights = hf.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // All bits set is a NaN in every float format.
    let end = bytes.len();
    bytes[end - 4..].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    let base = "[base]\ndata = { train = \"train.txt\", valid = \"valid.txt\", tokenizer = \"hf/tokenizer.json\" }\ncontext = 32\n\
                tokens = 256\nbatch = 64\n";
    let student = "student = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, \
                   num_key_value_heads = 1 }\n[teacher.them]\nhf = \"hf\"\n[method.soft-ce]\nobjective = \"soft-ce\"\ntop_k = 2\n";
    let tail = "[method.finetune]\nobjective = \"hard-ce\"\n";
    for text in [format!("{base}student = {{ hf = \"hf\" }}\n{tail}"), format!("{base}{student}{tail}")] {
        lab.write("lab.toml", &text);
        let output = lab.run(&["run", "lab.toml"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("holds numbers that are not finite"), "{said}");
    }
}
