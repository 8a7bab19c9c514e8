//! The answer of an experiment: its cells side by side, each against the reference's cell by seed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::evidence::{self, Measured};
use super::format::parse_quantity;
use super::input::{Input, Run, read};
use crate::record::frames::Frames;
use crate::record::provenance::Provenance;
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Crossed, Draws};
use crate::stats::interval::{Interval, mean_interval, paired_difference};
use crate::stats::paired::Pairs;

/// Coverage of every interval in a report.
pub const LEVEL: f64 = 0.95;

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
}

/// An arm at one value of each swept axis, over all its seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The arm, with the axes that vary within it.
    pub label: String,
    pub method: String,
    pub axes: Vec<AxisValue>,
    pub ok: usize,
    pub failed: usize,
    pub diverged: usize,
    pub unfinished: usize,
    /// Final perplexity over seeds.
    pub perplexity: Option<Estimate>,
    /// Final nats per predicted token, mean over seeds.
    pub nll: Option<f64>,
    /// Against the reference's cell with the same axes; absent for the reference itself.
    pub difference: Option<Difference>,
    /// Target tokens a finished run trained on.
    pub tokens: Option<i64>,
    /// Means over finished runs.
    pub tokens_per_s: Option<f64>,
    pub wall_s: Option<f64>,
    pub seeds: Vec<SeedResult>,
    /// Every run of the cell by its row in the frame, finished or not.
    #[serde(skip)]
    pub runs: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AxisValue {
    pub axis: String,
    pub value: String,
}

/// A mean over seeds with its interval, which needs two seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub n: usize,
}

/// Perplexity minus the reference's, paired by seed; the percentages are of the reference's mean over those seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Label of the reference's cell.
    pub to: String,
    pub perplexity: Estimate,
    pub percent: Estimate,
    /// What decides; absent where the frames hold no documents, or fewer than two seeds.
    pub nll: Option<NllDifference>,
}

/// Nats per token minus the reference's, seed by seed on the same documents, which weigh by their tokens; the interval is over
/// seeds and documents (see [`crate::stats::crossed`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NllDifference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub p: f64,
    pub seeds: usize,
    pub documents: usize,
}

/// The final evaluation of a finished run.
#[derive(Clone, Debug, Serialize)]
pub struct SeedResult {
    pub seed: i64,
    pub run: String,
    pub nll: f64,
    pub perplexity: f64,
}

/// What the students are measured against without being compared: a teacher or the unigram baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    pub name: String,
    /// `teacher` or `baseline`.
    pub role: String,
    pub params: Option<i64>,
    pub perplexity: Option<f64>,
    pub nll: Option<f64>,
}

impl Estimate {
    fn of(interval: Interval) -> Option<Self> {
        let finite = |value: f64| value.is_finite().then_some(value);
        Some(Self { mean: finite(interval.mean)?, low: finite(interval.low), high: finite(interval.high), n: interval.n })
    }

    fn scaled(self, factor: f64) -> Option<Self> {
        let times = |value: f64| Some(value * factor).filter(|value| value.is_finite());
        Some(Self { mean: times(self.mean)?, low: self.low.and_then(times), high: self.high.and_then(times), n: self.n })
    }

