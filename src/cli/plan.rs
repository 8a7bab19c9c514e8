//! `hydrometer plan`: shows what `run` would do.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::identity::identity;
use hydrometer_base::units::{duration, flops, quantity};
use hydrometer_data::recipe::{Ends, Eos};
use hydrometer_record::checked::Checked;
use hydrometer_record::run_status::RunStatus;
use hydrometer_report::claims::decide;
use serde_json::{Map, Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::planned_run::PlannedRun;
use super::{Common, Output, arms, terminal};
use crate::experiment::budget::{Budget, longest_by_seed};
use crate::experiment::fair::Match;
use crate::experiment::keys::schema::schema;
use crate::experiment::{Experiment, Skipped};
use crate::sweep::estimate::{Estimate, History, estimate};
use crate::sweep::job::{answers_folder, cache_place, ending, recording_place};
use crate::sweep::machine::Machine;
use crate::teacher::endpoint::response_log::ResponseLog;
use crate::teacher::recording::{Origin, Recording};
use crate::{note, say};

/// Up to this many runs are listed one by one by default; larger sweeps are listed by arm.
const SHOWN: usize = 50;
/// Number of points and of sentences of a kind shown for a large sweep.
const SOME: usize = 5;

#[derive(Args, Debug)]
#[command(mut_arg("experiment", |arg| arg.required_unless_present("schema")))]
pub struct Plan {
    #[command(flatten)]
    common: Option<Common>,
    /// Show every run of a large sweep (more than 50 runs) instead of one row per arm. JSON output always has every run.
    #[arg(long)]
    all: bool,
    /// Print the JSON schema of experiment files, for editors, and exit.
    #[arg(long, conflicts_with = "experiment")]
    schema: bool,
}

impl Plan {
    pub fn plan(&self, output: Output) -> Result<ExitCode> {
        match &self.common {
            Some(common) => plan(common, self.all, output),
            None => {
                terminal::json(&schema());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn plan(common: &Common, all: bool, output: Output) -> Result<ExitCode> {
    let experiment = common.load()?;
    let history = History::read(&common.runs)?;
    let runs = experiment
        .students
        .iter()
        .map(|student| -> Result<PlannedRun> {
            let mut axes = Map::from_iter([("method".to_string(), Value::from(student.method.clone()))]);
            axes.extend(student.axes.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))));
            Ok(PlannedRun {
                run: student.run.clone(),
                name: student.name(),
                status: ending(&common.runs, &student.run)?.status().planned(),
                seed: student.seed,
                axes,
                tokens: student.recipe.tokens,
                updates: student.recipe.updates(),
                pass_tokens: common.pass_tokens().unwrap_or_else(|| student.recipe.pass_tokens()),
                train_flops: student.recipe.train_flops(),
                teacher_flops: student.recipe.teacher_flops(),
            })
        })
        .collect::<Result<Vec<PlannedRun>>>()?;
    let teachers = teachers(&experiment, common)?;
    let budget = Budget::of(&experiment);
    let left = estimate(&experiment, &common.runs, &history, &common.spread())?;
    if output == Output::Json {
        let skipped: Vec<_> = experiment.skipped.iter().map(|s| json!({ "name": s.name, "because": s.because })).collect();
        let claims: Vec<_> = experiment.claims.iter().map(|c| json!({ "id": c.id, "a": c.a, "b": c.b })).collect();
        terminal::json(&json!({
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
            "tasks": experiment.tasks.iter().map(|task| json!({ "name": task.name, "recipe": task.recipe })).collect::<Vec<_>>(),
            "skipped": skipped,
            "claims": claims,
            "fair": fair(&experiment),
            "totals": budget,
            "left": left,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let brief = !all && runs.len() > SHOWN;
    terminal::block(&if brief { arms::table(&runs, &experiment) } else { table(&runs) });
    for (teacher, planned) in teachers.iter().zip(&experiment.teachers) {
        say!(
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
                say!("teacher {name}: recorded in {path} ({format}), {kept} kept in {}", folder.display());
            }
            Origin::Endpoint(asked) => {
                let (model, url, tokens) = (&asked.recipe.model, &asked.service.url, asked_tokens(&experiment, recording));
                let cost = asked.service.price.map(|price| format!(", cost {:.4}", price.of(tokens, 0))).unwrap_or_default();
                let spent = ResponseLog::look(&answers_folder(&common.runs, asked)).words(&asked.service);
                say!(
                    "teacher {name}: {model} at {url}, {kept} kept in {}; about {tokens} tokens to score{cost}; so far {spent}",
                    folder.display()
                );
            }
        }
    }
    for (data, ends) in ends(&experiment) {
        say!("a text of {data} ends in {}", ends.words());
    }
    for task in &experiment.tasks {
        say!("task {}: {}", task.name, task.words());
    }
    say_skipped(&experiment.skipped, brief);
    say_fair(&experiment, brief);
    say_cost(&budget, &left);
    say_power(&experiment, common)?;
    let with = |status: RunStatus| runs.iter().filter(|run| run.status == status).count();
    let ended: Vec<String> = [RunStatus::Done, RunStatus::Failed, RunStatus::Diverged]
        .into_iter()
        .map(|status| (with(status), status))
        .filter(|(count, _)| *count > 0)
        .map(|(count, status)| format!("{count} {status}"))
        .collect();
    let ended = if ended.is_empty() { String::new() } else { format!(" ({})", ended.join(", ")) };
    let hint = if brief { "; --all shows every run" } else { "" };
    say!("{} runs, {} to do{ended}{hint}", runs.len(), with(RunStatus::New));
    Ok(ExitCode::SUCCESS)
}

/// The end-of-text tokens of each data set of examples that has them, with the name of the data folder.
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

/// A table with one row per run.
fn table(runs: &[PlannedRun]) -> String {
    let mut table = Builder::default();
    table.push_record(["run", "status", "tokens", "updates", "TFLOPs", "teacher TFLOPs"]);
    for run in runs {
        table.push_record([
            run.run.to_string(),
            run.status.to_string(),
            run.tokens.to_string(),
            run.updates.to_string(),
            format!("{:.2}", run.train_flops / 1e12),
            format!("{:.2}", run.teacher_flops / 1e12),
        ]);
    }
    table.build().with(Style::sharp()).to_string()
}

/// Joins `all`; if `brief`, at most the first few, and how many more there are.
fn some(all: &[&str], brief: bool) -> String {
    match brief && all.len() > SOME {
        true => format!("{}; and {} more", all[..SOME].join("; "), all.len() - SOME),
        false => all.join("; "),
    }
}

/// Prints the points of the sweep that are skipped, grouped by reason.
fn say_skipped(skipped: &[Skipped], brief: bool) {
    let reasons: BTreeSet<&str> = skipped.iter().map(|point| point.because.as_str()).collect();
    for because in reasons {
        let names: Vec<&str> = skipped.iter().filter(|p| p.because == because).map(|p| p.name.as_str()).collect();
        say!("skipped ({because}): {}", some(&names, brief));
    }
}

fn say_fair(experiment: &Experiment, brief: bool) {
    let fairness = &experiment.fairness;
    match (fairness.rule, fairness.unfair.is_empty()) {
        (Some(rule), _) => say!("fair by {}: checked for every pair of runs that is compared", rule.name()),
        (None, true) => say!("fair by {}, though no [fair] asks for it", Match::Tokens.name()),
        (None, false) => {
            let unfair: Vec<&str> = fairness.unfair.iter().map(String::as_str).collect();
            say!("not fair by {}: {}", Match::Tokens.name(), some(&unfair, brief));
        }
    }
    if fairness.alone > 0 {
        say!("{} runs have no run of {} with their axes and seed to be compared with", fairness.alone, experiment.reference);
    }
    let (mut shown, mut lines): (BTreeSet<String>, Vec<String>) = Default::default();
    for &(index, asked) in &fairness.balanced {
        let student = &experiment.students[index];
        let line = format!(
            "{}: {} of {asked} tokens; the rest pays for its share of the teacher",
            student.name(),
            student.recipe.tokens
        );
        if shown.insert(line.clone()) {
            lines.push(line);
        }
    }
    let count = if brief { SOME.min(lines.len()) } else { lines.len() };
    lines[..count].iter().for_each(|line| say!("{line}"));
    if count < lines.len() {
        say!("and {} more points that pay for their share of a teacher", lines.len() - count);
    }
}

fn say_cost(budget: &Budget, left: &Estimate) {
    let (tokens, teacher_tokens) = (quantity(budget.tokens as f64), quantity(budget.teacher_tokens as f64));
    say!(
        "total: students {} on {tokens} tokens; teachers {} of training on {teacher_tokens} tokens and {} of inference",
        flops(budget.train_flops),
        flops(budget.teacher_train_flops),
        flops(budget.teacher_forward_flops),
    );
    let disk = quantity(left.disk_bytes as f64);
    match (left.runs_left, left.seconds_left) {
        (0, _) => say!("nothing is left to train; disk: at most {disk}B"),
        (_, Some(seconds)) => say!("left: about {} of training, one run at a time; disk: at most {disk}B", duration(seconds)),
        (_, None) => say!("left: time unknown until a run has finished; disk: at most {disk}B"),
    }
    let (needed, machine) = (left.memory_bytes as f64, Machine::here());
    let there = machine.of_a_process().map_or(0.0, |(bytes, _)| bytes as f64);
    let scarce =
        if there > 0.0 && needed > there { ", which is too little; try a smaller --pass-tokens or --recompute" } else { "" };
    say!("memory: about {}B per rank of the largest run, of {}B on this machine{scarce}", quantity(needed), quantity(there));
}

/// Prints the statistical power of the claims, given the variance of the results so far: the smallest detectable effect, and the
/// number of seeds needed.
fn say_power(experiment: &Experiment, common: &Common) -> Result<()> {
    let results = common.results(experiment);
    if experiment.claims.is_empty() || !results.join("runs.parquet").exists() {
        return Ok(());
    }
    let results = match Checked::read(&results) {
        Ok(checked) => {
            checked.warning(&results).into_iter().for_each(|warning| note!("{warning}"));
            checked
        }
        // The plan is complete without the power analysis.
        Err(error) => {
            note!("{error:#}");
            return Ok(());
        }
    };
    for outcome in decide(&experiment.claims, &results.frames)? {
        let Some((effect, found)) = outcome.minimum_detectable_effect.zip(outcome.estimate) else { continue };
        let needed = match outcome.seeds_needed {
            Some(seeds) => format!("{seeds} seeds would"),
            None => {
                let items = if outcome.prompts.is_some() { "prompts" } else { "documents" };
                format!("no number of seeds would, the {items} vary too much")
            }
        };
        let (seeds, scale) = (outcome.seeds, outcome.scale);
        say!(
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

fn teachers(experiment: &Experiment, common: &Common) -> Result<Vec<Value>> {
    experiment
        .teachers
        .iter()
        .map(|teacher| {
            Ok(json!({
                "name": teacher.name,
                "run": teacher.run,
                "status": ending(&common.runs, &teacher.run)?.status().planned(),
                "tokens": teacher.recipe.tokens,
                "updates": teacher.recipe.updates(),
                "train_flops": teacher.recipe.train_flops(),
                "top_k": teacher.kept.top_k,
                "draws": teacher.kept.draws,
                "cache": cache_place(&common.runs, teacher).folder,
            }))
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
                    teacher["spent"] = json!(ResponseLog::look(&answers_folder(&common.runs, asked)));
                }
            }
            Ok(teacher)
        }))
        .collect()
}

/// Upper bound of the target tokens that the teacher of `recording` is asked to score. Prompts and other context come on top.
fn asked_tokens(experiment: &Experiment, recording: &Recording) -> u64 {
    longest_by_seed(experiment.students_of(recording))
}
