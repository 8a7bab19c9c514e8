//! Oracle: the same experiment undamaged. Each damage is reported once, intact runs are not repeated, and the next `run` ends with the
//! same numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hydrometer::record::journal::Event;

use super::lab::{EXPERIMENT, Lab, same_frames, until};

fn folder(lab: &Lab, runs: &str, name: &str) -> PathBuf {
    let folders = fs::read_dir(lab.path().join(runs)).into_iter().flatten().flatten();
    folders
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(name))
        .unwrap_or_default()
}

fn damage(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn done(events: &[Event]) -> usize {
    events.iter().filter(|event| **event == Event::Done).count()
}

fn steps(journal: &Path) -> usize {
    fs::read_to_string(journal).map_or(0, |text| text.matches("\"step\",").count())
}

#[test]
fn damaged_caches_weights_data_and_journals_are_rebuilt() {
    let calm = Lab::new();
    calm.write("lab.toml", &EXPERIMENT.replace("seeds   = 1", "seeds   = 2"));
    calm.ok(&["run", "lab.toml"]);
    let lab = Lab::trained();
    lab.write("lab.toml", &EXPERIMENT.replace("seeds   = 1", "seeds   = 2"));
    let middle = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    };
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let blocks = fs::read_dir(folder(&lab, "runs", "cache")).unwrap().map(|entry| entry.unwrap().path());
    let block = blocks.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "block")).unwrap();
    damage(&block, middle);
    damage(&block.with_file_name("cache.json"), half);
    let weights = folder(&lab, "runs", "teacher").join("final.safetensors");
    damage(&weights, half);
    damage(&folder(&lab, "runs", "data").join("train.tokens"), half);
    let (finetune, soft_ce) = (folder(&lab, "runs", "finetune"), folder(&lab, "runs", "soft-ce"));
    damage(&finetune.join("journal.jsonl"), middle);
    damage(&soft_ce.join("journal.jsonl"), |bytes| bytes.truncate(bytes.len() - 5));
    let status = lab.run(&["status", "lab.toml"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("lab: 1/6 runs done"), "a torn journal does not count as done");
    let output = lab.run(&["run", "lab.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let relative = |path: &Path| path.strip_prefix(lab.path()).unwrap().display().to_string();
    for sentence in [
        format!("{} is damaged; this teacher is trained again", relative(&weights)),
        format!("{} is damaged; its teacher targets are computed again", relative(&block)),
        format!("the journal {} is intact only up to step", relative(&finetune.join("journal.jsonl"))),
    ] {
        assert_eq!(said.matches(&sentence).count(), 1, "{sentence}: {said}");
    }
    assert!(same_frames(&lab.frames("results/lab"), &calm.frames("results/lab")));
    let histories = lab.histories("runs");
    let of = |name: &str| histories.iter().find(|(folder, _)| folder.starts_with(name)).unwrap().1;
    assert_eq!(done(of("logit-mse-s0")), 1, "an intact run is not repeated");
    assert_eq!((done(of("finetune-s0")), done(of("teacher"))), (2, 2));
}

#[test]
fn damaged_checkpoints_fall_back_to_the_previous_one_or_the_start() {
    let long = EXPERIMENT.replace("12.8k", "40k");
    let (calm, lab) = (Lab::new(), Lab::new());
    calm.write("lab.toml", &long);
    calm.ok(&["run", "lab.toml", "--only", "finetune"]);
    lab.write("lab.toml", &long);
    let arguments = ["run", "lab.toml", "--only", "finetune"];
    for reached in [15, 45] {
        let mut program = lab.start(&arguments);
        until(|| steps(&folder(&lab, "runs", "finetune").join("journal.jsonl")) > reached);
        Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
        assert_eq!(program.wait().unwrap().code(), Some(130));
    }
    let checkpoints = |runs: &str| {
        let entries = fs::read_dir(folder(&lab, runs, "finetune")).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(".safetensors")).collect();
        all.sort();
        all
    };
    assert_eq!(checkpoints("runs").len(), 2, "the newest and one to fall back to");
    let copied = Command::new("cp").args(["-r", "runs", "copy"]).current_dir(lab.path()).status().unwrap();
    assert!(copied.success());
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let [older, newer] = &checkpoints("runs")[..] else { panic!() };
    damage(newer, half);
    let step: u64 = older.file_stem().unwrap().to_string_lossy()["checkpoint-".len()..].parse().unwrap();
    let said = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let text = said(lab.run(&arguments));
    assert!(text.contains(&format!("is damaged: its checksum does not match; the run resumes after step {step}")), "{text}");
    checkpoints("copy").iter().for_each(|path| damage(path, half));
    let text = said(lab.run(&[&arguments[..], &["--runs", "copy", "--results", "copied"]].concat()));
    assert!(text.contains("is damaged: its checksum does not match; the run starts over"), "{text}");
    assert!(lab.numbers("runs") == calm.numbers("runs") && lab.numbers("copy") == calm.numbers("runs"));
    assert!(
        checkpoints("runs").iter().all(|path| path.ends_with("final.safetensors")),
        "a finished run keeps only its final weights"
    );
}

/// A teacher, its cache, a baseline, two students and their fidelities, in a few small steps.
const TINY: &str = r#"
[base]
data    = { train = "train.txt", valid = "valid.txt", format = "text", tokenizer = { bpe = 280 } }
student = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
context = 32
tokens  = 512
batch   = 128
seeds   = 1
[teacher.big]
model  = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
tokens = 256
[method.finetune]
objective = "hard-ce"
[method.soft]
objective = "soft-ce"
top_k = 5
tail = "bucket"
"#;

/// Each round applies one kind of damage to some kinds of files in every folder; one more run repairs it.
#[test]
fn any_damage_to_any_file_is_repaired_by_one_run() {
    let lab = Lab::new();
    lab.write("lab.toml", TINY);
    lab.ok(&["run", "lab.toml"]);
    let calm = lab.frames("results/lab");
    assert!(calm[2].column("kl_to_teacher").unwrap().null_count() < calm[2].height(), "fidelity is measured");
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len().saturating_sub(5));
    let empty = |bytes: &mut Vec<u8>| bytes.clear();
    let flip = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 3;
        bytes[at] ^= 8;
    };
    let other = |bytes: &mut Vec<u8>| *bytes = b"{\"format\": 2, \"teacher\": 7}".to_vec();
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let damages: [(&str, &[&str], Change); 9] = [
        ("fidelity", &["journal.jsonl"], &cut),
        ("fidelity", &["journal.jsonl"], &flip),
        ("", &["journal.jsonl"], &cut),
        ("", &["journal.jsonl"], &empty),
        // Measuring fidelity again needs the weights, which are damaged as well.
        ("", &["final.safetensors", "fidelity"], &flip),
        ("", &["cache.json", "train.tokens", "soft"], &other),
        ("", &["block", "valid.ids", "tokenizer.json", "soft"], &flip),
        ("", &["job.json", "final.safetensors.sha256", "fidelity"], &empty),
        ("", &["train.import.json", "cache.json", "unigram", "soft"], &empty),
    ];
    for (at, (folders, files, change)) in damages.into_iter().enumerate() {
        let mut touched = 0;
        for folder in fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap().path()) {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                let file = path.file_name().unwrap().to_string_lossy().into_owned();
                // If a name matches the folder, its journal is torn so that its job runs again.
                let again = files.iter().any(|begins| name.starts_with(begins)) && file == "journal.jsonl";
                if name.starts_with(folders) && files.iter().any(|end| file.ends_with(end)) {
                    damage(&path, change);
                    touched += 1;
                } else if again {
                    damage(&path, cut);
                }
            }
        }
        assert!(touched > 0, "damage {at}");
        let output = lab.run(&["run", "lab.toml"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "damage {at}: {said}");
        assert!(same_frames(&lab.frames("results/lab"), &calm), "damage {at}: {said}");
    }
    let again = lab.run(&["run", "lab.toml"]);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("started"), "nothing is left to run");
}