    /// Whether the interval is there and leaves out 0.
    pub fn excludes_zero(&self) -> bool {
        self.low.zip(self.high).is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

/// Compares the arms of `frames` as `provenance` names them.
pub fn comparison(frames: &Frames, provenance: &Provenance) -> Result<Comparison> {
    Ok(compare(&read(frames)?, &evidence::read(frames)?, provenance))
}

pub fn compare(input: &Input, evidence: &BTreeMap<String, Measured>, provenance: &Provenance) -> Comparison {
    let mut cells = cells(input, provenance);
    label(&mut cells);
    for at in 0..cells.len() {
        cells[at].difference = difference(&cells, at, &provenance.reference, evidence);
    }
    Comparison {
        experiment: provenance.experiment.clone(),
        smoke: provenance.smoke,
        split: provenance.split.clone(),
        reference: provenance.reference.clone(),
        level: LEVEL,
        cells,
        references: references(input, &provenance.split),
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

/// The order of an axis's values: by size where all are numbers, else as they first appear. Absent comes first.
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
    let count = |statuses: &[&str]| all.iter().filter(|run| statuses.contains(&run.status.as_str())).count();
    let (ok, failed, diverged) = (count(&["ok"]), count(&["failed"]), count(&["diverged"]));
    let finished: Vec<&Run> = all.iter().copied().filter(|run| run.ok()).collect();
    let mut seeds: Vec<SeedResult> = finished
        .iter()
        .filter_map(|run| {
            let eval = run.last_eval(split)?;
            Some(SeedResult { seed: run.seed, run: run.run.clone(), nll: eval.nll, perplexity: eval.perplexity })
        })
        .collect();
    seeds.sort_by_key(|seed| seed.seed);
    let perplexities: Vec<f64> = seeds.iter().map(|seed| seed.perplexity).collect();
    Cell {
        label: method.to_string(),
        method: method.to_string(),
        axes,
        ok,
        failed,
        diverged,
        unfinished: all.len() - ok - failed - diverged,
        perplexity: Estimate::of(mean_interval(&perplexities, LEVEL)),
        nll: mean(seeds.iter().map(|seed| seed.nll)),
        difference: None,
        tokens: finished.iter().map(|run| run.tokens).max(),
        tokens_per_s: mean(finished.iter().filter_map(|run| run.tokens_per_s)),
        wall_s: mean(finished.iter().filter_map(|run| run.wall_s)),
        seeds,
        runs,
    }
}

/// The mean of the finite ones among `values`.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.filter(|value| value.is_finite()).fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Names each cell by its arm and the axes that tell the arm's cells apart.
fn label(cells: &mut [Cell]) {
    let labels: Vec<String> = cells
        .iter()
        .map(|cell| {
            let of_arm: Vec<&Cell> = cells.iter().filter(|other| other.method == cell.method).collect();
            let varies = |axis: &&AxisValue| of_arm.iter().any(|other| !other.axes.contains(axis));
            let shown = cell.axes.iter().filter(varies).map(|axis| format!(" {}={}", axis.axis, axis.value));
            format!("{}{}", cell.method, shown.collect::<String>())
        })
        .collect();
    for (cell, label) in cells.iter_mut().zip(labels) {
        cell.label = label;
    }
}

fn difference(cells: &[Cell], at: usize, reference: &str, evidence: &BTreeMap<String, Measured>) -> Option<Difference> {
    let cell = &cells[at];
    if cell.method == reference {
        return None;
    }
    // Axes that the reference does not have say nothing about which of its cells to take.
    let partner =
        cells.iter().find(|other| other.method == reference && other.axes.iter().all(|axis| cell.axes.contains(axis)))?;
    let pairs: Vec<(&SeedResult, &SeedResult)> =
        cell.seeds.iter().filter_map(|seed| Some((seed, partner.seeds.iter().find(|other| other.seed == seed.seed)?))).collect();
    let (values, base): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(a, b)| (a.perplexity, b.perplexity)).unzip();
    let perplexity = Estimate::of(paired_difference(&values, &base, LEVEL))?;
    let percent = perplexity.scaled(100.0 / mean(base.iter().copied())?)?;
    Some(Difference { to: partner.label.clone(), perplexity, percent, nll: nll_difference(&pairs, evidence) })
}

fn nll_difference(pairs: &[(&SeedResult, &SeedResult)], evidence: &BTreeMap<String, Measured>) -> Option<NllDifference> {
    let found: Vec<(&Measured, &Measured)> =
        pairs.iter().map(|(a, b)| Some((evidence.get(&a.run)?, evidence.get(&b.run)?))).collect::<Option<_>>()?;
    let (first, _) = found.first()?;
    if found.iter().flat_map(|(a, b)| [a, b]).any(|run| run.documents != first.documents || run.tokens != first.tokens) {
        return None;
    }
    let nats = |runs: Vec<&Measured>| runs.into_iter().map(|run| run.nats.clone()).collect();
    let (a, b) = found.iter().copied().unzip();
    let pairs = Pairs { tokens: first.tokens.clone(), a: nats(a), b: nats(b) };
    let Crossed { mean, low, high, p, seeds, documents, .. } =
        pairs.difference(LEVEL, Draws { replicates: REPLICATES, seed: SEED })?;
    Some(NllDifference { mean, low, high, p, seeds, documents })
}

fn references(input: &Input, split: &str) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    for role in ["teacher", "baseline"] {
        for run in input.runs.iter().filter(|run| run.role == role) {
            if found.iter().any(|reference| reference.role == role && reference.name == run.method) {
                continue;
            }
            let peers = || input.runs.iter().filter(|other| other.role == role && other.method == run.method && other.ok());
            found.push(Reference {
                name: run.method.clone(),
                role: role.to_string(),
                params: run.params,
                perplexity: mean(peers().filter_map(|run| run.last_eval(split)).map(|eval| eval.perplexity)),
                nll: mean(peers().filter_map(|run| run.last_eval(split)).map(|eval| eval.nll)),
            });
        }
    }
    found
}
