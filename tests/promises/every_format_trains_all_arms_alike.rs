//! An example file in each format trains finetuning and both distilled arms, which differ only in the objective.
//!
//! Oracle for "only": at the first step, with the same weights and batch, the cross-entropy on the labels is the same in every arm (up
//! to the order of a sum), whatever the arm trains on. Prompts count in no arm.

use hydrometer::record::journal::{self, Event};
use polars::prelude::*;
use polars_io::SerReader;
use polars_io::prelude::ParquetReader;

use super::lab::{Lab, three_arms};
use super::metaseq_lines_give_what_metaseq_derives::fixture;

/// Runs three arms on `file`; each update uses all target tokens of the file.
fn arms(file: &str, teacher: &str, mse: &str, data: &str) -> (Lab, String) {
    let lab = Lab::new();
    let (path, tokenizer) = (fixture(file), fixture("tokenizer.json"));
    let data = format!("train = {path:?}, valid = {path:?}, tokenizer = {tokenizer:?}{data}");
    lab.write("formats.toml", &three_arms(&data, 20, 4, teacher, mse));
    let output = lab.run(&["run", "formats.toml", "--results", "results"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{file}: {said}");
    (lab, said)
}

/// The first step of each student: loss and loss on the labels.
fn first_steps(lab: &Lab) -> Vec<(String, f64, f64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(lab.path().join("runs")).unwrap() {
        let (name, path) = entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).unwrap();
        let events = journal::read(&path.join("journal.jsonl")).unwrap();
        let student = ["finetune", "soft-ce", "logit-mse"].iter().any(|arm| name.starts_with(arm));
        if let (true, Some(Event::Step(step))) = (student, events.iter().find(|event| matches!(event, Event::Step(_)))) {
            assert!(matches!(events.last(), Some(Event::Done)), "{name}");
            all.push((name, step.loss, step.hard_loss));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn alike(lab: &Lab, file: &str) {
    let steps = first_steps(lab);
    let [finetune, logit_mse, soft_ce] = &steps[..] else { panic!("{file}: {steps:?}") };
    assert_eq!(finetune.1, finetune.2, "{file}");
    for arm in [logit_mse, soft_ce] {
        // The head sums a teacher's listed ids separately from the others, hence the tolerance; another batch would differ far more.
        assert!((arm.2 - finetune.2).abs() < 1e-8, "{file}: the arms see the same batch: {arm:?} {finetune:?}");
    }
    assert!(logit_mse.1 != finetune.1 && soft_ce.1 != finetune.1, "{file}: the objectives differ");
}

/// A column of the teacher's import.
fn imported(lab: &Lab, column: &str) -> f64 {
    let file = std::fs::File::open(lab.path().join("results/imports.parquet")).unwrap();
    let frame = ParquetReader::new(file).finish().unwrap();
    let roles = frame.column("role").unwrap().str().unwrap();
    let row = roles.iter().position(|role| role == Some("teacher")).unwrap();
    let cast = frame.column(column).unwrap().cast(&DataType::Float64).unwrap();
    cast.f64().unwrap().get(row).unwrap_or(f64::NAN)
}

fn recorded(file: &str) -> String {
    format!("recorded = {:?}", fixture(file))
}

const TRAINED: &str = r#"
model = { hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
tokens = 40"#;

#[test]
fn pairs_and_documents_train_with_a_trained_teacher() {
    for file in ["src-tgt.jsonl", "prompt-completion.jsonl", "text.jsonl"] {
        let (lab, _) = arms(file, TRAINED, "", "");
        alike(&lab, file);
    }
}

#[test]
fn metaseq_files_train_all_arms() {
    for file in ["metaseq-training.jsonl", "metaseq-inference.jsonl"] {
        let (lab, said) = arms(file, &recorded(file), "centered = true", "");
        alike(&lab, file);
        assert!(said.contains("ids unmapped") && said.contains("of another context"), "{said}");
        assert!(imported(&lab, "unmapped") > 0.0 && imported(&lab, "duplicate") > 0.0, "{file}");
        assert_eq!(imported(&lab, "mismatched_context"), 0.0, "{file}: the student reads what the teacher has read");
    }
    let (lab, _) = arms("metaseq-logits.jsonl", &recorded("metaseq-logits.jsonl"), "", ", input = \"teacher-argmax\"");
    alike(&lab, "metaseq-logits.jsonl");
    assert_eq!(imported(&lab, "mismatched_context"), 0.05, "one row of twenty");
}

#[test]
fn completions_and_chats_of_an_api_train_all_arms() {
    for (file, rows, unmapped) in [("openai-completions.jsonl", 14.0, 1.0 / 30.0), ("openai-chat.jsonl", 8.0, 1.0 / 15.0)] {
        let (lab, _) = arms(file, &recorded(file), "centered = true", ", eos = \"none\"");
        alike(&lab, file);
        assert_eq!((imported(&lab, "rows"), imported(&lab, "unmapped")), (rows, unmapped), "{file}");
        assert_eq!(imported(&lab, "duplicate"), 0.0, "{file}: a sampled token joins its alternatives once");
        assert!(imported(&lab, "short_k") > 0.5, "{file}: an API gives fewer than it is asked for");
    }
}

#[test]
fn generated_files_train_all_arms() {
    let (lab, _) = arms("generated.jsonl", &recorded("generated.jsonl"), "centered = true", "");
    alike(&lab, "generated.jsonl");
    assert_eq!((imported(&lab, "rows"), imported(&lab, "unmapped")), (7.0, 0.0));
}

#[test]
fn prompts_and_generations_of_vllm_train_all_arms() {
    for (file, rows) in [("vllm-prompt.jsonl", 16.0), ("vllm-outputs.jsonl", 7.0)] {
        let (lab, _) = arms(file, &recorded(file), "centered = true", "");
        alike(&lab, file);
        assert_eq!((imported(&lab, "rows"), imported(&lab, "unmapped")), (rows, 0.0), "{file}");
    }
}
