//! Renaming arms, moving files, or adding comments and claims retrains nothing; changing the data does. Oracle: the starts that the
//! journals record.

use hydrometer::record::journal::Event;
use serde_json::Value;

use super::lab::{EXPERIMENT, Lab};

fn starts(lab: &Lab) -> usize {
    lab.histories("runs").values().flatten().filter(|event| matches!(event, Event::Started { .. })).count()
}

fn left(lab: &Lab, file: &str) -> Value {
    let plan = lab.run(&["plan", file, "--output", "json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    plan["left"]["runs_left"].clone()
}

#[test]
fn renamed_arms_and_teachers_reuse_finished_runs_under_their_new_names() {
    let lab = Lab::new();
    let two = EXPERIMENT.replace("[method.logit-mse]\nobjective = \"logit-mse\"\ntop_k = 20\n", "");
    lab.write("lab.toml", &two);
    lab.ok(&["run", "lab.toml"]);
    let before = starts(&lab);
    assert_eq!(before, 7, "teacher, cache, baseline, two students and their fidelities");

    let claim = "[[claim]]\nid = \"c\"\na = { method = \"plain\" }\nexpect = \"nll(a) < 9\"\n";
    let renamed = two.replace("[method.finetune]", "[method.plain]").replace("[teacher.big]", "[teacher.grand]");
    std::fs::create_dir(lab.path().join("texts")).unwrap();
    std::fs::rename(lab.path().join("train.txt"), lab.path().join("texts/t.txt")).unwrap();
    let moved = renamed.replace("\"train.txt\"", "\"texts/t.txt\"").replace("question", "# so what\nquestion");
    lab.write("other.toml", &format!("{moved}{claim}"));
    assert_eq!(left(&lab, "other.toml"), 0);
    lab.ok(&["run", "other.toml"]);
    let names = |results: &str| -> Vec<String> {
        let frames = lab.frames(results);
        frames[0].column("run").unwrap().str().unwrap().iter().flatten().map(String::from).collect()
    };
    let (old, new) = (names("results/lab"), names("results/other"));
    assert!(new[0].starts_with("plain-s0-") && new[2].starts_with("teacher-grand-"), "{new:?}");
    assert_eq!(old[0].rsplit('-').next(), new[0].rsplit('-').next());
    assert_eq!(lab.frames("results/lab")[1].height(), lab.frames("results/other")[1].height());
    let runs = std::fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap());
    let mut folders: Vec<_> = runs.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.file_name()).collect();
    folders.sort();
    assert_eq!(folders.len(), 8, "one folder per job, and the data: {folders:?}");

    // After renaming within the experiment itself, no run appears twice in its frames.
    lab.write("lab.toml", &moved);
    lab.ok(&["run", "lab.toml"]);
    assert_eq!(names("results/lab"), new);

    // An experiment that shares recipes trains only the new runs, under the new names.
    lab.write("more.toml", &renamed.replace("\"train.txt\"", "\"texts/t.txt\"").replace("seeds   = 1", "seeds   = 2"));
    lab.ok(&["run", "more.toml"]);
    let done = lab.histories("runs").iter().filter(|(run, _)| run.contains("-s1-")).count();
    assert_eq!(done, 2);
    let finetune = lab.histories("runs").into_iter().find(|(run, _)| run.starts_with("finetune-s0")).unwrap().1;
    assert_eq!(finetune.iter().filter(|event| **event == Event::Done).count(), 1);

    let text = std::fs::read_to_string(lab.path().join("texts/t.txt")).unwrap();
    lab.write("texts/t.txt", &text.replacen("king", "queen", 1));
    assert_eq!(left(&lab, "other.toml"), 3, "changed text is changed data: both students and their teacher are trained again");
}

#[test]
fn a_second_run_starts_nothing_and_writes_no_frame() {
    let lab = Lab::trained();
    let before = starts(&lab);
    let written = |name: &str| std::fs::metadata(lab.path().join("results/lab").join(name)).unwrap().modified().unwrap();
    let frames = ["runs.parquet", "curves.parquet", "provenance.json"];
    let times = frames.map(written);
    lab.ok(&["run", "lab.toml", "--jobs", "2"]);
    assert_eq!((starts(&lab), frames.map(written)), (before, times));

    // A session that died while writing frames leaves inconsistent ones; the next session rewrites them.
    let curves = lab.path().join("results/lab/curves.parquet");
    let whole = std::fs::read(&curves).unwrap();
    std::fs::copy(lab.path().join("results/lab/evals.parquet"), &curves).unwrap();
    lab.ok(&["run", "lab.toml"]);
    assert_eq!((starts(&lab), std::fs::read(&curves).unwrap() == whole), (before, true));
}

#[test]
fn a_resumed_run_keeps_its_number_of_threads() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        eprintln!("SKIPPED: this machine has one core, so there is nothing to divide");
        return;
    }
    let long = EXPERIMENT.replace("12.8k", "40k");
    let (calm, lab) = (Lab::on_all_cores(), Lab::on_all_cores());
    calm.write("lab.toml", &long);
    calm.ok(&["run", "lab.toml", "--only", "finetune", "--jobs", "2"]);
    lab.write("lab.toml", &long);
    let mut program = lab.start(&["run", "lab.toml", "--only", "finetune", "--jobs", "2"]);
    super::lab::until(|| lab.path().join("runs").exists() && lab.numbers("runs").len() > 40);
    std::process::Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    program.wait().unwrap();
    lab.ok(&["run", "lab.toml", "--only", "finetune"]);
    let threads = |lab: &Lab| -> Vec<i64> {
        let threads = |event: &Event| if let Event::Started { threads, .. } = event { Some(*threads) } else { None };
        lab.histories("runs").values().flatten().filter_map(threads).collect()
    };
    let each = std::thread::available_parallelism().unwrap().get() as i64 / 2;
    assert_eq!(
        (threads(&calm), threads(&lab)),
        (vec![each], vec![each; 2]),
        "the cores are divided, and the run keeps its share"
    );
    assert_eq!(lab.numbers("runs"), calm.numbers("runs"));
}
