//! Oracle: `hydrometer eval` of the same folder on the same text.

use std::path::{Path, PathBuf};

use hydrometer::record::journal::{self, Event};
use hydrometer::record::metric::Metric;
use serde_json::Value;

use super::fixtures::folder;
use super::lab::Lab;

/// Students that keep some layers of a checkpoint. One teacher is the whole checkpoint, the other is the checkpoint adapted to the text.
fn experiment(checkpoint: &Path) -> String {
    let hf = checkpoint.display();
    format!(
        r#"
[base]
data    = {{ train = "train.txt", valid = "valid.txt" }}
student = {{ hf = "{hf}", layers = [1] }}
context = 32
tokens  = "4k"
batch   = 256
lr      = 1e-2
seeds   = 1

[teacher.whole]
hf = "{hf}"

[teacher.adapted]
hf    = "{hf}"
adapt = {{ tokens = "12k", lr = 3e-3 }}

[method.finetune]
objective = "hard-ce"

[method.whole]
objective = "soft-ce"
teacher   = "whole"
tail      = "bucket"

[method.adapted]
objective = "kl-forward"
teacher   = "adapted"
"#
    )
}

fn events(lab: &Lab, run: &str) -> Vec<Event> {
    let runs = std::fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let mine: Vec<PathBuf> = runs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(run)).collect();
    assert_eq!(mine.len(), 1, "{run}: {mine:?}");
    journal::read(&mine[0].join(journal::FILE)).unwrap()
}

fn last_nll(lab: &Lab, run: &str) -> f64 {
    let mut nlls = events(lab, run)
        .into_iter()
        .filter_map(|e| if let Event::Evaluation(found) = e { found.scores[Metric::Nll] } else { None });
    nlls.next_back().unwrap()
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let output = lab.run(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn checkpoints_serve_as_truncated_students_and_as_teachers_adapted_or_not() {
    let lab = Lab::new();
    lab.write("hf.toml", &experiment(&folder("smollm2")));
    let plan = json(&lab, &["plan", "hf.toml"]);
    let teachers = plan["teachers"].as_array().unwrap();
    let of = |name: &str| teachers.iter().find(|teacher| teacher["name"] == name).unwrap();
    assert_eq!((&of("whole")["tokens"], &of("adapted")["tokens"]), (&0.into(), &12000.into()));
    assert_eq!(of("whole")["train_flops"], 0.0);
    assert!(of("adapted")["train_flops"].as_f64().unwrap() > 0.0);
    lab.ok(&["run", "hf.toml"]);

    // The untrained teacher has the NLL that `eval` measures for the checkpoint.
    let model = folder("smollm2");
    let found = json(&lab, &["eval", "--model", model.to_str().unwrap(), "--data", "valid.txt", "--context", "32"]);
    let (nll, untouched) = (found["nll"].as_f64().unwrap(), last_nll(&lab, "teacher-whole"));
    assert!((untouched - nll).abs() < 1e-6 * nll, "{untouched}, not {nll}");
    assert!(last_nll(&lab, "teacher-adapted") < nll - 0.5);
    assert!(last_nll(&lab, "finetune") < nll - 0.5);
    // The unadapted teacher has not learned the text, so its student is worse.
    assert!(last_nll(&lab, "adapted-s0") < last_nll(&lab, "whole-s0"));
    // Each teacher has one cache, and all arms start from the checkpoint's weights: their first losses on the labels agree.
    let first =
        |run: &str| events(&lab, run).into_iter().find_map(|e| if let Event::Step(s) = e { Some(s.hard_loss) } else { None });
    let hard = first("finetune-s0").unwrap();
    for taught in ["whole-s0", "adapted-s0"] {
        let same = first(taught).unwrap();
        assert!((same - hard).abs() < 1e-6 * hard, "{taught}: {same}, not {hard}");
    }

    // Fidelity is measured against a student's own teacher. With two teachers, the finetuned arm is compared with neither.
    let compared = |student: &str| {
        let runs = std::fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
        let jobs = runs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("fidelity-"));
        let mine =
            jobs.filter(|path| std::fs::read_to_string(path.join("job.json")).unwrap().contains(&format!("runs/{student}")));
        let events = mine.flat_map(|path| journal::read(&path.join(journal::FILE)).unwrap());
        events
            .filter_map(|e| if let Event::FidelityMeasured { scores, .. } = e { scores[Metric::KlToTeacher] } else { None })
            .collect::<Vec<_>>()
    };
    let (whole, adapted) = (compared("whole-s0"), compared("adapted-s0"));
    assert!(whole.len() == 1 && adapted.len() == 1 && compared("finetune-s0").is_empty(), "{whole:?} {adapted:?}");
    assert!(whole[0] > 0.0 && adapted[0] > 0.0);

    // An exported run is a checkpoint that evaluates as the run did.
    lab.ok(&["export", "finetune-s0", "--out", "trained"]);
    let found = json(&lab, &["eval", "--model", "trained", "--data", "valid.txt", "--context", "32"]);
    let (nll, trained) = (found["nll"].as_f64().unwrap(), last_nll(&lab, "finetune"));
    assert!((trained - nll).abs() < 1e-6 * nll, "{trained}, not {nll}");
    assert_eq!(lab.run(&["export", "teacher-whole", "--out", "again"]).status.code(), Some(2));
}

#[test]
fn checkpoints_are_identified_by_content_not_by_path() {
    let lab = Lab::new();
    lab.write("hf.toml", &experiment(&folder("smollm2")));
    let runs = |plan: &Value| -> Vec<String> {
        let all = plan["runs"].as_array().unwrap().iter().chain(plan["teachers"].as_array().unwrap());
        all.map(|run| run["run"].as_str().unwrap().to_string()).collect()
    };
    let here = runs(&json(&lab, &["plan", "hf.toml"]));
    let moved = lab.path().join("moved");
    std::fs::create_dir(&moved).unwrap();
    for file in std::fs::read_dir(folder("smollm2")).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(file.path(), moved.join(file.file_name())).unwrap();
    }
    lab.write("hf.toml", &experiment(&moved));
    assert_eq!(runs(&json(&lab, &["plan", "hf.toml"])), here);
    lab.write("hf.toml", &experiment(&folder("llama")));
    assert!(runs(&json(&lab, &["plan", "hf.toml"])).iter().all(|run| !here.contains(run)));
}

