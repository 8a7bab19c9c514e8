//! Oracle: the same sweep in one session. No run is started twice.

use hydrometer::record::journal::Event;

use super::lab::{EXPERIMENT, Lab, same_frames, until};

fn starts(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Started { .. })).count()
}

#[test]
fn two_sessions_started_together_produce_the_same_frames() {
    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("seeds   = 1", "seeds   = 2"));
    lab.ok(&["run", "lab.toml", "--runs", "calm", "--results", "calm-results", "--jobs", "2"]);
    let arguments = |results: &'static str| ["run", "lab.toml", "--runs", "shared", "--results", results, "--jobs", "2"];
    let (mut a, mut b) = (lab.start(&arguments("a")), lab.start(&arguments("b")));
    assert!(a.wait().unwrap().success() && b.wait().unwrap().success(), "{}", lab.said());
    let calm = lab.frames("calm-results");
    assert!(same_frames(&lab.frames("a"), &calm) && same_frames(&lab.frames("b"), &calm));
    let histories = lab.histories("shared");
    for (folder, events) in histories.iter().filter(|(folder, _)| !folder.starts_with("cache")) {
        assert_eq!(starts(events), 1, "{folder}");
        assert_eq!(events.iter().filter(|event| **event == Event::Done).count(), 1, "{folder}");
    }
    let said = lab.said();
    assert!(said.contains("is working on it"), "the second session to need the teacher waits for it: {said}");
}

#[test]
fn a_lease_without_heartbeats_is_taken_over() {
    let lab = Lab::new();
    let arguments = ["run", "lab.toml", "--only", "finetune"];
    let plan = lab.run(&["plan", "lab.toml", "--output", "json"]);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let run = plan["runs"][0]["run"].as_str().unwrap().to_string();
    let folder = lab.path().join("runs").join(&run);
    std::fs::create_dir_all(&folder).unwrap();
    let holder = r#"{"host":"elsewhere","pid":1,"started":1,"machine":"another"}"#;
    let held_for = |term_ms: u32| {
        let lease = format!(r#"{{"holder":{holder},"nonce":"n","term_ms":{term_ms}}}"#);
        std::fs::write(folder.join("lease.4.json"), lease).unwrap();
    };
    held_for(60_000);
    let status = lab.run(&["status", "lab.toml"]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("process 1 on elsewhere"), "{said}");
    held_for(1500);
    let begun = std::time::Instant::now();
    lab.ok(&arguments);
    assert!(begun.elapsed().as_millis() > 1500, "only after its term has expired");
    assert!(folder.join("lease.5.json").exists() && !folder.join("lease.4.json").exists());
    let events = &lab.histories("runs")[&run];
    assert_eq!((starts(events), events.last()), (1, Some(&Event::Done)));
}

#[test]
fn a_worker_that_loses_its_lease_stops() {
    let lab = Lab::new();
    // Long enough for its lease to be taken over in the middle.
    lab.write("lab.toml", &EXPERIMENT.replace("12.8k", "240k"));
    let mut program = lab.start(&["run", "lab.toml", "--only", "finetune"]);
    let folder = || {
        let folders = std::fs::read_dir(lab.path().join("runs")).into_iter().flatten().flatten();
        folders.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("finetune"))
    };
    until(|| {
        folder().is_some_and(|folder| std::fs::read_to_string(folder.join("journal.jsonl")).is_ok_and(|t| t.lines().count() > 20))
    });
    let folder = folder().unwrap();
    // What a session on another machine writes after a term without heartbeats. It then sends no heartbeats itself.
    let holder = r#"{"host":"elsewhere","pid":1,"started":1,"machine":"another"}"#;
    let takeover = format!(r#"{{"holder":{holder},"nonce":"n","term_ms":1000}}"#);
    std::fs::write(folder.join("lease.2.json"), takeover).unwrap();
    std::fs::remove_file(folder.join("lease.1.json")).unwrap();
    assert!(program.wait().unwrap().success(), "{}", lab.said());
    assert!(lab.said().contains("another session has taken it over"), "{}", lab.said());
    assert!(folder.join("lease.3.json").exists(), "and the run was taken back");
    let calm = Lab::new();
    calm.write("lab.toml", &EXPERIMENT.replace("12.8k", "240k"));
    calm.ok(&["run", "lab.toml", "--only", "finetune"]);
    assert_eq!(lab.numbers("runs"), calm.numbers("runs"));
}
