//! `hydrometer status`: the progress of a sweep, and what went wrong.

use std::process::ExitCode;

use anyhow::Result;
use hydrometer_base::units::{duration, quantity};
use hydrometer_record::run_status::RunStatus;
use serde_json::json;

use super::{Common, Output, terminal};
use crate::say;
use crate::sweep::state::{State, seconds_left, states};

pub fn status(common: &Common, output: Output) -> Result<ExitCode> {
    let experiment = common.load()?;
    let all = states(&experiment, &common.runs)?;
    let with = |status: RunStatus| -> Vec<&State> { all.iter().filter(|state| state.status == status).collect() };
    let students = || all.iter().filter(|state| state.role == "student");
    let (done, total) = (students().filter(|state| state.status == RunStatus::Done).count(), students().count());
    if output == Output::Json {
        let left = seconds_left(&all);
        terminal::json(
            &json!({ "experiment": experiment.name, "done": done, "total": total, "seconds_left": left, "jobs": all }),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let left = seconds_left(&all).filter(|&seconds| seconds > 0.0);
    let left = left.map_or(String::new(), |seconds| format!(", about {} left", duration(seconds)));
    say!("{}: {done}/{total} runs done{left}", experiment.name);
    for state in with(RunStatus::Running) {
        let speed = state.tokens_per_s.map_or(String::new(), |speed| format!(", {} tokens/s", quantity(speed)));
        let loss = state.loss.map_or(String::new(), |loss| format!(", loss {loss:.4}"));
        let left = state.seconds_left.map_or(String::new(), |seconds| format!(", {} left", duration(seconds)));
        let (done, total) = (quantity(state.done as f64), quantity(state.total as f64));
        let holder = state.holder.as_deref().unwrap_or_default();
        say!("running      {}: {done}/{total} tokens{loss}{speed}{left} ({holder})", state.run);
    }
    for state in with(RunStatus::Interrupted) {
        let (done, total) = (quantity(state.done as f64), quantity(state.total as f64));
        say!("interrupted  {}: {done}/{total} tokens; `hydrometer run` resumes from its checkpoint", state.run);
    }
    for state in with(RunStatus::Failed).into_iter().chain(with(RunStatus::Diverged)) {
        say!("{:<12} {}: {}", state.status, state.run, state.error.as_deref().unwrap_or("no reason recorded"));
        state.log.iter().for_each(|line| say!("             | {line}"));
    }
    let waiting = with(RunStatus::New).iter().filter(|state| state.role == "student").count();
    if waiting > 0 {
        say!("new          {waiting} runs; start them with `hydrometer run {}`", common.experiment.display());
    }
    Ok(ExitCode::SUCCESS)
}