/// A tokenizer with two letters swapped, and one with an additional padding token.
#[test]
fn mismatched_tokenizers_are_refused_with_the_tokens_that_differ() {
    let lab = Lab::new();
    let original = std::fs::read_to_string(folder("smollm2").join("tokenizer.json")).unwrap();
    let (e, t) = (id(&original, "e"), id(&original, "t"));
    let swapped =
        original.replace(&format!("\"e\":{e},"), &format!("\"e\":{t},")).replace(&format!("\"t\":{t},"), &format!("\"t\":{e},"));
    lab.write("swapped.json", &swapped);
    let text =
        experiment(&folder("smollm2")).replace("valid = \"valid.txt\"", "valid = \"valid.txt\", tokenizer = \"swapped.json\"");
    lab.write("hf.toml", &text);
    let output = lab.run(&["plan", "hf.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("differ in 2 tokens"), "{said}");
    assert!(said.contains(&format!("{e} is \"t\" and \"e\", {t} is \"e\" and \"t\"")), "{said}");

    let padding =
        r#"{"id":97,"content":"<pad>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}"#;
    let padded = original.replacen("\"special\":true}", &format!("\"special\":true}},{padding}"), 1);
    lab.write("swapped.json", &padded);
    lab.ok(&["plan", "hf.toml"]);

    lab.write("hf.toml", &text.replace("tokenizer = \"swapped.json\"", "tokenizer = { bpe = 300 }"));
    let output = lab.run(&["plan", "hf.toml"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the data's is trained here; set tokenizer ="));
}

fn id(tokenizer: &str, token: &str) -> u64 {
    let json: Value = serde_json::from_str(tokenizer).unwrap();
    json["model"]["vocab"][token].as_u64().unwrap()
}
