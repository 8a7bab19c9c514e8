//! The frames as plain rows, by column name: what the tables, plots and pages read.

use anyhow::Result;
use hydrometer_record::frames::{EvalRow, Frames, RunRow, axes_of};
use hydrometer_record::run_status::RunStatus;
use polars::prelude::*;

pub struct Input {
    pub runs: Vec<Run>,
    /// Swept axes in the order of their columns, under the names of the experiment file.
    pub axes: Vec<String>,
    /// Runs of the frames that the file does not plan any more.
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
    /// Slope of the loss along its gradient over the gradient's norm, before the first and the last update.
    pub gradient_checks: [Option<f64>; 2],
    pub error: Option<String>,
    /// One a swept axis.
    pub axes: Vec<Option<String>>,
    pub steps: Vec<Step>,
    pub evals: Vec<EvalRow>,
}

pub struct Step {
    pub tokens: f64,
    /// The arm's own objective.
    pub loss: f64,
    pub hard_loss: f64,
    pub grad_norm: f64,
    pub retained_mass: Option<f64>,
    pub teacher_entropy: Option<f64>,
    pub mean_lse: f64,
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
        self.evals.iter().rev().find(|eval| eval.split == split).filter(|e| e.perplexity.is_finite() && e.nll.is_finite())
    }
}

/// Reads the rows of `frames` that are planned. A column that is missing is an error, a null number of a curve is NaN.
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

    let curves = Table(&frames.curves);
    let (run, tokens, hard_loss) = (curves.text("run")?, curves.number("tokens")?, curves.number("hard_loss")?);
    let loss = curves.number("loss")?;
    let (grad_norm, mean_lse) = (curves.number("grad_norm")?, curves.number("mean_lse")?);
    let (retained_mass, teacher_entropy) = (curves.number("retained_mass")?, curves.number("teacher_entropy")?);
    for i in 0..frames.curves.height() {
        let Some(&at) = run[i].as_ref().and_then(|run| place.get(run)) else { continue };
        rows[at].steps.push(Step {
            tokens: tokens[i].unwrap_or(f64::NAN),
            loss: loss[i].unwrap_or(f64::NAN),
            hard_loss: hard_loss[i].unwrap_or(f64::NAN),
            grad_norm: grad_norm[i].unwrap_or(f64::NAN),
            retained_mass: retained_mass[i],
            teacher_entropy: teacher_entropy[i],
            mean_lse: mean_lse[i].unwrap_or(f64::NAN),
        });
    }

    for eval in EvalRow::rows(&frames.evals)? {
        if let Some(&at) = place.get(&eval.run) {
            rows[at].evals.push(eval);
        }
    }
    Ok(Input { runs: rows, axes: axes.into_iter().map(|(axis, _)| axis).collect(), set_aside })
}

/// A frame whose columns are read by name, whatever their width.
pub struct Table<'a>(pub &'a DataFrame);

impl Table<'_> {
    fn cast(&self, name: &str, kind: &DataType) -> Result<Column> {
        self.0
            .column(name)
            .and_then(|column| column.cast(kind))
            .map_err(|error| anyhow::anyhow!("column `{name}` of a frame: {error}"))
    }
    pub fn text(&self, name: &str) -> Result<Vec<Option<String>>> {
        Ok(self.cast(name, &DataType::String)?.str()?.iter().map(|value| value.map(String::from)).collect())
    }
    pub fn number(&self, name: &str) -> Result<Vec<Option<f64>>> {
        Ok(self.cast(name, &DataType::Float64)?.f64()?.iter().collect())
    }
    pub fn whole(&self, name: &str) -> Result<Vec<Option<i64>>> {
        Ok(self.cast(name, &DataType::Int64)?.i64()?.iter().collect())
    }
}
