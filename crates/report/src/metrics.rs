//! The metrics of an arm other than perplexity, over its seeds.

use std::collections::BTreeMap;

use hydrometer_base::units::{fixed, perplexity};
use hydrometer_record::frames::EvalRow;
use hydrometer_record::metric::{Digits, Metric};

use crate::cell::{Estimate, LEVEL};
use crate::stats::interval::mean_interval;

/// The metrics of an evaluation other than perplexity that were measured and are finite.
pub fn secondary_metrics(eval: &EvalRow) -> BTreeMap<Metric, f64> {
    let measured = |metric| Some((metric, eval.scores[metric].filter(|value| value.is_finite())?));
    Metric::beside().filter_map(measured).collect()
}

/// The mean of each metric over the evaluations that have it, and its interval over seeds.
pub fn over_seeds(all: &[&BTreeMap<Metric, f64>]) -> BTreeMap<Metric, Estimate> {
    let estimate = |metric| {
        let values: Vec<f64> = all.iter().filter_map(|found| found.get(&metric).copied()).collect();
        Some((metric, Estimate::of(mean_interval(&values, LEVEL))?))
    };
    Metric::beside().filter_map(estimate).collect()
}

/// A value of `metric` with its decimals and unit.
pub fn metric_mean(metric: Metric, value: f64) -> String {
    let unit = metric.item().unit;
    format!("{}{}", number(metric, unit.factor() * value), unit.sign())
}

/// A value that is already scaled, with the metric's decimals.
pub fn number(metric: Metric, scaled: f64) -> String {
    match metric.item().digits {
        Digits::Fixed(digits) => fixed(scaled, digits),
        Digits::BySize => perplexity(scaled),
    }
}
