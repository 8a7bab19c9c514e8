//! `hydrometer plan`: what would run.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::{Common, Output};
use crate::data::ends::Ends;
use crate::experiment::budget::{Budget, longest_by_seed};
use crate::experiment::fair::Match;
use crate::experiment::recipe::{Eos, identity};
use crate::experiment::recorded::{Origin, Recording};
use crate::experiment::{Experiment, Skipped};
use crate::record::frames::Frames;
use crate::record::provenance::memory_gb;
use crate::report::claims::decide;
use crate::report::format::{duration, flops, quantity};
use crate::sweep::estimate::{Estimate, History, estimate};
use crate::sweep::job::{Status, answers_folder, cache_place, recording_place, status};
use crate::teacher::endpoint::ledger::Ledger;

#[derive(Serialize)]
struct PlannedRun {
    run: String,
    name: String,
    status: &'static str,
    seed: u64,
    axes: Map<String, Value>,
    tokens: u64,
    updates: u64,
    train_flops: f64,
    teacher_flops: f64,
}

pub fn plan(common: &Common, output: Output) -> Result<ExitCode> {
    let experiment = common.load()?;
    let runs: Vec<PlannedRun> = experiment
        .students
        .iter()
        .map(|student| {
            let mut axes = Map::from_iter([("method".to_string(), Value::from(student.method.clone()))]);
            axes.extend(student.axes.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))));
            PlannedRun {
                run: student.run.clone(),
                name: student.name(),
                status: verb_status(&status(&common.runs, &student.run)),
                seed: student.seed,
                axes,
                tokens: student.recipe.tokens,
                updates: student.recipe.updates(),
                train_flops: student.recipe.train_flops(),
                teacher_flops: student.recipe.teacher_flops(),
            }
        })
        .collect();
    let teachers = teachers(&experiment, common);
    let budget = Budget::of(&experiment);
    let ranks = (common.tp as usize, common.dp as usize);
    let left = estimate(&experiment, &common.runs, &History::read(&common.runs), ranks);
    if output == Output::Json {
        let skipped: Vec<_> = experiment.skipped.iter().map(|s| json!({ "name": s.name, "because": s.because })).collect();
        let claims: Vec<_> = experiment.claims.iter().map(|c| json!({ "id": c.id, "a": c.a, "b": c.b })).collect();
        println!(
            "{:#}",
            json!({
                "experiment": experiment.name,
                "runs": runs,
                "teachers": teachers,
                "ends": ends(&experiment).into_iter().map(|(data, ends)| json!({
                    "data": data,
                    "token": ends.tokens.first(),
                    "id": ends.ids.first(),
                    "tokens": ends.tokens,
                    "ids": ends.ids,
                    "from": ends.from,
                    "ignored": ends.ignored,
                })).collect::<Vec<_>>(),
                "skipped": skipped,
                "claims": claims,
                "fair": fair(&experiment),
                "totals": budget,
                "left": left,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Builder::default();
    table.push_record(["run", "status", "tokens", "updates", "TFLOPs", "teacher TFLOPs"]);
    for run in &runs {
        table.push_record([
            run.run.clone(),
            run.status.to_string(),
            run.tokens.to_string(),
            run.updates.to_string(),
            format!("{:.2}", run.train_flops / 1e12),
            format!("{:.2}", run.teacher_flops / 1e12),
        ]);
    }
    println!("{}", table.build().with(Style::sharp()));
    for (teacher, planned) in teachers.iter().zip(&experiment.teachers) {
        println!(
            "teacher {}: {} ({}), {} tokens, {} kept in {}",
            planned.name,
            planned.run,
            teacher["status"].as_str().unwrap_or_default(),
            planned.recipe.tokens,
            planned.kept.words(),
            cache_place(&common.runs, planned).folder.display()
        );
    }
    for recording in &experiment.recordings {
        let (name, kept, folder) = (&recording.name, recording.kept.words(), recording_place(&common.runs, recording).folder);
        match &recording.origin {
            Origin::File(file) => {
                let (path, format) = (file.path.display(), file.recipe.format.name());
                println!("teacher {name}: recorded in {path} ({format}), {kept} kept in {}", folder.display());
            }
            Origin::Endpoint(asked) => {
                let (model, url, tokens) = (&asked.recipe.model, &asked.service.url, asked_tokens(&experiment, recording));
                let cost = asked.service.price.map(|price| format!(", cost {:.4}", price.of(tokens, 0))).unwrap_or_default();
                let spent = Ledger::look(&answers_folder(&common.runs, asked)).words(&asked.service);
                println!(
                    "teacher {name}: {model} at {url}, {kept} kept in {}; about {tokens} tokens to judge{cost}; so far {spent}",
                    folder.display()
                );
            }
        }
    }
    for (data, ends) in ends(&experiment) {
        println!("a text of {data} ends in {}", ends.words());
    }
    say_skipped(&experiment.skipped);
    say_fair(&experiment);
    say_cost(&budget, &left);
    say_power(&experiment, common)?;
    let new = runs.iter().filter(|run| run.status == "new").count();
    println!("{} runs, {new} to do", runs.len());
    Ok(ExitCode::SUCCESS)
}

/// What ends the texts of each data of examples that get an end, with the data's hash.
fn ends(experiment: &Experiment) -> Vec<(String, &Ends)> {
    let mut all: Vec<(String, &Ends)> = Vec::new();
    for student in &experiment.students {
        let recipe = student.recipe.data.examples.as_ref().filter(|examples| examples.eos != Eos::None);
        if let (Some(_), Some(ends)) = (recipe, &student.data.ends) {
            let data = format!("data-{}", identity(&student.recipe.data.unpacked()));
            if !all.iter().any(|(known, _)| *known == data) {
                all.push((data, ends));
            }
        }
    }
    all
}

/// The points that are left out, those with one reason together.
fn say_skipped(skipped: &[Skipped]) {
    let reasons: BTreeSet<&str> = skipped.iter().map(|point| point.because.as_str()).collect();
    for because in reasons {
        let names: Vec<&str> = skipped.iter().filter(|p| p.because == because).map(|p| p.name.as_str()).collect();
        println!("skipped ({because}): {}", names.join("; "));
    }
}

fn say_fair(experiment: &Experiment) {
    let fairness = &experiment.fairness;
    match (fairness.rule, fairness.unfair.is_empty()) {
        (Some(rule), _) => println!("fair by {}: checked for every pair of runs that is compared", rule.name()),
        (None, true) => println!("fair by {}, though no [fair] asks for it", Match::Tokens.name()),
        (None, false) => println!("not fair by {}: {}", Match::Tokens.name(), fairness.unfair.join("; ")),
    }
    if fairness.alone > 0 {
        println!("{} runs have no run of {} with their axes and seed to be compared with", fairness.alone, experiment.reference);
    }
    let mut shown: Vec<String> = Vec::new();
    for &(index, asked) in &fairness.balanced {
        let student = &experiment.students[index];
        let line =
            format!("{}: {} of {asked} tokens, the rest pays its share of the teacher", student.name(), student.recipe.tokens);
        if !shown.contains(&line) {
            println!("{line}");
            shown.push(line);
        }
    }
}

fn say_cost(budget: &Budget, left: &Estimate) {
    let (tokens, teacher_tokens) = (quantity(budget.tokens as f64), quantity(budget.teacher_tokens as f64));
    println!(
        "in all: students {} on {tokens} tokens; teachers {} of training on {teacher_tokens} tokens and {} of answers",
        flops(budget.train_flops),
        flops(budget.teacher_train_flops),
        flops(budget.teacher_forward_flops),
    );
    let disk = quantity(left.disk_bytes as f64);
    match (left.runs_left, left.seconds_left) {
        (0, _) => println!("nothing is left to train; disk: at most {disk}B"),
        (_, Some(seconds)) => println!("left: about {} of training, one run at a time; disk: at most {disk}B", duration(seconds)),
        (_, None) => println!("left: no finished run tells how long this machine takes; disk: at most {disk}B"),
    }
    let (needed, there) = (left.memory_bytes as f64, memory_gb() * 1e9);
    let scarce = if there > 0.0 && needed > there { ": too little; try a smaller batch or --recompute" } else { "" };
    println!("memory: about {}B a rank of the largest run, of {}B on this machine{scarce}", quantity(needed), quantity(there));
}

/// What the claims could have shown with the spread that the results so far have: how many seeds are enough.
fn say_power(experiment: &Experiment, common: &Common) -> Result<()> {
    let results = common.results(experiment);
    if experiment.claims.is_empty() || !results.join("runs.parquet").exists() {
        return Ok(());
    }
    for outcome in decide(&experiment.claims, &Frames::read(&results)?)? {
        let Some((effect, found)) = outcome.minimum_detectable_effect.zip(outcome.estimate) else { continue };
        let needed = match outcome.seeds_needed {
            Some(seeds) => format!("{seeds} seeds would"),
            None => "no number of seeds would, the documents vary too much".to_string(),
        };
        let (seeds, scale) = (outcome.seeds, outcome.scale);
        println!(
            "claim {}: {seeds} seeds show a {scale} of {effect:.4} four times out of five; to show the {found:.4} found, {needed}",
            outcome.id
        );
    }
    Ok(())
}

fn fair(experiment: &Experiment) -> Value {
    let fairness = &experiment.fairness;
    let balanced = fairness.balanced.iter().map(|&(index, asked)| {
        let student = &experiment.students[index];
        json!({ "run": student.run, "asked": asked, "tokens": student.recipe.tokens })
    });
    json!({
        "match": fairness.rule.map(Match::name),
        "fair": fairness.unfair.is_empty(),
        "unfair": fairness.unfair,
        "alone": fairness.alone,
        "balanced": balanced.collect::<Vec<_>>(),
    })
}

fn teachers(experiment: &Experiment, common: &Common) -> Vec<Value> {
    experiment
        .teachers
        .iter()
        .map(|teacher| {
            json!({
                "name": teacher.name,
                "run": teacher.run,
                "status": verb_status(&status(&common.runs, &teacher.run)),
                "tokens": teacher.recipe.tokens,
                "updates": teacher.recipe.updates(),
                "train_flops": teacher.recipe.train_flops(),
                "top_k": teacher.kept.top_k,
                "draws": teacher.kept.draws,
                "cache": cache_place(&common.runs, teacher).folder,
            })
        })
        .chain(experiment.recordings.iter().map(|recording| {
            let mut teacher = json!({
                "name": recording.name,
                "top_k": recording.kept.top_k,
                "cache": recording_place(&common.runs, recording).folder,
            });
            match &recording.origin {
                Origin::File(file) => {
                    (teacher["recorded"], teacher["format"]) = (json!(file.path), json!(file.recipe.format.name()));
                }
                Origin::Endpoint(asked) => {
                    let tokens = asked_tokens(experiment, recording);
                    (teacher["endpoint"], teacher["model"]) = (json!(asked.service.url), json!(asked.recipe.model));
                    teacher["tokens"] = json!(tokens);
                    teacher["cost"] = json!(asked.service.price.map(|price| price.of(tokens, 0)));
                    teacher["spent"] = json!(Ledger::look(&answers_folder(&common.runs, asked)));
                }
            }
            teacher
        }))
        .collect()
}

/// Target tokens that `recording` is asked about, at most: prompts and what else a document has come on top.
fn asked_tokens(experiment: &Experiment, recording: &Recording) -> u64 {
    longest_by_seed(recording.students(experiment))
}

/// A run that was interrupted is still to do: `new`.
fn verb_status(status: &Status) -> &'static str {
    match status {
        Status::New | Status::Interrupted => "new",
        Status::Done => "done",
        Status::Failed(_) => "failed",
        Status::Diverged(_) => "diverged",
    }
}
