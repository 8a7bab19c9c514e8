//! `export --format json`: every number of the report under a name, so that texts can quote numbers instead of copying them.
//!
//! A cell is found by its label (`bucket tokens=200k`), a claim by its id, a teacher or baseline by the name it has in the tables.
//! A number consists of its value, rounded to nine significant digits as in `claims.json`, and its text, from the code that
//! writes the report. Unmeasured numbers have no entry, so quoting one is an error.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hydrometer_base::mean::mean;
use hydrometer_base::numerics::{NUMERICS, changes_since};
use hydrometer_base::units::{date, duration, fixed, flops, quantity, signed};
use hydrometer_record::export::Export;
use hydrometer_record::frames::Frames;
use hydrometer_record::metric::Metric;
use hydrometer_record::provenance::Provenance;
use serde_json::{Map, Value, json};

use super::claims::rounded;
use super::comparison::{Comparison, compare};
use super::evidence::{Evidence, FinalEvaluation};
use super::input::{Input, Run, read};
use super::metrics::metric_mean;
use super::task::{TaskArm, TaskComparison};
use super::{findings, scores, table, verdict};
use crate::cell::{Cell, Difference, Estimate, Reference};

/// The format `json`: one file, named by the experiment and its tier.
pub struct Numbers {
    /// The experiment's `claims.json`, if it has one; `verify` checks that file against the frames.
    pub claims: Option<String>,
}

impl Export for Numbers {
    fn files(&self, frames: &Frames, provenance: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let found = numbers(frames, provenance, self.claims.as_deref())?;
        let name = format!("{}{}.json", provenance.experiment, if provenance.smoke { "-smoke" } else { "" });
        Ok(vec![(name.into(), format!("{found:#}\n").into_bytes())])
    }
}

/// The numbers of one experiment that texts can quote. `claims` is its `claims.json`, if it has one.
pub fn numbers(frames: &Frames, provenance: &Provenance, claims: Option<&str>) -> Result<Value> {
    let (input, evidence) = (read(frames)?, Evidence::read(frames)?);
    let comparison = compare(&input, &evidence, provenance);
    let cells: Map<String, Value> =
        comparison.cells.iter().map(|cell| (cell.label.clone(), of_cell(cell, &input, &comparison, provenance))).collect();
    let references: Map<String, Value> =
        comparison.references.iter().map(|one| (table::title(one), of_reference(one, &input, &comparison))).collect();
    let facets: Vec<Value> = comparison
        .facets()
        .into_iter()
        .map(|(name, cells)| json!({ "facet": name, "cells": cells.iter().map(|cell| &cell.label).collect::<Vec<_>>() }))
        .collect();
    let held_out = evidence.runs.values().find(|run| !run.documents.is_empty()).map(held_out);
    Ok(json!({
        "experiment": provenance.experiment,
        "question": provenance.question,
        "hypothesis": provenance.hypothesis,
        "revision": provenance.revision,
        "smoke": provenance.smoke,
        "student": provenance.student,
        "split": comparison.split,
        "level": number(comparison.level, format!("{}%", fixed(comparison.level * 100.0, 0))),
        "reference": comparison.reference,
        "made": {
            "commit": provenance.commit,
            "machine": format!("{}, {} cores", provenance.cpu, provenance.cores),
            "libtorch": provenance.libtorch,
            "device": provenance.device,
            "finished": date(provenance.finished_at),
            "frames": provenance.frames,
        },
        "numerics": arithmetic(provenance),
        "held_out": held_out,
        "runs": runs(&input),
        "comparisons": comparison.cells.iter().filter(|cell| cell.difference.as_ref().is_some_and(|d| d.nll.is_some())).count(),
        "facets": facets,
        "cells": cells,
        "references": references,
        "claims": claims.map(of_claims).transpose()?.unwrap_or_default(),
    }))
}

/// The version of the arithmetic that made the result, and what has changed since.
fn arithmetic(provenance: &Provenance) -> Value {
    let result = provenance.numerics();
    let changes: Vec<&str> = changes_since(result).map(|change| change.what).collect();
    let recorded = provenance.numerics.is_some();
    json!({ "result": result, "code": NUMERICS, "stale": result < NUMERICS, "recorded": recorded, "changes": changes })
}

fn number(value: f64, text: String) -> Value {
    json!({ "value": rounded(value), "text": text })
}

fn count(value: usize) -> Value {
    json!({ "value": value, "text": quantity(value as f64) })
}