/// A separate file system, unmounted on drop.
struct Mount(PathBuf);

impl Mount {
    /// Mounts a tmpfs of `size`. `None`, with a note on standard error, if mounting is not permitted.
    fn new(lab: &Lab, size: &str) -> Option<Self> {
        let path = lab.path().join("small");
        fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED: no file system can be mounted here, so this was not tried");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l".as_ref(), self.0.as_os_str()]).status();
    }
}

#[test]
fn a_run_resumes_after_a_full_disk() {
    let lab = Lab::new();
    let Some(mount) = Mount::new(&lab, "4m") else { return };
    let calm = Lab::trained();
    let arguments = ["run", "lab.toml", "--runs", "small/runs", "--results", "results"];
    lab.ok(&[&arguments[..], &["--only", "finetune"]].concat());
    let mut program = lab.start(&arguments);
    until(|| steps(&folder(&lab, "small/runs", "teacher").join("journal.jsonl")) > 3);
    let filler = mount.0.join("filler");
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=1k", "of=small/filler"]).current_dir(lab.path()).output();
    assert_eq!(program.wait().unwrap().code(), Some(1));
    let said = lab.said();
    let last = said.trim().lines().last().unwrap();
    assert!(last.contains("No space left on device") && last.contains("free some space, and the same command resumes"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    fs::remove_file(filler).unwrap();
    lab.ok(&arguments);
    assert_eq!(lab.numbers("small/runs"), calm.numbers("runs"));
    assert!(lab.histories("small/runs").iter().all(|(folder, events)| folder.starts_with("cache") || done(events) == 1));
}

#[test]
fn a_run_starts_once_its_folder_is_writable_again() {
    let lab = Lab::new();
    let Some(mount) = Mount::new(&lab, "4m") else { return };
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&mount.0).status().unwrap().success());
    };
    let arguments = ["run", "lab.toml", "--runs", "small/runs", "--results", "results", "--only", "finetune"];
    remount("ro");
    let output = lab.run(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("the runs folder small/runs cannot be written: Read-only file system"), "{said}");
    remount("rw");
    lab.ok(&arguments);
}
