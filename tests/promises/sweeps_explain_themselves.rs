//! `plan`, `status` and `why` answer a user's questions about a sweep that has run.

use serde_json::Value;

use super::lab::{EXPERIMENT, Lab};

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let output = lab.run(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn plan_status_and_why_report_remaining_failed_and_new_runs() {
    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("[method.logit-mse]\nobjective = \"logit-mse\"\ntop_k = 20\n", ""));
    let plan = json(&lab, &["plan", "lab.toml"]);
    assert_eq!((&plan["left"]["runs_left"], &plan["left"]["seconds_left"]), (&3.into(), &Value::Null));
    assert_eq!((plan["totals"]["tokens"].as_u64(), plan["totals"]["teacher_tokens"].as_u64()), (Some(25_600), Some(10_000)));
    assert_eq!(plan["fair"]["fair"], true);
    lab.ok(&["run", "lab.toml"]);
    let status = json(&lab, &["status", "lab.toml"]);
    assert_eq!((status["done"].as_u64(), status["total"].as_u64()), (Some(2), Some(2)));

    // Two more runs, estimated at the speed of the finished ones. Comments, paths and claims do not make a run new.
    let claim = "[[claim]]\nid = \"c\"\na = { lr = 1e-3, method = \"finetune\" }\nexpect = \"nll(a) < 9\"\n";
    let text = std::fs::read_to_string(lab.path().join("lab.toml")).unwrap();
    lab.write(
        "more.toml",
        &format!("# more\n{text}\n[sweep]\ngrid = {{ lr = [3e-3, 1e-3] }}\n[fair]\nmatch = \"tokens\"\n{claim}"),
    );
    let plan = json(&lab, &["plan", "more.toml"]);
    assert_eq!(plan["left"]["runs_left"], 2, "an axis is part of a run's name but not of its identity");
    assert!(plan["left"]["seconds_left"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0));
    let new = plan["runs"].as_array().unwrap().iter().find(|run| run["name"] == "finetune lr=0.001").unwrap();
    let why = json(&lab, &["why", new["run"].as_str().unwrap(), "more.toml"]);
    assert!(why["nearest"].as_str().unwrap().starts_with("finetune-s0-"));
    let [difference] = &why["differences"].as_array().unwrap()[..] else { panic!("{why}") };
    assert_eq!((&difference["field"], &difference["mine"]), (&"optimizer.lr".into(), &0.001.into()));

    // The data's content is part of a run's identity, and a failed run shows the end of its log.
    lab.write("train.txt", "Other words.\n\nAnd no more.\n");
    let why = json(&lab, &["why", "finetune-s0", "lab.toml"]);
    assert_eq!(why["differences"][0]["field"], "data.content.train");
    let cut = std::fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let soft = cut.into_iter().find(|path| path.to_string_lossy().contains("soft-ce-s0")).unwrap();
    std::fs::write(soft.join("log.txt"), "first\nlast words\n").unwrap();
    let failed = "{\"event\":\"failed\",\"error\":\"no more memory\"}";
    let line = format!("{:08x} {failed}\n", crc32fast::hash(failed.as_bytes()));
    std::fs::write(soft.join("journal.jsonl"), line).unwrap();
    let lab_again = Lab::new();
    std::fs::write(lab.path().join("train.txt"), std::fs::read(lab_again.path().join("train.txt")).unwrap()).unwrap();
    let output = lab.run(&["status", "lab.toml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("lab: 1/2 runs done") && said.contains("no more memory") && said.contains("| last words"), "{said}");
}
