//! The rows of the frames by run, as tables, plots and pages read them.

use anyhow::Result;
use hydrometer_record::frames::{CurveRow, EvalRow, Frames, RunRow, axes_of};
use hydrometer_record::run_status::RunStatus;

pub struct Input {
    pub runs: Vec<Run>,
    /// Swept axes in the order of their columns, under the names of the experiment file.
    pub axes: Vec<String>,
    /// Number of runs in the frames that the experiment file no longer plans.
    pub set_aside: usize,
}

/// A run with its training steps and evaluations, in the order of the frames.
pub struct Run {
    pub run: String,
    pub role: String,
    pub method: String,
    pub seed: i64,
    pub status: String,
    pub params: Option<i64>,
    pub tokens: i64,
    pub wall_s: Option<f64>,
    pub tokens_per_s: Option<f64>,
    pub train_flops: f64,
    pub teacher_flops: f64,
    /// The slope of the loss along its gradient, over the gradient's norm, before the first and the last update.
    pub gradient_checks: [Option<f64>; 2],
    pub error: Option<String>,
    /// One per swept axis.
    pub axes: Vec<Option<String>>,
    pub steps: Vec<CurveRow>,
    pub evals: Vec<EvalRow>,
}

impl Run {
    pub fn ok(&self) -> bool {
        self.is(RunStatus::Done)
    }

    pub fn is(&self, status: RunStatus) -> bool {
        self.status == status.in_frames()
    }

    /// The last evaluation on `split`, unless its numbers are not finite.
    pub fn last_eval(&self, split: &str) -> Option<&EvalRow> {
        self.evals.iter().rev().find(|eval| eval.split == split).filter(|e| e.perplexity().is_finite() && e.nll().is_finite())
    }
}

/// Reads the planned runs of `frames`.
pub fn read(frames: &Frames) -> Result<Input> {
    let axes = axes_of(&frames.runs)?;
    let all = RunRow::rows(&frames.runs)?;
    let set_aside = all.iter().filter(|row| !row.planned).count();
    let planned = all.into_iter().enumerate().filter(|(_, row)| row.planned);
    let mut rows: Vec<Run> = planned
        .map(|(at, row)| Run {
            run: row.run,
            role: row.role,
            method: row.method,
            seed: row.seed,
            status: row.status,
            params: row.params,
            tokens: row.tokens,
            wall_s: row.wall_s,
            tokens_per_s: row.tokens_per_s,
            train_flops: row.train_flops,
            teacher_flops: row.teacher_flops,
            gradient_checks: [row.gradient_check, row.last_gradient_check],
            error: row.error,
            axes: axes.iter().map(|(_, values)| values[at].clone()).collect(),
            steps: Vec::new(),
            evals: Vec::new(),
        })
        .collect();
    let place: std::collections::BTreeMap<String, usize> =
        rows.iter().enumerate().map(|(at, row)| (row.run.clone(), at)).collect();

    for step in CurveRow::rows(&frames.curves)? {
        if let Some(&at) = place.get(&step.run) {
            rows[at].steps.push(step);
        }
    }
    for eval in EvalRow::rows(&frames.evals)? {
        if let Some(&at) = place.get(&eval.run) {
            rows[at].evals.push(eval);
        }
    }
    Ok(Input { runs: rows, axes: axes.into_iter().map(|(axis, _)| axis).collect(), set_aside })
}
