//! The comparison of an experiment's cells, each against the reference's cell, paired by seed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_base::mean::mean;
use hydrometer_base::units::parse_quantity;
use hydrometer_record::frames::{EvalRow, Frames};
use hydrometer_record::metric::Metric;
use hydrometer_record::provenance::Provenance;
use hydrometer_record::run_status::RunStatus;
use serde::Serialize;

use super::difference::difference;
use super::evidence::Evidence;
use super::input::{Input, Run, read};
use super::metrics::{over_seeds, secondary_metrics};
use super::task::{self, TaskComparison};
use crate::cell::{AxisValue, Cell, Estimate, LEVEL, NllDifference, Reference, SeedResult, values};
use crate::stats::holm::holm;
use crate::stats::interval::mean_interval;

#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub experiment: String,
    pub smoke: bool,
    pub split: String,
    /// The arm that others are compared with.
    pub reference: String,
    /// Coverage of the intervals.
    pub level: f64,
    pub cells: Vec<Cell>,
    /// Teachers, then the unigram baseline.
    pub references: Vec<Reference>,
    /// The scores of the tasks; absent without tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskComparison>,
}

impl Comparison {
    /// The cells by facet, both in order.
    pub fn facets(&self) -> Vec<(String, Vec<&Cell>)> {
        let mut all: Vec<(String, Vec<&Cell>)> = Vec::new();
        for cell in &self.cells {
            let name = values(&cell.facet);
            match all.iter_mut().find(|(known, _)| *known == name) {
                Some((_, cells)) => cells.push(cell),
                None => all.push((name, vec![cell])),
            }
        }
        all
    }
}

/// Compares the arms of `frames` under the names in `provenance`.
pub fn comparison(frames: &Frames, provenance: &Provenance) -> Result<Comparison> {
    Ok(compare(&read(frames)?, &Evidence::read(frames)?, provenance))
}

pub fn compare(input: &Input, evidence: &Evidence, provenance: &Provenance) -> Comparison {
    let mut cells = cells(input, provenance);
    label(&mut cells);
    for at in 0..cells.len() {
        cells[at].difference = difference(&cells, at, &provenance.reference, &evidence.runs);
    }
    let mut decided: Vec<&mut NllDifference> =
        cells.iter_mut().filter_map(|cell| cell.difference.as_mut()?.nll.as_mut()).collect();
    let p: Vec<f64> = decided.iter().map(|found| found.p).collect();
    decided.iter_mut().zip(holm(&p)).for_each(|(found, adjusted)| found.p_holm = adjusted);
    let tasks = task::compare(&cells, input, &provenance.reference, evidence);
    Comparison {
        experiment: provenance.experiment.clone(),
        smoke: provenance.smoke,
        split: provenance.split.clone(),
        reference: provenance.reference.clone(),
        level: LEVEL,
        cells,
        references: references(input, &provenance.split),
        tasks,
    }
}

fn cells(input: &Input, provenance: &Provenance) -> Vec<Cell> {
    let students: Vec<(usize, &Run)> = input.runs.iter().enumerate().filter(|(_, run)| run.role == "student").collect();
    let mut methods: Vec<&str> = provenance.methods.iter().map(|method| method.name.as_str()).collect();
    for (_, run) in &students {
        if !methods.contains(&run.method.as_str()) {
            methods.push(&run.method);
        }
    }
    let axes = &input.axes;
    let mut groups: Vec<(usize, Vec<Option<String>>, Vec<usize>)> = Vec::new();
    for (at, run) in &students {
        let method = methods.iter().position(|name| *name == run.method).unwrap_or(methods.len());
        let values = run.axes.clone();
        match groups.iter_mut().find(|group| group.0 == method && group.1 == values) {
            Some(group) => group.2.push(*at),
            None => groups.push((method, values, vec![*at])),
        }
    }
    let ranks: Vec<Ranks> = (0..axes.len()).map(|axis| Ranks::of(groups.iter().map(|group| group.1[axis].as_deref()))).collect();
    groups.sort_by(|a, b| {
        let by_axes = || {
            let pairs = ranks.iter().zip(a.1.iter().zip(&b.1));
            pairs.map(|(rank, (a, b))| rank.compare(a.as_deref(), b.as_deref())).fold(Ordering::Equal, Ordering::then)
        };
        a.0.cmp(&b.0).then_with(by_axes)
    });
    groups
        .into_iter()
        .map(|(method, values, runs)| {
            let present =
                axes.iter().zip(values).filter_map(|(axis, value)| Some(AxisValue { axis: axis.clone(), value: value? }));
            cell(input, methods[method], present.collect(), runs, &provenance.split)
        })
        .collect()
}

/// The order of an axis's values: by size if all are numbers, else by first appearance. Absent comes first.
enum Ranks {
    Numeric,
    Appearance(Vec<String>),
}

impl Ranks {
    fn of<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Self {
        let values: Vec<String> = values.flatten().map(String::from).collect();
        if values.iter().all(|value| parse_quantity(value).is_some()) { Self::Numeric } else { Self::Appearance(values) }
    }

    fn compare(&self, a: Option<&str>, b: Option<&str>) -> Ordering {
        let rank = |value: Option<&str>| match self {
            Self::Numeric => value.and_then(parse_quantity),
            Self::Appearance(seen) => value.and_then(|value| seen.iter().position(|other| other == value)).map(|at| at as f64),
        };
        rank(a).partial_cmp(&rank(b)).unwrap_or(Ordering::Equal)
    }
}

