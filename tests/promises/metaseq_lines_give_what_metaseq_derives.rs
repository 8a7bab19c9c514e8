//! Lines of metaseq's formats give exactly the inputs, targets, weights and masks that metaseq #736 derives from them.
//!
//! The oracle for ids and mask is metaseq's own unit test (tests/test_streaming_distillation_language_modelling_task.py); for scores it
//! is the fixture, evaluated by hand. The fixture's scores are multiples of the cache's unit, so they are stored exactly.

use std::path::{Path, PathBuf};

use hydrometer::data::batch::Row;
use hydrometer::data::sequences::sequences;
use hydrometer::data::tokens::{TokenizedSplit, prepare};
use hydrometer::experiment::{Experiment, Options, load};
use hydrometer::model::batch::Batch;
use hydrometer::objective::{Objective, Tail};
use hydrometer::sweep::job::{data_folder, recording_place};
use hydrometer::teacher::cache::Cache;
use hydrometer::teacher::recording::Origin;
use hydrometer::teacher::{imported, recorded};
use tch::{Device, Tensor};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

/// The ids in metaseq's unit test: the source and `TL;DR` (28 tokens), the teacher's most likely tokens (13), `</s>`.
const METASEQ_IDS: [u32; 42] = [
    7061, 111, 766, 10975, 7083, 8913, 783, 7479, 443, 10975, 14853, 2100, 7479, 284, 40700, 352, 10975, 2362, 742, 50118, 50118,
    565, 462, 131, 10232, 22290, 131, 10644, 726, 8913, 783, 11, 5, 343, 2100, 16, 45, 284, 5192, 6928, 4, 2,
];
const SOFT_CE: Objective = Objective::SoftCe { tail: Tail::Raw, temperature: 1.0 };
const LOGIT_MSE: Objective = Objective::LogitMse { centered: false, mse_mean: false };

/// The train split of `file` and its cache, prepared as `run` prepares them.
struct Prepared {
    _folder: tempfile::TempDir,
    experiment: Experiment,
    split: TokenizedSplit,
    cache: Cache,
}

fn experiment(file: &str, data: &str, objective: &str) -> (tempfile::TempDir, anyhow::Result<Experiment>) {
    let folder = tempfile::tempdir().unwrap();
    let (path, tokenizer) = (fixture(file), fixture("tokenizer.json"));
    let toml = format!(
        r#"
[base]
data = {{ train = {path:?}, valid = {path:?}, tokenizer = {tokenizer:?}, prompt_eos = "TL;DR", {data} }}
student = {{ hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }}
tokens = 64
batch = 16
seeds = 1
[teacher.api]
recorded = {path:?}
[method.soft]
objective = "{objective}"
top_k = 5
"#
    );
    let file = folder.path().join("x.toml");
    std::fs::write(&file, toml).unwrap();
    let experiment = load(&file, &Options { smoke: false, tp: 1, dp: 1 });
    (folder, experiment)
}

fn prepared(file: &str, data: &str, objective: &str) -> anyhow::Result<Prepared> {
    let (folder, experiment) = experiment(file, data, objective);
    let experiment = experiment?;
    let runs = folder.path().join("runs");
    let (student, recording) = (&experiment.students[0], &experiment.recordings[0]);
    let data = data_folder(&runs, &student.recipe.data);
    prepare(&student.recipe.data, &student.data, &["train"], &data)?;
    let place = recording_place(&runs, recording);
    let Origin::File(file) = &recording.origin else { panic!("no file") };
    recorded::prepare(recording, file, &data, &place.folder, &place.title, &[("soft", student.recipe.loss.objective)])?;
    let split = TokenizedSplit::read(&data.join("train.tokens"))?;
    let cache = Cache::open(&place.folder, &place.title)?;
    Ok(Prepared { _folder: folder, experiment, split, cache })
}

impl Prepared {
    /// The batch of the first line.
    fn batch(&self) -> (Vec<Row>, Batch) {
        let context = self.experiment.students[0].recipe.data.context;
        let rows = vec![Row::counted(sequences(&self.split, context)[0])];
        let batch = Batch::new(&rows, &self.split, Device::Cpu);
        (rows, batch)
    }

