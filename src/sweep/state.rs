//! The state of every job of a sweep, read from its folder.

use std::fs;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::mean::mean;
use hydrometer_base::run_id::RunId;
use hydrometer_base::shortage::last_lines;
use hydrometer_record::journal::{self, Event};
use hydrometer_record::run_status::RunStatus;
use serde::Serialize;

use super::ending::Ending;
use super::job::{baselines, cache_place, fidelity_run, fidelity_teacher, journal_path, writers};
use super::lease::{holder, holder_name};
use super::local::log_path;
use crate::experiment::Experiment;

/// Number of log lines shown for a failure.
const LOG_LINES: usize = 8;

/// A job and its state.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    pub run: RunId,
    /// `student`, `teacher`, `cache`, `baseline`, `fidelity` or `task`.
    pub role: &'static str,
    pub status: RunStatus,
    /// Target tokens processed so far, and in total.
    pub done: u64,
    pub total: u64,
    /// The last training loss.
    pub loss: Option<f64>,
    /// Speed over the last steps.
    pub tokens_per_s: Option<f64>,
    pub seconds_left: Option<f64>,
    /// The process that works on it.
    pub holder: Option<String>,
    /// Why it failed or diverged.
    pub error: Option<String>,
    /// The last lines of its log, if it failed or diverged.
    pub log: Vec<String>,
}

/// All jobs of `experiment` under `runs`: teachers, caches, baselines, students.
pub fn states(experiment: &Experiment, runs: &Path) -> Result<Vec<State>> {
    let mut all = Vec::new();
    for teacher in &experiment.teachers {
        all.push(state(runs, &teacher.run, "teacher", teacher.recipe.tokens)?);
        let place = cache_place(runs, teacher);
        let run = RunId::of_folder(&place.folder);
        all.push(state(runs, &run, "cache", 0)?);
    }
    for (run, _) in baselines(experiment) {
        all.push(state(runs, &run, "baseline", 0)?);
    }
    for student in &experiment.students {
        all.push(state(runs, &student.run, "student", student.recipe.tokens)?);
        // Fidelity to the teacher is measured by a separate job, which `run` repeats until it is done.
        if let Some(teacher) = fidelity_teacher(experiment, student) {
            all.push(state(runs, &fidelity_run(student, &experiment.teachers[teacher]), "fidelity", 0)?);
        }
    }
    for writer in writers(experiment) {
        all.push(state(runs, &writer.run, "task", 0)?);
    }
    Ok(all)
}

/// Estimated seconds until all training jobs are done, with as many jobs at a time as are running now. A job without a measured
/// speed is assumed to run at the mean speed of its role, or else of all jobs. `None` if no job has a speed yet.
pub fn seconds_left(states: &[State]) -> Option<f64> {
    let speed = |mine: &dyn Fn(&&State) -> bool| mean(states.iter().filter(mine).filter_map(|state| state.tokens_per_s));
    let left = |state: &State| {
        let own = state.tokens_per_s.or_else(|| speed(&|other| other.role == state.role)).or_else(|| speed(&|_| true))?;
        Some(state.total.saturating_sub(state.done) as f64 / own)
    };
    let to_do = states.iter().filter(|state| state.status.planned() == RunStatus::New);
    let seconds: Option<Vec<f64>> = to_do.map(left).collect();
    let at_a_time = states.iter().filter(|state| state.status == RunStatus::Running).count().max(1);
    seconds.map(|seconds| seconds.iter().sum::<f64>() / at_a_time as f64)
}

fn state(runs: &Path, run: &RunId, role: &'static str, tokens: u64) -> Result<State> {
    let folder = runs.join(run);
    let events = journal::read(&journal_path(&folder))?;
    let mut state = State {
        run: run.clone(),
        role,
        status: RunStatus::New,
        done: 0,
        total: tokens,
        loss: None,
        tokens_per_s: None,
        seconds_left: None,
        holder: None,
        error: None,
        log: Vec::new(),
    };
    let mut last: Vec<(u64, f64)> = Vec::new();
    for event in &events {
        match event {
            Event::Step(step) => {
                (state.done, state.loss) = (step.tokens as u64, Some(step.loss));
                last.push((step.tokens as u64, step.seconds));
            }
            Event::Progress { done, total } => (state.done, state.total) = (*done, *total),
            _ => {}
        }
    }
    // The first of these steps only gives the token count at which the timed interval begins.
    let recent = &last[last.len().saturating_sub(21)..];
    if let ([(first, _), rest @ ..], Some((end, _))) = (recent, recent.last()) {
        let seconds: f64 = rest.iter().map(|(_, seconds)| seconds).sum();
        state.tokens_per_s = (seconds > 0.0).then(|| (end - first) as f64 / seconds);
    }
    match holder(&folder) {
        Some(holder) => {
            state.status = RunStatus::Running;
            state.holder = Some(holder_name(Some(&holder)));
            let left = state.total.saturating_sub(state.done) as f64;
            state.seconds_left = state.tokens_per_s.map(|speed| left / speed);
        }
        None => {
            let ending = Ending::of_events(&events);
            (state.status, state.error) = (ending.status(), ending.error().map(String::from));
        }
    }
    if state.error.is_some() {
        let text = fs::read_to_string(log_path(&folder)).unwrap_or_default();
        state.log = last_lines(text.lines(), LOG_LINES).into_iter().map(String::from).collect();
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(role: &'static str, status: RunStatus, done: u64, tokens_per_s: Option<f64>) -> State {
        let (run, error, holder) = (RunId::default(), None, None);
        State {
            run,
            role,
            status,
            done,
            total: 1000,
            loss: None,
            tokens_per_s,
            seconds_left: None,
            holder,
            error,
            log: Vec::new(),
        }
    }

    #[test]
    fn the_time_left_follows_from_measured_speeds_and_the_number_of_running_jobs() {
        let done = state("teacher", RunStatus::Done, 1000, Some(10.0));
        let running = state("student", RunStatus::Running, 500, Some(100.0));
        let new = || state("student", RunStatus::New, 0, None);
        let of = |states: &[State]| seconds_left(states);
        assert_eq!(of(&[done.clone(), running.clone(), new(), new()]), Some(5.0 + 10.0 + 10.0));
        assert_eq!(of(&[done.clone(), running.clone(), running, new()]), Some((5.0 + 5.0 + 10.0) / 2.0));
        assert_eq!(of(&[done.clone(), new()]), Some(100.0), "no student has a speed, so the teacher's is used");
        assert_eq!(of(&[state("student", RunStatus::Failed, 0, None), done]), Some(0.0));
        assert_eq!(of(&[new()]), None);
    }
}