/// A mean with its interval; the text of the mean is that of the report.
fn estimate(found: &Estimate, text: String, show: impl Fn(f64) -> String) -> Value {
    let mut entry = json!({ "value": rounded(found.mean), "text": text, "mean": show(found.mean), "seeds": found.n });
    if let Some((low, high)) = found.low.zip(found.high) {
        entry["low"] = number(low, show(low));
        entry["high"] = number(high, show(high));
    }
    entry
}

fn held_out(run: &FinalEvaluation) -> Value {
    let tokens: f64 = run.tokens.iter().sum();
    json!({ "documents": count(run.documents.len()), "tokens": number(tokens, quantity(tokens)) })
}

fn runs(input: &Input) -> Value {
    let of = |role: &str| input.runs.iter().filter(|run| run.role == role).count();
    let finished = input.runs.iter().filter(|run| run.role == "student" && run.ok()).count();
    let seconds: f64 = input.runs.iter().filter(|run| run.role == "student").filter_map(|run| run.wall_s).sum();
    json!({
        "students": count(of("student")),
        "finished": count(finished),
        "teachers": count(of("teacher")),
        "wall_s": number(seconds, duration(seconds)),
    })
}

fn of_cell(cell: &Cell, input: &Input, comparison: &Comparison, provenance: &Provenance) -> Value {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| all.insert(name.into(), value);
    if let Some(found) = &cell.perplexity {
        let show = |value| metric_mean(Metric::Perplexity, value);
        put("perplexity", estimate(found, table::metric_text(Metric::Perplexity, found), show));
    }
    if let Some(nll) = cell.nll {
        put("nll", number(nll, metric_mean(Metric::Nll, nll)));
    }
    if let Some(tokens) = cell.tokens {
        put("tokens", number(tokens as f64, quantity(tokens as f64)));
    }
    for (metric, found) in &cell.metrics {
        put(metric.name(), estimate(found, table::metric_text(*metric, found), |value| metric_mean(*metric, value)));
    }
    for (shown, value) in findings::means(input, cell) {
        if let Some(value) = value {
            put(shown.name, number(value, fixed(value, 3)));
        }
    }
    let finished: Vec<&Run> = findings::finished(input, cell).collect();
    for (name, at) in [("first_gradient_check", 0), ("last_gradient_check", 1)] {
        if let Some(value) = mean(finished.iter().filter_map(|run| run.gradient_checks[at])) {
            put(name, number(value, fixed(value, 3)));
        }
    }
    if let Some(seconds) = cell.wall_s {
        put("wall_s", number(seconds, duration(seconds)));
    }
    type Cost = fn(&Run) -> f64;
    let costs: [(&str, Cost); 2] = [("train_flops", |run| run.train_flops), ("teacher_flops", |run| run.teacher_flops)];
    for (name, of) in costs {
        if let Some(value) = mean(finished.iter().map(|run| of(run))) {
            put(name, number(value, flops(value)));
        }
    }
    if let Some(params) = finished.first().and_then(|run| run.params) {
        put("params", number(params as f64, quantity(params as f64)));
    }
    if let Some(found) = &cell.difference {
        differences(found, comparison, &mut put);
    }
    for one in &comparison.tasks {
        if let Some(arm) = one.arm(&cell.label) {
            task(one, arm, &mut put);
        }
    }
    let objective = provenance.methods.iter().find(|method| method.name == cell.method).map(|method| &method.objective);
    let axes: Map<String, Value> = cell.axes.iter().map(|axis| (axis.axis.clone(), json!(axis.value))).collect();
    json!({
        "arm": cell.arm,
        "method": cell.method,
        "axes": axes,
        "objective": objective,
        "runs": { "finished": cell.ok, "failed": cell.failed, "diverged": cell.diverged, "unfinished": cell.unfinished },
        "verdict": cell.difference.as_ref().map(|found| verdict::word(found)),
        "verdict_holm": cell.difference.as_ref().map(|found| verdict::word_among_all(found, comparison.level)),
        "numbers": all,
    })
}

