//! What is told of an arm beside its perplexity: accuracy, calibration, how near it has come to its teacher.

use std::collections::BTreeMap;

use hydrometer_record::frames::EvalRow;

use super::comparison::{Estimate, LEVEL};
use crate::claim::expectation::Metric;
use crate::stats::interval::mean_interval;

/// In the order of their columns.
pub const BESIDE: [Metric; 6] =
    [Metric::BitsPerByte, Metric::TokenAccuracy, Metric::Ece, Metric::KlToTeacher, Metric::Top1Agreement, Metric::Top10Overlap];

/// Whether it tells of student and teacher rather than of one model.
pub fn is_fidelity(metric: Metric) -> bool {
    matches!(metric, Metric::KlToTeacher | Metric::Top1Agreement | Metric::Top10Overlap)
}

/// What an evaluation says of `metric`; `None` where it was not measured or is not finite.
pub fn measured(metric: Metric, eval: &EvalRow) -> Option<f64> {
    let value = match metric {
        Metric::Perplexity => Some(eval.perplexity),
        Metric::Nll => Some(eval.nll),
        Metric::BitsPerByte => Some(eval.bits_per_byte),
        Metric::TokenAccuracy => Some(eval.token_accuracy),
        Metric::Ece => eval.ece,
        Metric::KlToTeacher => eval.kl_to_teacher,
        Metric::Top1Agreement => eval.top_1_agreement,
        Metric::Top10Overlap => eval.top_10_overlap,
    };
    value.filter(|value| value.is_finite())
}

/// All that an evaluation says beside its perplexity.
pub fn secondary_metrics(eval: &EvalRow) -> BTreeMap<Metric, f64> {
    BESIDE.into_iter().filter_map(|metric| Some((metric, measured(metric, eval)?))).collect()
}

/// The mean of each metric over the evaluations that have it, and its interval over seeds.
pub fn over_seeds(all: &[&BTreeMap<Metric, f64>]) -> BTreeMap<Metric, Estimate> {
    let estimate = |metric| {
        let values: Vec<f64> = all.iter().filter_map(|found| found.get(&metric).copied()).collect();
        Some((metric, Estimate::of(mean_interval(&values, LEVEL))?))
    };
    BESIDE.into_iter().filter_map(estimate).collect()
}
