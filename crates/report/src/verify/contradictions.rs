//! Contradictions between numbers of the frames that are stored redundantly.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use hydrometer_record::frames::{CurveRow, DocumentRow, EvalRow, Frames, RunRow};
use hydrometer_record::imports::ImportRow;

/// Relative difference that another order of summation can cause.
const ROUNDING: f64 = 1e-9;

/// The contradictions, one sentence each, with the names of their frames.
pub fn contradictions(frames: &Frames) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    let evals = EvalRow::rows(&frames.evals)?;
    for row in &evals {
        let (EvalRow { run, step, .. }, perplexity, nll) = (row, row.perplexity(), row.nll());
        if differ(perplexity, nll.exp()) {
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
        if let Some(row) = last.filter(|row| differ(row.nll(), nll)) {
            found.push(("documents", format!("the documents of {run} give an nll of {nll}, its last evaluation {}", row.nll())));
        }
    }
    let mut last: BTreeMap<&str, &CurveRow> = BTreeMap::new();
    let curves = CurveRow::rows(&frames.curves)?;
    for row in &curves {
        last.insert(&row.run, row);
    }
    let mut runs = BTreeSet::new();
    for RunRow { run, tokens, updates, .. } in RunRow::rows(&frames.runs)? {
        if !runs.insert(run.clone()) {
            found.push(("runs", format!("{run} has several rows")));
        }
        if let Some(step) = last.get(run.as_str()).filter(|step| (step.tokens, step.step) != (tokens, updates)) {
            let (steps, seen) = (step.step, step.tokens);
            found.push(("runs", format!("{run} has {tokens} tokens and {updates} updates, its curve {seen} and {steps}")));
        }
    }
    for row in frames.imports.as_ref().map(ImportRow::rows).transpose()?.unwrap_or_default() {
        found.extend(import(&row).map(|why| ("imports", why)));
    }
    Ok(found)
}

/// The contradiction in a row of the imports, if there is one.
fn import(row: &ImportRow) -> Option<String> {
    let ImportRow { import, name, lines, bad_lines, bad_kinds, examples, targets, rows, repeated, .. } = row;
    let kinds = bad_kinds.split(", ").filter(|kind| !kind.is_empty());
    let by_kind: Option<i64> = kinds.map(|kind| kind.rsplit_once(' ')?.1.parse::<i64>().ok()).sum();
    let whole = [*lines, *bad_lines, *examples, *targets, *rows, *repeated];
    let charged = [row.k, row.requests, row.prompt_tokens, row.completion_tokens];
    let shares = [row.unmapped, row.duplicate, row.short_k, row.mismatched_context];
    let what = if by_kind != Some(*bad_lines) {
        format!("{bad_lines} bad lines, by kind {bad_kinds:?}")
    } else if bad_lines > lines {
        format!("{bad_lines} bad lines of {lines}")
    } else if whole.into_iter().chain(charged.into_iter().flatten()).any(|count| count < 0) {
        "a count below 0".into()
    } else if shares.into_iter().flatten().any(|share| !(0.0..=1.0).contains(&share))
        || row.cost.is_some_and(|cost| cost.is_nan() || cost < 0.0)
    {
        "a share or a cost that is out of range".into()
    } else {
        return None;
    };
    Some(format!("the import {import} of {name} has {what}"))
}

pub(super) fn differ(a: f64, b: f64) -> bool {
    !(a == b || (a - b).abs() <= ROUNDING * a.abs().max(b.abs()) || a.is_nan() && b.is_nan())
}