fn cell(input: &Input, method: &str, axes: Vec<AxisValue>, runs: Vec<usize>, split: &str) -> Cell {
    let all: Vec<&Run> = runs.iter().map(|&at| &input.runs[at]).collect();
    let count = |status: RunStatus| all.iter().filter(|run| run.is(status)).count();
    let (ok, failed, diverged) = (count(RunStatus::Done), count(RunStatus::Failed), count(RunStatus::Diverged));
    let finished: Vec<&Run> = all.iter().copied().filter(|run| run.ok()).collect();
    let mut seeds: Vec<SeedResult> = finished
        .iter()
        .filter_map(|run| {
            let eval = run.last_eval(split)?;
            let total_flops = run.train_flops + run.teacher_flops;
            let (run, seed, metrics) = (run.run.clone(), run.seed, secondary_metrics(eval));
            Some(SeedResult { seed, run, nll: eval.nll(), perplexity: eval.perplexity(), metrics, total_flops })
        })
        .collect();
    seeds.sort_by_key(|seed| seed.seed);
    let perplexities: Vec<f64> = seeds.iter().map(|seed| seed.perplexity).collect();
    Cell {
        label: method.to_string(),
        method: method.to_string(),
        axes,
        facet: Vec::new(),
        arm: String::new(),
        ok,
        failed,
        diverged,
        unfinished: all.len() - ok - failed - diverged,
        perplexity: Estimate::of(mean_interval(&perplexities, LEVEL)),
        nll: mean(seeds.iter().map(|seed| seed.nll)),
        metrics: over_seeds(&seeds.iter().map(|seed| &seed.metrics).collect::<Vec<_>>()),
        difference: None,
        tokens: finished.iter().map(|run| run.tokens).max(),
        tokens_per_s: mean(finished.iter().filter_map(|run| run.tokens_per_s)),
        wall_s: mean(finished.iter().filter_map(|run| run.wall_s)),
        seeds,
        runs,
    }
}

/// Names each cell by its arm and the axes that distinguish the arm's cells, and finds its facet.
fn label(cells: &mut [Cell]) {
    let shared = facet_axes(cells);
    let mut names = Vec::new();
    for cell in cells.iter() {
        let of_arm: Vec<&Cell> = cells.iter().filter(|other| other.method == cell.method).collect();
        let varies = |axis: &&AxisValue| of_arm.iter().any(|other| !other.axes.contains(axis));
        let shown: Vec<AxisValue> = cell.axes.iter().filter(varies).cloned().collect();
        let (facet, own): (Vec<AxisValue>, Vec<AxisValue>) = shown.iter().cloned().partition(|axis| shared.contains(&axis.axis));
        let name = |axes: &[AxisValue]| format!("{} {}", cell.method, values(axes)).trim_end().to_string();
        names.push((name(&shown), name(&own), facet));
    }
    for (cell, (label, arm, facet)) in cells.iter_mut().zip(names) {
        (cell.label, cell.arm, cell.facet) = (label, arm, facet);
    }
}

/// The axes on which every cell has a value, with more than one value in total, and that leave several cells per facet.
fn facet_axes(cells: &[Cell]) -> Vec<String> {
    let Some(first) = cells.first() else { return Vec::new() };
    let value = |cell: &Cell, name: &str| cell.axes.iter().find(|axis| axis.axis == name).map(|axis| axis.value.clone());
    let names = first.axes.iter().map(|axis| axis.axis.clone());
    let shared: Vec<String> = names
        .filter(|name| cells.iter().all(|cell| value(cell, name).is_some()))
        .filter(|name| cells.iter().any(|cell| value(cell, name) != value(first, name)))
        .collect();
    let place = |cell: &Cell| -> Vec<Option<String>> { shared.iter().map(|name| value(cell, name)).collect() };
    let together = cells.iter().enumerate().any(|(at, cell)| cells[..at].iter().any(|other| place(other) == place(cell)));
    if together { shared } else { Vec::new() }
}

fn references(input: &Input, split: &str) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    for role in ["teacher", "baseline"] {
        for run in input.runs.iter().filter(|run| run.role == role) {
            if found.iter().any(|reference| reference.role == role && reference.name == run.method) {
                continue;
            }
            let peers = input.runs.iter().filter(|other| other.role == role && other.method == run.method && other.ok());
            let evals: Vec<&EvalRow> = peers.filter_map(|run| run.last_eval(split)).collect();
            let metrics: Vec<BTreeMap<Metric, f64>> = evals.iter().map(|eval| secondary_metrics(eval)).collect();
            let mut metrics = over_seeds(&metrics.iter().collect::<Vec<_>>());
            // References of one name may have been trained on different data sets, which are not a sample to average.
            metrics.values_mut().for_each(|found| (found.low, found.high) = (None, None));
            found.push(Reference {
                name: run.method.clone(),
                role: role.to_string(),
                params: run.params,
                perplexity: mean(evals.iter().map(|eval| eval.perplexity())),
                nll: mean(evals.iter().map(|eval| eval.nll())),
                metrics,
            });
        }
    }
    found
}
