//! Oracle: the system's error for a file or for memory. Only files that do not exist count as absent; any other failure gives a one-line
//! error with the path, before any work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::lab::Lab;

const TINY: &str = r#"
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

/// 800 million parameters in few layers: more than fits some machines, yet quick to set up.
const LARGE: &str = "hidden_size = 16384, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2";

fn tiny() -> Lab {
    let lab = Lab::new();
    lab.write("tiny.toml", TINY);
    lab
}

/// Exit code and standard error.
fn end(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn unreadable_runs_are_not_treated_as_missing() {
    let lab = tiny();
    lab.ok(&["run", "tiny.toml"]);
    let runs = lab.path().join("runs");
    let verbs: [&[&str]; 4] = [&["status", "tiny.toml"], &["plan", "tiny.toml"], &["run", "tiny.toml"], &["why", "finetune"]];
    // A folder in place of a file and a file in place of a folder: errors that do not depend on permissions, so any user can test them.
    let journal = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.into_iter().find(|path| path.to_string_lossy().contains("finetune")).unwrap().join("journal.jsonl");
    fs::rename(&journal, lab.path().join("journal")).unwrap();
    fs::create_dir(&journal).unwrap();
    for verb in &verbs[..3] {
        let (code, said) = end(lab.command(verb));
        let place = journal.strip_prefix(lab.path()).unwrap().display().to_string();
        assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{verb:?}: {said}");
        assert!(said.contains(&format!("cannot read {place}: Is a directory")), "{verb:?}: {said}");
    }
    fs::remove_dir(&journal).unwrap();
    fs::rename(lab.path().join("journal"), &journal).unwrap();
    fs::rename(&runs, lab.path().join("kept")).unwrap();
    fs::write(&runs, "x").unwrap();
    for verb in verbs {
        let (code, said) = end(lab.command(verb));
        assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{verb:?}: {said}");
        assert!(said.contains("runs") && said.contains("Not a directory"), "{verb:?}: {said}");
    }
    fs::remove_file(&runs).unwrap();
    let (code, said) = end(lab.command(&["export", "finetune", "--out", "out"]));
    assert!(code == Some(2) && said.contains("no run begins with"), "as with an empty folder: {code:?} {said}");
    fs::rename(lab.path().join("kept"), &runs).unwrap();

    // As a user without permissions, if this user can become another.
    fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o000)).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", env!("CARGO_BIN_EXE_hydrometer")]).args(arguments);
        command.current_dir(lab.path());
        command
    };
    let possible = nobody(&["--version"]).output().is_ok_and(|output| output.status.success());
    for verb in [&["status", "tiny.toml"][..], &["plan", "tiny.toml"], &["why", "finetune"]].into_iter().filter(|_| possible) {
        let (code, said) = end(nobody(verb));
        assert_eq!((code, said.trim()), (Some(2), "hydrometer: cannot read runs: Permission denied (os error 13)"), "{verb:?}");
    }
    if !possible {
        eprintln!("SKIPPED: this user cannot become another, so permissions were not tested");
    }
    fs::set_permissions(&runs, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn unwritable_folders_are_refused_before_any_training() {
    let lab = tiny();
    lab.write("taken", "x");
    for flag in ["--results", "--runs"] {
        let (code, said) = end(lab.command(&["run", "tiny.toml", flag, "taken/results"]));
        assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("taken/results") && said.contains("Not a directory"), "{said}");
    }
    assert!(!lab.path().join("runs").exists());
    lab.ok(&["run", "tiny.toml"]);
    for of in [&["finetune"][..], &["results/tiny", "--format", "csv"]] {
        let (code, said) = end(lab.command(&[&["export"], of, &["--out", "taken"]].concat()));
        assert!(code == Some(2) && said.contains("taken cannot be written") && said.contains("--out DIR"), "{code:?} {said}");
    }
}

#[test]
fn a_model_too_large_is_refused_and_a_failed_allocation_is_not_the_runs_failure() {
    let lab = tiny();
    let model = "hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2";
    lab.write("large.toml", &TINY.replace(model, LARGE));
    let limited = |kib: u64, arguments: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {kib}; exec {} {arguments}", env!("CARGO_BIN_EXE_hydrometer"))]);
        command.current_dir(lab.path()).env("RUST_BACKTRACE", "1");
        command
    };
    let (code, said) = end(limited(6_000_000, "run large.toml"));
    assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("of memory, `ulimit -v` allows 6.1 GB; try --recompute, a smaller --pass-tokens"), "{said}");
    assert!(!lab.path().join("runs/data").exists());
    // The estimate accepts this model, but the address space, which holds more than the model, does not suffice.
    lab.write("tight.toml", &TINY.replace("hidden_size = 8,", "hidden_size = 4096,"));
    let (code, said) = end(limited(1_600_000, "run tight.toml"));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("no memory: ") && said.contains("MB were asked for; try --recompute, a smaller --pass-tokens"),
        "{said}"
    );
    assert!(!said.contains("panicked") && !said.contains("frame #") && !said.contains("exited with code"), "{said}");
    let status = String::from_utf8_lossy(&lab.run(&["status", "tight.toml"]).stdout).into_owned();
    assert!(status.contains("interrupted") && !status.contains("failed"), "the run itself did not fail: {status}");
}

/// Damage of several kinds to each file of a cache gives a one-line error with the path, and the same exit code.
#[test]
fn damage_to_any_file_of_a_cache_gives_the_same_kind_of_error() {
    let lab = Lab::new();
    lab.write("text.txt", "the king speaks of night and fire\n\nand ships sail home again\n");
    let model = super::fixtures::folder("llama").display().to_string();
    lab.ok(&["teach", "--model", &model, "--data", "text.txt", "--top-k", "5", "--context", "16", "--out", "cache"]);
    let files: Vec<_> = fs::read_dir(lab.path().join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files = files.into_iter().filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("lease"));
    let mut kinds = 0;
    for path in files {
        let kept = fs::read(&path).unwrap();
        let name = path.strip_prefix(lab.path()).unwrap().display().to_string();
        for damaged in [&kept[..kept.len() / 2], b"", b"{\"format\": 2, \"top_k\": \"many\"}"] {
            fs::write(&path, damaged).unwrap();
            for verb in [&["--inspect", "cache", "--sample", "0"][..], &["--export", "parquet", "--cache", "cache", "--out", "x"]]
            {
                let (code, said) = end(lab.command(&[&["teach"], verb].concat()));
                assert_eq!((code, said.trim().lines().count()), (Some(2), 1), "{name}: {said}");
                assert!(said.contains(&name) && said.contains("again"), "{name}: {said}");
            }
        }
        fs::write(&path, kept).unwrap();
        kinds += 1;
    }
    assert_eq!(kinds, 5, "a block, the manifest, the sources, the text and its ids");
    let mut command = lab.command(&["eval", "--model", &model, "--data", "text.txt"]);
    command.env("WORLD_SIZE", "2");
    let (code, said) = end(command);
    assert!(code == Some(2) && said.contains("WORLD_SIZE is set, but RANK is not"), "{code:?} {said}");
}