    /// Ids and logprobs (or logits) of the first line's targets, without those of probability 0.
    fn answers(&self, objective: Objective) -> Vec<Vec<(i64, f64)>> {
        let teacher = self.cache.answers(&self.batch().0, &self.split, objective, 5, Device::Cpu).unwrap();
        let hydrometer::objective::targets::Ids::Listed { ids_nk, .. } = teacher.ids else { panic!() };
        let scores = if objective.compares_logits() { teacher.logits_nk } else { teacher.logprobs_nk };
        let (ids, scores) = (
            Vec::<Vec<i64>>::try_from(ids_nk).unwrap(),
            Vec::<Vec<f64>>::try_from(scores.unwrap().to_kind(tch::Kind::Double)).unwrap(),
        );
        let row =
            |(ids, scores): (Vec<i64>, Vec<f64>)| ids.into_iter().zip(scores).filter(|(_, score)| score.is_finite()).collect();
        ids.into_iter().zip(scores).map(row).collect()
    }

    fn error(result: anyhow::Result<Self>) -> String {
        result.err().expect("a mistake").to_string()
    }
}

fn whole(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.flatten(0, -1)).unwrap()
}

/// The first line's rows as metaseq sorts them, with `lse` added to the logprobs, and the row that it appends for the end token.
fn metaseq_rows(lse: f64, end: f64) -> Vec<Vec<(i64, f64)>> {
    // The id of a single space, the first of the two tokens that the text is encoded into.
    let space = i64::from(fixture_id("Ġ"));
    let rows: Vec<Vec<(i64, f64)>> = vec![
        vec![(726, -0.125), (133, -3.0), (11, -4.0), (5, -4.5), (10, -5.0)],
        vec![(8913, -0.0625), (783, -4.0), (352, -5.0), (10232, -6.0), (462, -7.0)],
        vec![(783, -0.03125), (352, -5.0), (462, -6.0), (10232, -6.5), (8913, -8.0)],
        vec![(11, -0.5), (16, -1.5), (5, -3.5), (4, -4.0), (10, -5.0)],
        vec![(5, -0.25), (10, -2.0), (343, -3.5), (2100, -6.0), (11, -7.0)],
        vec![(343, -0.125), (2100, -3.0), (4908, -4.0), (284, -6.0), (10, -7.0)],
        vec![(2100, -0.25), (16, -3.0), (4, -3.0), (10, -3.0), (11, -6.0)],
        vec![(16, -0.5), (2, -4.0), (space, -5.0), (8, -6.0)],
        vec![(45, -0.25), (10, -2.0), (5, -3.0)],
        vec![(284, -0.125), (10, -3.0), (920, -3.5), (5, -5.0), (5192, -6.0)],
        vec![(5192, -0.0625), (6928, -4.0), (352, -5.0), (4, -6.0), (40700, -7.0)],
        vec![(6928, -0.75), (2391, -1.0), (4, -2.0), (12942, -4.0), (8, -6.0)],
        vec![(4, -0.25), (11, -2.5), (30, -3.0), (583, -4.0), (8, -4.5)],
    ];
    let shifted = |row: Vec<(i64, f64)>| row.into_iter().map(|(id, score)| (id, score + lse)).collect();
    rows.into_iter().map(shifted).chain([vec![(2, end)]]).collect()
}

fn fixture_id(token: &str) -> u32 {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixture("tokenizer.json")).unwrap()).unwrap();
    json["model"]["vocab"][token].as_u64().unwrap() as u32
}

const AS_METASEQ: &str = r#"truncation = "right", input = "teacher-argmax", eos = "append""#;

#[test]
fn training_and_inference_lines_give_metaseqs_inputs_targets_and_weights() {
    for file in ["metaseq-training.jsonl", "metaseq-inference.jsonl"] {
        let prepared = prepared(file, AS_METASEQ, "logprobs_distillation").unwrap();
        assert_eq!(*prepared.split.document(0), METASEQ_IDS, "{file}");
        assert_eq!(prepared.split.prompt(0), Some(28), "{file}");
        let (_, batch) = prepared.batch();
        // Padded to a multiple of 8, like eos_pad_8; the 13 answer tokens and the end token count.
        assert_eq!(batch.inputs_bt.size(), [1, 48]);
        let inputs: Vec<i64> = METASEQ_IDS[..41].iter().map(|&id| i64::from(id)).collect();
        assert_eq!(whole(&batch.inputs_bt)[..41], inputs);
        assert_eq!(whole(&batch.positions_n), (27..41).collect::<Vec<i64>>());
        let labels: Vec<i64> = METASEQ_IDS[28..].iter().map(|&id| i64::from(id)).collect();
        assert_eq!(whole(&batch.labels_n), labels);
        assert_eq!(prepared.answers(SOFT_CE), metaseq_rows(0.0, 0.0), "{file}");
    }
}

