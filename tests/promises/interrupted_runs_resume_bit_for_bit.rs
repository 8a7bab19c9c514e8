//! Oracle: the same experiment without interruption. Loss and NLL agree bit for bit.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hydrometer::record::journal::Event;

use super::lab::{EXPERIMENT, Lab, until};

#[test]
fn runs_resume_after_kill_9_of_the_process_tree_and_after_ctrl_c() {
    let lab = Lab::new();
    // Long enough to interrupt it in the middle, after a checkpoint.
    lab.write("lab.toml", &EXPERIMENT.replace("[method.soft-ce]", "[method.other]").replace("12.8k", "25.6k"));
    lab.ok(&["run", "lab.toml", "--runs", "calm", "--results", "calm-results"]);
    let calm = lab.numbers("calm");
    assert!(calm.len() > 600, "{} numbers", calm.len());

    for signal in ["-KILL", "-INT", "-KILL", "-INT -INT"] {
        let mut command = lab.command(&["run", "lab.toml", "--runs", "torn", "--results", "torn-results"]);
        let journal = |name: &str| {
            let runs = std::fs::read_dir(lab.path().join("torn")).into_iter().flatten().flatten();
            let mine = runs.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
            mine.map(|entry| std::fs::read_to_string(entry.path().join("journal.jsonl")).unwrap_or_default()).collect::<String>()
        };
        let steps = |journal: &str| journal.matches("\"step\"").count();
        let before = steps(&journal("finetune"));
        let mut program = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        // In the middle of a student, some steps after it resumed; by then the program handles signals.
        while begun.elapsed() < Duration::from_secs(120) && steps(&journal("finetune")) < before + 10 {
            sleep(Duration::from_millis(20));
        }
        if signal == "-KILL" {
            let workers = Command::new("pgrep").args(["-P", &program.id().to_string()]).output().unwrap();
            for pid in String::from_utf8_lossy(&workers.stdout).split_whitespace() {
                Command::new("kill").args([signal, pid]).status().unwrap();
            }
        }
        // Ctrl-C once, or twice.
        for signal in signal.split(' ') {
            Command::new("kill").args([signal, &program.id().to_string()]).status().unwrap();
            sleep(Duration::from_millis(5));
        }
        let code = program.wait().unwrap().code();
        assert_eq!(code, if signal == "-KILL" { None } else { Some(130) });
    }
    lab.ok(&["run", "lab.toml", "--runs", "torn", "--results", "torn-results"]);
    assert_eq!(lab.numbers("torn"), calm);
}

#[test]
fn a_killed_worker_is_restarted_from_its_checkpoint() {
    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("12.8k", "25.6k"));
    lab.ok(&["run", "lab.toml", "--runs", "calm", "--results", "calm-results", "--only", "finetune", "--tp", "2"]);
    let arguments = ["run", "lab.toml", "--runs", "torn", "--results", "torn-results", "--only", "finetune", "--tp", "2"];
    let mut program = lab.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let children = || {
        let found = Command::new("pgrep").args(["-P", &program.id().to_string()]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    let steps = || lab.numbers("torn").iter().filter(|(run, ..)| run.starts_with("finetune")).count();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) && (!lab.path().join("torn").exists() || steps() < 20) {
        sleep(Duration::from_millis(20));
    }
    // Kill the second rank, so that the first one notices and reports the loss of its peer.
    let last = children().pop().expect("a rank to kill");
    Command::new("kill").args(["-KILL", &last]).status().unwrap();
    assert!(program.wait().unwrap().success(), "the run is retried from its checkpoint");
    let retried = lab.histories("torn").into_values().flatten().filter(|event| matches!(event, Event::Retried { .. })).count();
    assert_eq!(retried, 1);
    assert_eq!(lab.numbers("torn"), lab.numbers("calm"));
}

#[test]
fn retries_are_limited_and_a_diverged_run_stops_others_only_with_fail_fast() {
    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("[method.soft-ce]", "lr = 1e12\n\n[method.soft-ce]"));
    let fast = lab.run(&["run", "lab.toml", "--fail-fast", "--only", "finetune"]);
    let said = String::from_utf8_lossy(&fast.stderr).into_owned();
    assert_eq!(fast.status.code(), Some(3), "{said}");
    assert!(said.contains("diverged: loss"), "{said}");
    let all = lab.run(&["run", "lab.toml", "--rerun", "failed", "--fail-fast"]);
    assert_eq!(all.status.code(), Some(3));
    let students = |lab: &Lab| lab.histories("runs").keys().filter(|run| run.contains("-ce-") || run.contains("-mse-")).count();
    assert_eq!(students(&lab), 0, "after a failure no run is started");
    let going = lab.run(&["run", "lab.toml"]);
    assert_eq!((going.status.code(), students(&lab)), (Some(3), 2), "the other runs continue");

    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("12.8k", "40k"));
    let arguments = ["run", "lab.toml", "--only", "finetune", "--retries", "0"];
    let mut program = lab.start(&arguments);
    until(|| lab.path().join("runs").exists() && lab.numbers("runs").len() > 20);
    let workers = Command::new("pgrep").args(["-P", &program.id().to_string()]).output().unwrap();
    Command::new("kill").args(["-KILL", String::from_utf8_lossy(&workers.stdout).trim()]).status().unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(3), "{}", lab.said());
    assert!(lab.said().contains("1 jobs could not be done; the same command resumes from here"), "{}", lab.said());
    lab.ok(&arguments);
}

#[test]
fn a_second_run_trains_nothing() {
    let lab = Lab::trained();
    let before = lab.numbers("runs");
    let output = lab.run(&["run", "lab.toml"]);
    assert!(output.status.success());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("started"), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lab.numbers("runs"), before);
}

/// A job queue or torchrun may set these variables for the program; they do not apply to its workers.
#[test]
fn workers_ignore_rank_variables_of_the_environment() {
    let lab = Lab::new();
    let mut command = lab.command(&["run", "lab.toml", "--only", "finetune"]);
    let output = command.env("WORLD_SIZE", "2").env("RANK", "0").env("MASTER_ADDR", "127.0.0.1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
