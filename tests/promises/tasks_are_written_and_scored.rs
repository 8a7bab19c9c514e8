//! Students and teachers write the texts of tasks, which are scored, without being trained again. Oracles: the scores of the recorded
//! texts, computed again; the texts of another mesh; the starts that journals record.

use std::collections::BTreeMap;
use std::process::Command;

use hydrometer::record::frames::{Frames, GenerationRow, ScoreRow};
use hydrometer::record::journal::Event;
use hydrometer::score::{Sample, Score};

use super::lab::{Lab, until};

const TASK: &str = r#"
[task.sums]
data = { path = "sums" }
prompts = 5
samples = 3
decode = { temperature = 1.0, top_k = 50 }
max_new_tokens = 6
score = ["exact-match", "pass@2", "distinct-1", "truncated", "teacher-nll"]
"#;

fn lab() -> (Lab, String) {
    let lab = Lab::empty();
    for folder in ["sums/train", "sums/valid", "long/train", "long/valid"] {
        std::fs::create_dir_all(lab.path().join(folder)).unwrap();
    }
    for (split, count) in [("train", 40), ("valid", 8)] {
        let line = |n: usize| format!("{{\"src\": \"{n} + {n} =\", \"tgt\": \" {}\"}}\n", 2 * n);
        lab.write(&format!("sums/{split}/x.jsonl"), &(0..count).map(|n| line(n + split.len())).collect::<String>());
    }
    let small =
        "hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1";
    let experiment = format!(
        "[base]\ndata = {{ path = \"sums\", tokenizer = {{ bpe = 280 }} }}\nstudent = {{ {small} }}\ncontext = 32\ntokens = 400\nbatch = \
         100\nseeds = 2\n[teacher.big]\nmodel = {{ {small} }}\n[method.finetune]\nobjective = \"hard-ce\"\n[method.soft-ce]\nobjective = \
         \"soft-ce\"\ntop_k = 5\n"
    );
    (lab, experiment)
}

fn texts(lab: &Lab, results: &str) -> (Vec<GenerationRow>, Vec<ScoreRow>) {
    let frames = Frames::read(&lab.path().join(results)).unwrap();
    (GenerationRow::rows(&frames.generations.unwrap()).unwrap(), ScoreRow::rows(&frames.scores.unwrap()).unwrap())
}

fn trained(lab: &Lab) -> BTreeMap<String, usize> {
    let starts = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Started { .. })).count();
    let histories = lab.histories("runs");
    histories.iter().filter(|(run, _)| !run.starts_with("task-")).map(|(run, events)| (run.clone(), starts(events))).collect()
}

#[test]
fn every_model_writes_every_prompt_and_the_scores_are_those_of_its_texts() {
    let (lab, experiment) = lab();
    lab.write("x.toml", &experiment);
    lab.ok(&["run", "x.toml"]);
    let before = trained(&lab);
    assert!(!lab.path().join("results/x/scores.parquet").exists());

    lab.write("x.toml", &format!("{experiment}{TASK}"));
    lab.ok(&["run", "x.toml"]);
    assert_eq!(trained(&lab), before, "a task trains nothing");
    let (written, scores) = texts(&lab, "results/x");
    assert_eq!(written.len(), 5 * 5 * 3, "5 models, 5 prompts, 3 samples");
    assert_eq!(scores.len(), 5 * 5 * 5);
    for row in &scores {
        let own: Vec<&GenerationRow> =
            written.iter().filter(|text| (&text.run, &text.prompt) == (&row.run, &row.prompt)).collect();
        assert_eq!((own.len(), row.task.as_str()), (3, "sums"));
        let n: usize = own[0].input.split(' ').next().unwrap().parse().unwrap();
        let reference = format!(" {}", 2 * n);
        let sample = |text: &&GenerationRow| (text.text.clone(), text.finish == "length" || text.finish == "context");
        let samples: Vec<(String, bool)> = own.iter().map(sample).collect();
        let samples: Vec<Sample> = samples.iter().map(|(text, truncated)| Sample { text, truncated: *truncated }).collect();
        match Score::parse(&row.score).unwrap() {
            Score::TeacherNll => assert!(row.value > 0.0 && row.value < 20.0, "{row:?}"),
            score => assert_eq!(score.value(&samples, &[&reference]).unwrap(), row.value, "{row:?}"),
        }
    }
    lab.ok(&["verify", "x.toml"]);
    lab.ok(&["report", "x.toml"]);
    assert_eq!(lab.run(&["run", "x.toml"]).status.code(), Some(0));
    assert_eq!(texts(&lab, "results/x").0, written, "nothing is written twice");
}

