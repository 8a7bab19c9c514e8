//! `hydrometer plan`: what would run.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::{Common, Output};
use crate::experiment::Experiment;
use crate::sweep::job::{Status, cache_place, status};

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
            let values: String = student.axes.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            PlannedRun {
                run: student.run.clone(),
                name: format!("{}{values}", student.method),
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
    if output == Output::Json {
        println!("{:#}", json!({ "experiment": experiment.name, "runs": runs, "teachers": teachers }));
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
            "teacher {}: {} ({}), {} tokens, top {} kept in {}",
            planned.name,
            planned.run,
            teacher["status"].as_str().unwrap_or_default(),
            planned.recipe.tokens,
            planned.top_k,
            cache_place(&common.runs, planned).folder.display()
        );
    }
    let left = runs.iter().filter(|run| run.status == "new").count();
    println!("{} runs, {left} to do", runs.len());
    Ok(ExitCode::SUCCESS)
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
                "top_k": teacher.top_k,
                "cache": cache_place(&common.runs, teacher).folder,
            })
        })
        .collect()
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