#[test]
fn logits_are_used_unchanged_and_the_end_token_gets_the_highest_of_its_line() {
    let prepared = prepared("metaseq-logits.jsonl", AS_METASEQ, "logits_distillation").unwrap();
    assert_eq!(*prepared.split.document(0), METASEQ_IDS);
    assert_eq!(prepared.answers(LOGIT_MSE), metaseq_rows(12.0, 12.0 - 0.03125));
    // The file has a logprob beside each logit, so soft-ce can use it too.
    assert_eq!(prepared.answers(SOFT_CE), metaseq_rows(0.0, 0.0));
}

#[test]
fn by_default_the_student_reads_the_sampled_tokens() {
    let prepared = prepared("metaseq-training.jsonl", "truncation = \"right\"", "logprobs_distillation").unwrap();
    let mut sampled = METASEQ_IDS;
    sampled[39] = 2391;
    assert_eq!(*prepared.split.document(0), sampled);
    assert_eq!(prepared.answers(SOFT_CE), metaseq_rows(0.0, 0.0), "the targets are the same");
}

#[test]
fn sources_and_targets_are_truncated_as_in_metaseq() {
    let document = |data: &str, context: usize| {
        let (folder, loaded) = experiment("metaseq-training.jsonl", data, "logprobs_distillation");
        loaded.unwrap();
        let toml = std::fs::read_to_string(folder.path().join("x.toml"))
            .unwrap()
            .replace("tokens = 64", &format!("tokens = 64\ncontext = {context}"));
        std::fs::write(folder.path().join("x.toml"), toml).unwrap();
        let experiment = load(&folder.path().join("x.toml"), &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
        let student = &experiment.students[0];
        let data = data_folder(&folder.path().join("runs"), &student.recipe.data);
        prepare(&student.recipe.data, &student.data, &["train"], &data)
            .map(|()| TokenizedSplit::read(&data.join("train.tokens")).unwrap())
            .map(|split| (split.document(0).to_vec(), split.prompt(0).unwrap()))
            .map_err(|error| error.to_string())
    };
    let argmax = |rest: &str| format!("input = \"teacher-argmax\", {rest}");
    let end = &METASEQ_IDS[25..];
    // A context of 24: 13 targets, 3 tokens of `TL;DR`, 8 of the source.
    let left = [&METASEQ_IDS[17..25], end].concat();
    assert_eq!(document(&argmax("truncation = \"left\""), 24), Ok((left, 11)));
    let right = [&METASEQ_IDS[..8], end].concat();
    assert_eq!(document(&argmax("truncation = \"right\""), 24), Ok((right, 11)));
    // A target longer than the context is truncated to 70% of it. It then gets no end token, except in metaseq's mode.
    let cut = [&METASEQ_IDS[25..28], &METASEQ_IDS[28..35]].concat();
    assert_eq!(document(&argmax("truncation = \"right\""), 10), Ok((cut.clone(), 3)));
    let ended = [&cut[..], &[2]].concat();
    assert_eq!(document(&argmax("truncation = \"right\", eos = \"append\""), 10), Ok((ended, 3)));
    let error = document("truncation = \"none\"", 24).unwrap_err();
    let wanted = "metaseq-training.jsonl:1: 28 tokens to read and 13 to predict are more than the context of 24; set truncation";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn targets_lost_during_import_are_counted() {
    let prepared = prepared("metaseq-training.jsonl", AS_METASEQ, "logprobs_distillation").unwrap();
    let runs = prepared._folder.path().join("runs");
    let place = recording_place(&runs, &prepared.experiment.recordings[0]);
    let import = hydrometer::data::import::Import::read(&place.folder.join(imported::IMPORT)).unwrap();
    assert_eq!((import.examples, import.counts.rows, import.counts.entries), (2, 20, 99));
    // One text has bytes that are not UTF-8 and so no id, and two texts have the same id. Both rows are short, as is one whose texts
    // collided in the log. One row follows the first token that was sampled but is not the most likely one.
    assert_eq!((import.counts.unmapped, import.counts.duplicate), (1, 1));
    assert_eq!((import.short_k, import.counts.mismatched), (3, 1));
}

#[test]
fn a_metaseq_mode_selects_its_objective_and_missing_scores_are_refused() {
    let error = Prepared::error(prepared("metaseq-training.jsonl", AS_METASEQ, "logits_distillation"));
    assert!(error.contains("records log-probabilities, not logits, which soft compares; set centered = true"), "{error}");
    let (_folder, loaded) = experiment("metaseq-training.jsonl", AS_METASEQ, "hard_labels_distillation");
    let error = loaded.err().unwrap().to_string();
    assert!(error.contains("top_k does not apply to hard-ce"), "{error}");
    let (_folder, loaded) = experiment("metaseq-training.jsonl", AS_METASEQ, "logprob_distillation");
    assert!(loaded.err().unwrap().to_string().contains("did you mean \"logprobs_distillation\"?"));
}