/// The difference of a cell from the reference's cell.
fn differences(found: &Difference, comparison: &Comparison, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let percent = |value: f64| format!("{}%", signed(value, 1));
    put("percent", estimate(&found.percent, percent(found.percent.mean), percent));
    let Some(nll) = found.nll else { return };
    let nats = |value: f64| signed(value, 3);
    let interval = Estimate { mean: nll.mean, low: Some(nll.low), high: Some(nll.high), n: nll.seeds };
    put("nats", estimate(&interval, nats(nll.mean), nats));
    put("p", number(nll.p, table::probability(nll.p)));
    put("p_holm", number(nll.p_holm, table::probability(nll.p_holm)));
    put("minimum_detectable_effect", number(nll.minimum_detectable_effect, fixed(nll.minimum_detectable_effect, 3)));
    put("documents", count(nll.documents));
    put("seeds", count(nll.seeds));
    put("level", number(comparison.level, format!("{}%", fixed(comparison.level * 100.0, 0))));
    if let Some(seeds) = nll.seeds_needed {
        put("seeds_needed", count(seeds));
    }
}

/// A task's score under the name `sums exact_match`, and its difference from the reference's.
fn task(one: &TaskComparison, arm: &TaskArm, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let name = format!("{} {}", one.task, one.score.identifier());
    let show = |value| scores::value(one.score, value);
    put(&name, estimate(&arm.value, show(arm.value.mean), show));
    put(&format!("{name} prompts"), count(arm.prompts));
    let Some(found) = &arm.difference else { return };
    let show = |value| scores::difference(one.score, value);
    let interval = Estimate { mean: found.mean, low: found.low, high: found.high, n: found.seeds };
    put(&format!("{name} difference"), estimate(&interval, show(found.mean), show));
    for (what, p) in [("p", found.p), ("p_holm", found.p_holm)] {
        if let Some(p) = p {
            put(&format!("{name} {what}"), number(p, table::probability(p)));
        }
    }
    put(&format!("{name} verdict"), json!({ "text": found.verdict }));
    put(&format!("{name} verdict_holm"), json!({ "text": found.verdict_holm }));
}

fn of_reference(one: &Reference, input: &Input, comparison: &Comparison) -> Value {
    let mut all = Map::new();
    if let Some(value) = one.perplexity {
        all.insert("perplexity".into(), number(value, metric_mean(Metric::Perplexity, value)));
    }
    if let Some(value) = one.nll {
        all.insert("nll".into(), number(value, metric_mean(Metric::Nll, value)));
    }
    if let Some(value) = one.params {
        all.insert("params".into(), number(value as f64, quantity(value as f64)));
    }
    for (metric, found) in &one.metrics {
        all.insert(metric.name().into(), number(found.mean, table::metric_text(*metric, found)));
    }
    for found in &comparison.tasks {
        if let Some(model) = found.references.iter().find(|model| model.role == one.role && model.name == one.name) {
            let name = format!("{} {}", found.task, found.score.identifier());
            all.insert(name, number(model.mean, scores::value(found.score, model.mean)));
        }
    }
    let run = input.runs.iter().find(|run| run.role == one.role && run.method == one.name && run.ok());
    if let Some(run) = run.filter(|run| run.train_flops > 0.0) {
        all.insert("tokens".into(), number(run.tokens as f64, quantity(run.tokens as f64)));
        all.insert("train_flops".into(), number(run.train_flops, flops(run.train_flops)));
    }
    json!({ "role": one.role, "numbers": all })
}

/// The verdicts of `claims.json` by id.
fn of_claims(text: &str) -> Result<Map<String, Value>> {
    let file: Value = serde_json::from_str(text).context("claims.json is damaged")?;
    let claims = file["claims"].as_array().context("claims.json holds no claims")?;
    let of = |claim: &Value| {
        let mut entry = claim.clone();
        let fields = entry.as_object_mut()?;
        let percent = fields.get("scale").is_some_and(|scale| scale == "log-ratio");
        for name in ["estimate", "low", "high", "minimum_detectable_effect"] {
            let Some(value) = fields.get(name).and_then(Value::as_f64) else { continue };
            let (value, text) = match percent {
                true => (100.0 * value.exp_m1(), format!("{}%", signed(100.0 * value.exp_m1(), 1))),
                false => (value, signed(value, 4)),
            };
            fields.insert(name.into(), number(value, text));
        }
        for name in ["p", "p_holm"] {
            let Some(value) = fields.get(name).and_then(Value::as_f64) else { continue };
            fields.insert(name.into(), number(value, table::probability(value)));
        }
        // Run ids are for `verify`, not for texts.
        fields.retain(|name, _| name != "a" && name != "b");
        Some((claim["id"].as_str()?.to_string(), entry))
    };
    claims.iter().map(|claim| of(claim).context("claims.json holds a claim without an id")).collect()
}