#[test]
fn any_mesh_writes_the_same_texts() {
    let (lab, experiment) = lab();
    let greedy =
        TASK.replace("samples = 3\ndecode = { temperature = 1.0, top_k = 50 }", "samples = 1").replace("\"pass@2\", ", "");
    lab.write("x.toml", &format!("{experiment}{TASK}"));
    lab.ok(&["run", "x.toml"]);
    let (one, _) = texts(&lab, "results/x");
    // The same weights, asked again with other ranks: data-parallel ranks change no bit, tensor-parallel ones only the rounding.
    for (run, _) in lab.histories("runs").into_iter().filter(|(run, _)| run.starts_with("task-")) {
        std::fs::remove_dir_all(lab.path().join("runs").join(run)).unwrap();
    }
    lab.ok(&["run", "x.toml", "--dp", "2"]);
    assert_eq!(texts(&lab, "results/x").0, one);
    lab.write("y.toml", &format!("{experiment}{greedy}"));
    lab.ok(&["run", "y.toml"]);
    let (one, _) = texts(&lab, "results/y");
    for (run, _) in lab.histories("runs").into_iter().filter(|(run, _)| run.starts_with("task-")) {
        std::fs::remove_dir_all(lab.path().join("runs").join(run)).unwrap();
    }
    lab.ok(&["run", "y.toml", "--tp", "2"]);
    assert_eq!(texts(&lab, "results/y").0, one);
}

/// A job that would write for minutes ends at the first ctrl-C, and counts as not done.
#[test]
fn a_first_ctrl_c_ends_a_writing_job_and_the_next_run_writes_it_whole() {
    let (lab, experiment) = lab();
    lab.write("x.toml", &experiment);
    lab.ok(&["run", "x.toml"]);
    let long = TASK.replace("samples = 3", "samples = 10000");
    lab.write("x.toml", &format!("{experiment}{long}"));
    let mut session = lab.start(&["run", "x.toml"]);
    let writing = || {
        let events = lab.histories("runs");
        events
            .iter()
            .any(|(run, events)| run.starts_with("task-") && events.iter().any(|event| matches!(event, Event::Progress { .. })))
    };
    until(writing);
    Command::new("kill").args(["-INT", &session.id().to_string()]).status().unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(session.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    let done = |events: &[Event]| events.contains(&Event::Done);
    assert!(lab.histories("runs").iter().any(|(run, events)| run.starts_with("task-") && !done(events)));

    lab.write("x.toml", &format!("{experiment}{TASK}"));
    lab.ok(&["run", "x.toml"]);
    assert_eq!(texts(&lab, "results/x").0.len(), 5 * 5 * 3);
}

#[test]
fn a_prompt_that_is_longer_than_the_context_is_refused_with_its_line() {
    let (lab, experiment) = lab();
    let long = "7 + ".repeat(40);
    lab.write("long/train/x.jsonl", "{\"src\": \"2 =\", \"tgt\": \"2\"}\n");
    lab.write("long/valid/x.jsonl", &format!("{{\"src\": \"1 =\", \"tgt\": \"1\"}}\n{{\"src\": \"{long}\", \"tgt\": \"2\"}}\n"));
    lab.write("x.toml", &format!("{experiment}[task.a]\ndata = {{ path = \"long\" }}\nscore = [\"exact-match\"]\n"));
    let found = lab.run(&["run", "x.toml"]);
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(2), "{said}");
    assert!(said.contains("x.jsonl:2: the prompt has") && said.contains("context of 32"), "{said}");
    assert!(trained(&lab).values().all(|&starts| starts == 0), "before any work");
}
