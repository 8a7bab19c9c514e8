//! The parts of a comparison: cells of arms and axes, their estimates, and their differences from the reference.

use std::collections::BTreeMap;

use hydrometer_record::metric::Metric;
use serde::Serialize;

use crate::stats::interval::Interval;

/// Coverage of every interval in a report.
pub const LEVEL: f64 = 0.95;

/// An arm at one value of each swept axis, over all its seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The arm and the axes that vary within it.
    pub label: String,
    pub method: String,
    pub axes: Vec<AxisValue>,
    /// The values of the varying axes that all arms share, such as `tokens=100k`: one panel each. Empty if there are none, or if
    /// every panel would have a single cell.
    pub facet: Vec<AxisValue>,
    /// The label without the facet.
    pub arm: String,
    pub ok: usize,
    pub failed: usize,
    pub diverged: usize,
    pub unfinished: usize,
    /// Final perplexity over seeds.
    pub perplexity: Option<Estimate>,
    /// Final nats per predicted token, mean over seeds.
    pub nll: Option<f64>,
    /// The other metrics of the seeds' evaluations that at least one of them has.
    pub metrics: BTreeMap<Metric, Estimate>,
    /// The difference from the reference's cell with the same axes; absent for the reference itself.
    pub difference: Option<Difference>,
    /// Target tokens that a finished run trained on.
    pub tokens: Option<i64>,
    /// Means over finished runs.
    pub tokens_per_s: Option<f64>,
    pub wall_s: Option<f64>,
    pub seeds: Vec<SeedResult>,
    /// The rows in the frame of all runs of the cell, finished or not.
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

/// The final evaluation of a finished run.
#[derive(Clone, Debug, Serialize)]
pub struct SeedResult {
    pub seed: i64,
    pub run: String,
    pub nll: f64,
    pub perplexity: f64,
    /// Its other metrics.
    pub metrics: BTreeMap<Metric, f64>,
    /// Student and teacher together.
    pub total_flops: f64,
}

/// A model shown for orientation but not compared: a teacher or the unigram baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    pub name: String,
    /// `teacher` or `baseline`.
    pub role: String,
    pub params: Option<i64>,
    pub perplexity: Option<f64>,
    pub nll: Option<f64>,
    /// Means alone.
    pub metrics: BTreeMap<Metric, Estimate>,
}

/// Perplexity minus the reference's, paired by seed; the percentages are of the reference's mean over those seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Label of the reference's cell.
    pub to: String,
    pub perplexity: Estimate,
    pub percent: Estimate,
    /// The deciding difference; absent if the frames have no documents, or fewer than two seeds.
    pub nll: Option<NllDifference>,
}

/// Nats per token minus the reference's, seed by seed on the same documents, weighted by their tokens. The interval is over seeds
/// and documents (see [`crate::stats::crossed`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NllDifference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Two-sided p-value against no difference.
    pub p: f64,
    /// The same after Holm's correction over all comparisons of the experiment.
    pub p_holm: f64,
    pub seeds: usize,
    pub documents: usize,
    /// Probability that a seed of this cell ends below one of the reference's.
    pub probability_of_superiority: f64,
    /// The smallest effect that these seeds and documents detect with probability 0.8.
    pub minimum_detectable_effect: f64,
    /// Number of seeds that detect the difference with probability 0.8; absent if the documents hide it.
    pub seeds_needed: Option<usize>,
}

impl Estimate {
    pub(super) fn of(interval: Interval) -> Option<Self> {
        let finite = |value: f64| value.is_finite().then_some(value);
        Some(Self { mean: finite(interval.mean)?, low: finite(interval.low), high: finite(interval.high), n: interval.n })
    }

    pub(super) fn scaled(self, factor: f64) -> Option<Self> {
        let times = |value: f64| Some(value * factor).filter(|value| value.is_finite());
        Some(Self { mean: times(self.mean)?, low: self.low.and_then(times), high: self.high.and_then(times), n: self.n })
    }

    /// Whether there is an interval and it excludes 0.
    pub fn excludes_zero(&self) -> bool {
        self.low.zip(self.high).is_some_and(|(low, high)| low > 0.0 || high < 0.0)
    }
}

impl NllDifference {
    /// Whether it still differs from 0 after Holm's correction over all comparisons.
    pub fn holds_among_all(&self, level: f64) -> bool {
        self.p_holm < 1.0 - level
    }
}

/// `tokens=100k lr=1e-3`.
pub fn values(axes: &[AxisValue]) -> String {
    axes.iter().map(|axis| format!("{}={}", axis.axis, axis.value)).collect::<Vec<_>>().join(" ")
}
