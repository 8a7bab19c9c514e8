//! Oracle: transformers' logits in f64 on the same folders, recorded in their `golden.safetensors`.

use std::path::{Path, PathBuf};
use std::process::Output;

use hydrometer::data::batch::Row;
use hydrometer::data::sequences::sequences;
use hydrometer::teacher::block::Answers;
use hydrometer::teacher::cache::Cache;
use hydrometer::teacher::manifest::CacheManifest;
use hydrometer::teacher::source::Source;
use serde_json::Value;
use tch::{Kind, Tensor};
use tempfile::TempDir;

use super::fixtures::{CHECKPOINTS, folder};
use super::lab::program;

fn hydrometer(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `teach` on the fixtures' text; returns the JSON that it prints about the cache.
fn teach(checkpoint: &str, out: &Path, more: &[&str]) -> Value {
    let (model, data) = (folder(checkpoint), folder("text.jsonl"));
    let always = ["teach", "--model", path(&model), "--data", path(&data), "--out", path(out), "--context", "64"];
    let output = hydrometer(&[&always[..], &["--output", "json"], more].concat());
    assert!(output.status.success(), "{checkpoint} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The targets of the first sequence of the text, and its tokens.
fn answers(out: &Path) -> (Answers, Vec<u32>, CacheManifest) {
    let title = CacheManifest::read(out).unwrap();
    let cache = Cache::open(out, &title).unwrap();
    let source = Source::all(out).unwrap().remove(0);
    let split = source.split(out).unwrap();
    let first = sequences(&split, source.context)[0];
    (cache.read(&Row::whole(first), &split).unwrap(), first.inputs(&split).to_vec(), title)
}

/// Logprobs and lse agree with transformers within 10⁻⁴, and ids wherever neighbouring logits differ by more than 10⁻⁴.
#[test]
fn ids_and_logprobs_agree_at_any_number_of_ranks() {
    let k = 20;
    for checkpoint in CHECKPOINTS {
        let golden = Tensor::read_safetensors(folder(checkpoint).join("golden.safetensors")).unwrap();
        let get = |name: &str| &golden.iter().find(|(found, _)| found == name).unwrap().1;
        let ids = Vec::<i64>::try_from(get("ids")).unwrap();
        let logits = get("logits").to_kind(Kind::Double);
        for tp in ["1", "2", "4"] {
            let out = tempfile::tempdir().unwrap();
            teach(checkpoint, out.path(), &["--top-k", "20", "--temperatures", "1,2", "--tp", tp]);
            let (found, inputs, _) = answers(out.path());
            assert!(inputs.len() > 10);
            for (position, _) in inputs.iter().zip(&ids).enumerate() {
                assert_eq!(i64::from(inputs[position]), ids[position]);
                let row = logits.get(position as i64);
                let expected = row.log_softmax(-1, Kind::Double);
                for (temperature, column) in [(1.0, 0), (2.0, 1)] {
                    let lse = (&row / temperature).logsumexp([0], false).double_value(&[]);
                    assert!((f64::from(found.lse[2 * position + column]) - lse).abs() < 1e-4, "{checkpoint} tp {tp}: lse");
                }
                let (best, best_ids) = expected.topk(k + 1, 0, true, true);
                for rank in 0..k as usize {
                    let (id, logprob) = (found.ids[position * k as usize + rank], found.logprobs[position * k as usize + rank]);
                    let own = expected.double_value(&[i64::from(id)]);
                    assert!((own - f64::from(logprob)).abs() < 1e-4, "{checkpoint} tp {tp}: {logprob} for {own}");
                    let at = |rank: usize| best.double_value(&[rank as i64]);
                    let alone = at(rank) - at(rank + 1) > 1e-4 && (rank == 0 || at(rank - 1) - at(rank) > 1e-4);
                    assert!(!alone || best_ids.int64_value(&[rank as i64]) == i64::from(id), "{checkpoint} tp {tp}: rank {rank}");
                }
            }
        }
    }
}

#[test]
fn inspecting_a_cache_reports_its_content_and_agrees_with_its_teacher() {
    let out = tempfile::tempdir().unwrap();
    let taught = teach("llama", out.path(), &["--top-k", "64", "--draws", "5"]);
    assert_eq!(taught["title"]["kept"]["top_k"], 64);
    let output = hydrometer(&["teach", "--inspect", path(out.path()), "--output", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["tokens"], &found["sequences"]), (&taught["tokens"], &taught["sequences"]));
    let mass = |k: &str| found["retained_mass"][k].as_f64().unwrap();
    assert!(mass("1") < mass("20") && mass("20") < mass("64") && mass("64") < 1.0);
    let agreement = &found["agreement"];
    assert_eq!((&agreement["top_1"], &agreement["ids"], &agreement["draws"]), (&1.0.into(), &1.0.into(), &1.0.into()));
    assert!(agreement["tokens"].as_u64().unwrap() == found["tokens"].as_u64().unwrap());
    // Half a unit of the packing plus two roundings in f32.
    assert!(agreement["worst_logprob"].as_f64().unwrap() < 1.8e-5, "{agreement}");
}

#[test]
fn teaching_the_same_text_again_adds_nothing_and_new_text_is_added() {
    let out = tempfile::tempdir().unwrap();
    let blocks = || -> Vec<PathBuf> {
        let files = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "block")).collect()
    };
    let once = teach("smollm2", out.path(), &["--top-k", "8"]);
    assert_eq!(blocks().len(), 1);
    assert_eq!(teach("smollm2", out.path(), &["--top-k", "8"]), once);
    assert_eq!(blocks().len(), 1);
    let other = out.path().join("other.txt");
    std::fs::write(&other, "A text that the teacher has not seen so far.").unwrap();
    let (model, data) = (folder("smollm2"), other);
    let arguments = ["teach", "--model", path(&model), "--data", path(&data), "--out", path(out.path()), "--top-k", "8"];
    assert!(hydrometer(&[&arguments[..], &["--context", "64"]].concat()).status.success());
    assert_eq!(blocks().len(), 2);
}

fn refused(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

fn a_block(out: &TempDir) -> PathBuf {
    let mut files = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "block")).unwrap()
}

