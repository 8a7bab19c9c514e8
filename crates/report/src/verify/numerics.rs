//! Compares a repeated experiment with the committed one: a ladder of levels of agreement.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use hydrometer_record::frames::{CurveRow, DocumentRow, EvalRow, Frames, RunRow};
use serde::{Serialize, Serializer};

use crate::claims::Outcome;
use crate::stats::verdict::Verdict;

/// How far a repeated experiment agrees, the best level first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReproLevel {
    /// Every loss, gradient norm, evaluation and document is bitwise equal.
    Bitwise,
    /// Every evaluation is within [`TOLERANCE`]: another machine or another number of threads.
    WithinTolerance,
    /// Numbers differ, but no claim is refuted by the new ones.
    ClaimsHold,
    Refuted,
}

/// Relative difference of the NLL of an evaluation that other hardware can cause.
pub const TOLERANCE: f64 = 0.01;

impl ReproLevel {
    pub fn sentence(self) -> String {
        let tolerance = 100.0 * TOLERANCE;
        match self {
            Self::Bitwise => "trained again, all numbers are the same to the bit".into(),
            Self::WithinTolerance => format!("trained again, every evaluation is within {tolerance}%"),
            Self::ClaimsHold => {
                format!("trained again, some evaluation is off by more than {tolerance}%, but no claim is refuted")
            }
            Self::Refuted => "trained again, the results do not hold".into(),
        }
    }
}

/// How a repeated run agrees with the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    pub run: String,
    /// [`ReproLevel::Refuted`] if the run is missing, or if its numbers are off and no claims make up for it.
    pub rung: ReproLevel,
    /// The first step that differs, and which number differs there.
    pub first: Option<(i64, What)>,
    /// The number before and now; absent on a side that does not have it.
    pub values: (Option<f64>, Option<f64>),
    /// The largest relative difference of an evaluation's NLL.
    pub largest: f64,
    /// What is wrong apart from numbers.
    pub trouble: Option<String>,
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { run, rung, first, values, largest, trouble } = self;
        match (trouble, first) {
            (Some(trouble), _) => write!(f, "{run}: {trouble}"),
            (_, None) => write!(f, "{run}: the same to the bit"),
            (_, Some((step, what))) => {
                let held = match rung {
                    ReproLevel::Refuted => "off",
                    ReproLevel::ClaimsHold => "off, but its claims hold",
                    _ => "within tolerance",
                };
                let shown = |value: Option<f64>| value.map_or("nothing".to_string(), |value| value.to_string());
                let (was, is) = (shown(values.0), shown(values.1));
                write!(
                    f,
                    "{run}: {held}; {what} differs from step {step} on ({was} is now {is}), evaluations by {largest:.2e} at most"
                )
            }
        }
    }
}

/// A number of a step, in the order in which differences are reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Loss,
    HardLoss,
    GradNorm,
    /// The NLL of an evaluation, on this split.
    Nll(String),
    /// The summed NLL of a document of this split, by its index, from 1.
    Document(String, usize),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Loss => f.write_str("loss"),
            Self::HardLoss => f.write_str("hard_loss"),
            Self::GradNorm => f.write_str("grad_norm"),
            Self::Nll(split) => write!(f, "nll on {split}"),
            Self::Document(split, at) => write!(f, "nll_sum of document {at} of {split}"),
        }
    }
}

impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The numbers of a run by step.
pub(super) type Series = BTreeMap<(i64, What), f64>;

/// Compares the runs that `kept` plans with those of `again`, by id, in the order of `kept`.
pub fn compare(kept: &Frames, again: &Frames) -> Result<Vec<Agreement>> {
    let (before, after) = (series(kept)?, series(again)?);
    let (statuses, kept_statuses) = (statuses(again)?, self::statuses(kept)?);
    let empty = Series::new();
    let planned = RunRow::rows(&kept.runs)?.into_iter().filter(|row| row.planned);
    Ok(planned
        .map(|row| row.run)
        .map(|run| {
            let trouble = match (statuses.get(&run), kept_statuses.get(&run)) {
                (None, _) => Some("the experiment file no longer has this run".to_string()),
                (Some(now), Some(then)) if now != then => Some(format!("it was {then} and is now {now}")),
                _ => None,
            };
            let (a, b) = (before.get(&run).unwrap_or(&empty), after.get(&run).unwrap_or(&empty));
            agreement(run, a, b, trouble)
        })
        .collect())
}

/// How the numbers of `run` agree; `trouble` is what is wrong apart from them.
pub(super) fn agreement(run: String, before: &Series, after: &Series, trouble: Option<String>) -> Agreement {
    // All values that are not finite count as equal.
    let bits =
        |series: &Series, at: &(i64, What)| series.get(at).map(|x| if x.is_finite() { x.to_bits() } else { f64::NAN.to_bits() });
    let same = |at: &(i64, What)| bits(before, at) == bits(after, at);
    let mut first: Option<(i64, What)> = None;
    let mut largest = 0.0f64;
    for at in before.keys().chain(after.keys()) {
        if !same(at) && first.as_ref().is_none_or(|known| at < known) {
            first = Some(at.clone());
        }
        if matches!(at.1, What::Nll(_)) {
            let difference = match before.get(at).zip(after.get(at)) {
                Some(_) if same(at) => 0.0,
                Some((a, b)) => ((a - b) / a).abs(),
                None => f64::INFINITY,
            };
            largest = if difference.is_nan() { f64::INFINITY } else { largest.max(difference) };
        }
    }
    let rung = match (&trouble, &first) {
        (Some(_), _) => ReproLevel::Refuted,
        (None, None) => ReproLevel::Bitwise,
        (None, Some(_)) if largest <= TOLERANCE => ReproLevel::WithinTolerance,
        (None, Some(_)) => ReproLevel::Refuted,
    };
    let values = first.as_ref().map_or((None, None), |at| (before.get(at).copied(), after.get(at).copied()));
    Agreement { run, rung, first, values, largest, trouble }
}

