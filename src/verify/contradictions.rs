//! Numbers of the frames that deny one another: what follows from what is in them twice.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::record::frames::{CurveRow, DocumentRow, EvalRow, Frames, RunRow};

/// Relative difference that another order of summing may bring.
const ROUNDING: f64 = 1e-9;

/// Frames by name with what in them cannot be.
pub fn contradictions(frames: &Frames) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let evals = EvalRow::rows(&frames.evals)?;
    for row in &evals {
        if differ(row.perplexity, row.nll.exp()) {
            let EvalRow { run, step, perplexity, nll, .. } = row;
            found.push((
                "evals",
                format!("perplexity {perplexity} of {run} at step {step} is not the exponential of its nll {nll}"),
            ));
        }
    }
    let mut sums: BTreeMap<(String, String), (f64, i64)> = BTreeMap::new();
    for row in DocumentRow::rows(&frames.documents)? {
        let sum = sums.entry((row.run, row.split)).or_default();
        *sum = (sum.0 + row.nll_sum, sum.1 + row.tokens);
    }
    for ((run, split), (nats, tokens)) in sums {
        let last = evals.iter().rev().find(|row| row.run == run && row.split == split);
        let nll = nats / tokens as f64;
        if let Some(row) = last.filter(|row| differ(row.nll, nll)) {
            found.push(("documents", format!("the documents of {run} give an nll of {nll}, its last evaluation {}", row.nll)));
        }
    }
    let mut last: BTreeMap<&str, &CurveRow> = BTreeMap::new();
    let curves = CurveRow::rows(&frames.curves)?;
    for row in &curves {
        last.insert(&row.run, row);
    }
    for RunRow { run, tokens, updates, .. } in RunRow::rows(&frames.runs)? {
        if let Some(step) = last.get(run.as_str()).filter(|step| (step.tokens, step.step) != (tokens, updates)) {
            let (steps, seen) = (step.step, step.tokens);
            found.push(("runs", format!("{run} has {tokens} tokens and {updates} updates, its curve {seen} and {steps}")));
        }
    }
    Ok(found)
}

fn differ(a: f64, b: f64) -> bool {
    !(a == b || (a - b).abs() <= ROUNDING * a.abs().max(b.abs()) || a.is_nan() && b.is_nan())
}
