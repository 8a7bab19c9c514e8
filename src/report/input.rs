//! The frames as plain rows, by column name: what the tables, plots and pages read.

use anyhow::Result;
use polars::prelude::*;

use crate::record::frames::{Frames, RunRow, SWEPT};

pub struct Input {
    pub runs: Vec<Run>,
    /// Swept axes in the order of their columns, under the names of the experiment file.
    pub axes: Vec<String>,
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
    /// Slope of the loss along its gradient over the gradient's norm.
    pub gradient_check: Option<f64>,
    pub error: Option<String>,
    /// One a swept axis.
    pub axes: Vec<Option<String>>,
    pub steps: Vec<Step>,
    pub evals: Vec<Eval>,
}

pub struct Step {
    pub tokens: f64,
    pub hard_loss: f64,
    pub grad_norm: f64,
    pub retained_mass: Option<f64>,
    pub teacher_entropy: Option<f64>,
    pub mean_lse: f64,
}

pub struct Eval {
    pub tokens: f64,
    pub split: String,
    pub nll: f64,
    pub perplexity: f64,
}

impl Run {
    pub fn ok(&self) -> bool {
        self.status == "ok"
    }

    /// The last evaluation on `split`, unless its numbers are not finite.
    pub fn last_eval(&self, split: &str) -> Option<&Eval> {
        self.evals.iter().rev().find(|eval| eval.split == split).filter(|e| e.perplexity.is_finite() && e.nll.is_finite())
    }
}

/// Reads the rows of `frames`. A column that is missing is an error, a null number is NaN.
pub fn read(frames: &Frames) -> Result<Input> {
    let known = RunRow::frame(&[])?;
    let is_axis = |name: &&str| known.column(name).is_err();
    let axes: Vec<String> = frames.runs.columns().iter().map(|c| c.name().as_str()).filter(is_axis).map(String::from).collect();

    let runs = Table(&frames.runs);
    let (run, role, method, status) = (runs.text("run")?, runs.text("role")?, runs.text("method")?, runs.text("status")?);
    let (seed, tokens, params, error) = (runs.whole("seed")?, runs.whole("tokens")?, runs.whole("params")?, runs.text("error")?);
    let (wall_s, tokens_per_s) = (runs.number("wall_s")?, runs.number("tokens_per_s")?);
    let gradient_check = runs.number("gradient_check")?;
    let (train_flops, teacher_flops) = (runs.number("train_flops")?, runs.number("teacher_flops")?);
    let axis_values = axes.iter().map(|axis| runs.text(axis)).collect::<Result<Vec<_>>>()?;
    let mut rows: Vec<Run> = (0..frames.runs.height())
        .map(|i| Run {
            run: run[i].clone().unwrap_or_default(),
            role: role[i].clone().unwrap_or_default(),
            method: method[i].clone().unwrap_or_default(),
            seed: seed[i].unwrap_or(0),
            status: status[i].clone().unwrap_or_default(),
            params: params[i],
            tokens: tokens[i].unwrap_or(0),
            wall_s: wall_s[i],
            tokens_per_s: tokens_per_s[i],
            train_flops: train_flops[i].unwrap_or(0.0),
            teacher_flops: teacher_flops[i].unwrap_or(0.0),
            gradient_check: gradient_check[i],
            error: error[i].clone(),
            axes: axis_values.iter().map(|values| values[i].clone()).collect(),
            steps: Vec::new(),
            evals: Vec::new(),
        })
        .collect();
    let place: std::collections::BTreeMap<String, usize> =
        rows.iter().enumerate().map(|(at, row)| (row.run.clone(), at)).collect();

    let curves = Table(&frames.curves);
    let (run, tokens, hard_loss) = (curves.text("run")?, curves.number("tokens")?, curves.number("hard_loss")?);
    let (grad_norm, mean_lse) = (curves.number("grad_norm")?, curves.number("mean_lse")?);
    let (retained_mass, teacher_entropy) = (curves.number("retained_mass")?, curves.number("teacher_entropy")?);
    for i in 0..frames.curves.height() {
        let Some(&at) = run[i].as_ref().and_then(|run| place.get(run)) else { continue };
        rows[at].steps.push(Step {
            tokens: tokens[i].unwrap_or(f64::NAN),
            hard_loss: hard_loss[i].unwrap_or(f64::NAN),
            grad_norm: grad_norm[i].unwrap_or(f64::NAN),
            retained_mass: retained_mass[i],
            teacher_entropy: teacher_entropy[i],
            mean_lse: mean_lse[i].unwrap_or(f64::NAN),
        });
    }

    let evals = Table(&frames.evals);
    let (run, tokens, split) = (evals.text("run")?, evals.number("tokens")?, evals.text("split")?);
    let (nll, perplexity) = (evals.number("nll")?, evals.number("perplexity")?);
    for i in 0..frames.evals.height() {
        let Some(&at) = run[i].as_ref().and_then(|run| place.get(run)) else { continue };
        rows[at].evals.push(Eval {
            tokens: tokens[i].unwrap_or(f64::NAN),
            split: split[i].clone().unwrap_or_default(),
            nll: nll[i].unwrap_or(f64::NAN),
            perplexity: perplexity[i].unwrap_or(f64::NAN),
        });
    }
    let axes = axes.into_iter().map(|axis| axis.strip_prefix(SWEPT).map_or(axis.clone(), String::from)).collect();
    Ok(Input { runs: rows, axes })
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