/// Raises runs of which only numbers are off to [`ReproLevel::ClaimsHold`], if there are claims and none that names the run is
/// refuted.
pub fn apply_claims(agreements: &mut [Agreement], outcomes: &[Outcome]) {
    for agreement in
        agreements.iter_mut().filter(|agreement| agreement.rung == ReproLevel::Refuted && agreement.trouble.is_none())
    {
        let names = |outcome: &&Outcome| outcome.a.contains(&agreement.run) || outcome.b.contains(&agreement.run);
        if !outcomes.is_empty() && !outcomes.iter().filter(names).any(|outcome| outcome.verdict == Verdict::Refuted) {
            agreement.rung = ReproLevel::ClaimsHold;
        }
    }
}

/// The level of the whole experiment: that of its worst run, except if only numbers are off, there are claims, and the new
/// numbers refute none of them. A refuted claim always refutes.
pub fn rung(agreements: &[Agreement], outcomes: &[Outcome]) -> ReproLevel {
    let worst = agreements.iter().map(|agreement| agreement.rung).max().unwrap_or(ReproLevel::Refuted);
    let refuted = outcomes.iter().any(|outcome| outcome.verdict == Verdict::Refuted);
    let only_numbers = agreements.iter().all(|agreement| agreement.trouble.is_none());
    match worst {
        _ if refuted => ReproLevel::Refuted,
        ReproLevel::Refuted if only_numbers && !outcomes.is_empty() => ReproLevel::ClaimsHold,
        worst => worst,
    }
}

pub(super) fn statuses(frames: &Frames) -> Result<BTreeMap<String, String>> {
    Ok(RunRow::rows(&frames.runs)?.into_iter().map(|row| (row.run, row.status)).collect())
}

/// The numbers of every run: losses and gradient norms of steps, NLLs of evaluations, and NLLs of documents at the last one.
pub(super) fn series(frames: &Frames) -> Result<BTreeMap<String, Series>> {
    let mut all: BTreeMap<String, Series> = BTreeMap::new();
    for row in CurveRow::rows(&frames.curves)? {
        let series = all.entry(row.run).or_default();
        series.insert((row.step, What::Loss), row.loss);
        series.insert((row.step, What::HardLoss), row.hard_loss);
        series.insert((row.step, What::GradNorm), row.grad_norm);
    }
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for row in EvalRow::rows(&frames.evals)? {
        let step = last.entry(row.run.clone()).or_insert(row.step);
        *step = row.step.max(*step);
        let nll = row.nll();
        all.entry(row.run).or_default().insert((row.step, What::Nll(row.split)), nll);
    }
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for row in DocumentRow::rows(&frames.documents)? {
        let at = seen.entry((row.run.clone(), row.split.clone())).or_default();
        *at += 1;
        let step = last.get(&row.run).copied().unwrap_or(0);
        all.entry(row.run).or_default().insert((step, What::Document(row.split, *at)), row.nll_sum);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(step: i64, what: &str) -> (i64, What) {
        (step, if what == "loss" { What::Loss } else { What::Nll("valid".into()) })
    }

    fn against(after: &[(i64, &'static str, f64)], trouble: Option<&str>) -> Agreement {
        let before = Series::from([(key(1, "loss"), 4.0), (key(2, "loss"), 3.0), (key(2, "nll"), 5.0)]);
        let after = after.iter().map(|&(step, what, value)| (key(step, what), value)).collect();
        agreement("run".into(), &before, &after, trouble.map(String::from))
    }

    #[test]
    fn a_run_gets_the_level_that_its_numbers_reach() {
        let same = against(&[(1, "loss", 4.0), (2, "loss", 3.0), (2, "nll", 5.0)], None);
        assert_eq!((same.rung, same.first), (ReproLevel::Bitwise, None));
        let near = against(&[(1, "loss", 4.0), (2, "loss", 3.0 + 1e-15), (2, "nll", 5.01)], None);
        assert_eq!((near.rung, near.first), (ReproLevel::WithinTolerance, Some(key(2, "loss"))));
        assert!((near.largest - 0.002).abs() < 1e-12);
        for off in [&[(2, "nll", 5.2)][..], &[(2, "nll", f64::NAN)], &[]] {
            assert_eq!(against(off, None).rung, ReproLevel::Refuted);
        }
        assert_eq!(against(&[(1, "loss", 4.0)], Some("it failed")).rung, ReproLevel::Refuted);
    }

    #[test]
    fn without_claims_numbers_that_are_off_refute() {
        let (same, near) =
            (against(&[(1, "loss", 4.0), (2, "loss", 3.0), (2, "nll", 5.0)], None), against(&[(2, "nll", 5.01)], None));
        let off = against(&[], None);
        assert_eq!(rung(std::slice::from_ref(&same), &[]), ReproLevel::Bitwise);
        assert_eq!(rung(&[same, near.clone()], &[]), ReproLevel::WithinTolerance);
        assert_eq!(rung(&[near, off], &[]), ReproLevel::Refuted);
        assert_eq!(rung(&[], &[]), ReproLevel::Refuted);
    }
}
