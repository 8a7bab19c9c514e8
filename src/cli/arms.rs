//! The table by arm that `plan` shows for a large sweep: number of runs by status, and the range of their budgets.

use std::fmt::Display;

use hydrometer_record::run_status::RunStatus;
use tabled::builder::Builder;
use tabled::settings::Style;

use super::planned_run::PlannedRun;
use crate::experiment::Experiment;

/// A table with one row per arm, in the order of the file.
pub fn table(runs: &[PlannedRun], experiment: &Experiment) -> String {
    let mut table = Builder::default();
    table.push_record(["arm", "runs", "new", "done", "failed", "diverged", "tokens", "updates", "TFLOPs", "teacher TFLOPs"]);
    for method in &experiment.methods {
        let mine: Vec<&PlannedRun> = runs
            .iter()
            .zip(&experiment.students)
            .filter(|(_, student)| student.method == method.name)
            .map(|(run, _)| run)
            .collect();
        let with = |status: RunStatus| mine.iter().filter(|run| run.status == status).count().to_string();
        let tera = |flops: &dyn Fn(&PlannedRun) -> f64| {
            let mut all: Vec<f64> = mine.iter().map(|run| flops(run) / 1e12).collect();
            all.sort_by(f64::total_cmp);
            range(all.first().map(|x| format!("{x:.2}")), all.last().map(|x| format!("{x:.2}")))
        };
        let whole = |count: &dyn Fn(&PlannedRun) -> u64| {
            let all = || mine.iter().map(|run| count(run));
            range(all().min(), all().max())
        };
        table.push_record([
            method.name.clone(),
            mine.len().to_string(),
            with(RunStatus::New),
            with(RunStatus::Done),
            with(RunStatus::Failed),
            with(RunStatus::Diverged),
            whole(&|run| run.tokens),
            whole(&|run| run.updates),
            tera(&|run| run.train_flops),
            tera(&|run| run.teacher_flops),
        ]);
    }
    table.build().with(Style::sharp()).to_string()
}

fn range<T: Display + PartialEq>(low: Option<T>, high: Option<T>) -> String {
    match low.zip(high) {
        None => "–".into(),
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low} to {high}"),
    }
}