#[test]
fn damaged_caches_and_those_of_another_teacher_are_refused_with_their_path() {
    let lab = || tempfile::tempdir().unwrap();
    let inspect = |out: &TempDir| hydrometer(&["teach", "--inspect", path(out.path())]);

    let flipped = lab();
    teach("smollm2", flipped.path(), &["--top-k", "8"]);
    let block = a_block(&flipped);
    let mut bytes = std::fs::read(&block).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&block, &bytes).unwrap();
    assert!(refused(inspect(&flipped)).contains(&format!("{} is damaged", block.display())));
    std::fs::write(&block, &bytes[..middle]).unwrap();
    assert!(refused(inspect(&flipped)).contains(&format!("{} is damaged", block.display())));

    let (mine, theirs) = (lab(), lab());
    teach("smollm2", mine.path(), &["--top-k", "8"]);
    teach("llama", theirs.path(), &["--top-k", "8"]);
    let strange = a_block(&theirs);
    let moved = mine.path().join(strange.file_name().unwrap());
    std::fs::copy(&strange, &moved).unwrap();
    assert!(refused(inspect(&mine)).contains(&format!("{}: the block belongs to cache", moved.display())));
    std::fs::remove_file(moved).unwrap();

    let (model, data) = (folder("qwen2"), folder("text.jsonl"));
    let again = ["teach", "--model", path(&model), "--data", path(&data), "--out", path(mine.path()), "--top-k", "8"];
    let said = refused(hydrometer(&again));
    assert!(said.contains("the teacher cache is of teacher"), "{said}");
    let said = refused(hydrometer(&["teach", "--inspect", path(mine.path()), "--model", path(&model)]));
    assert!(said.contains("is of teacher"), "{said}");
}

#[test]
fn exported_targets_equal_the_cached_ones() {
    let out = tempfile::tempdir().unwrap();
    teach("llama", out.path(), &["--top-k", "5"]);
    let (kept, inputs, _) = answers(out.path());
    let file = out.path().join("teacher.jsonl");
    let arguments = ["teach", "--export", "metaseq-jsonl", "--cache", path(out.path()), "--out", path(&file)];
    assert!(hydrometer(&arguments).status.success());
    let text = std::fs::read_to_string(&file).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(text.lines().count(), 4);
    let source = line["token_ids"].as_array().unwrap();
    assert_eq!(source[0].as_u64().unwrap(), u64::from(inputs[0]));
    let targets = line["top_logprobs"].as_array().unwrap();
    assert_eq!(targets.len() + 1, source.len());
    for (position, target) in targets.iter().take(inputs.len()).enumerate() {
        let mut scores: Vec<(u64, f64)> = target
            .as_object()
            .unwrap()
            .values()
            .map(|score| (score["token_id"].as_u64().unwrap(), score["logprob_score"].as_f64().unwrap()))
            .collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert_eq!(scores.len(), 5);
        for (rank, (id, logprob)) in scores.into_iter().enumerate() {
            let at = position * 5 + rank;
            assert!((logprob - f64::from(kept.logprobs[at])).abs() < 1e-6);
            assert!(id == u64::from(kept.ids[at]) || scores_tie(&kept, at), "position {position}, rank {rank}");
        }
    }
    let table = out.path().join("teacher.parquet");
    let arguments = ["teach", "--export", "parquet", "--cache", path(out.path()), "--out", path(&table)];
    assert!(hydrometer(&arguments).status.success());
    assert!(std::fs::metadata(table).unwrap().len() > 1000);
}

fn scores_tie(kept: &Answers, at: usize) -> bool {
    let near = |other: usize| kept.logprobs.get(other).is_some_and(|other| *other == kept.logprobs[at]);
    near(at + 1) || (at > 0 && near(at - 1))
}
