//! Two arms on the same seeds and documents.

use std::collections::BTreeMap;

use hydrometer_base::mean::mean;
use serde::Serialize;

use super::comparison::{Cell, Estimate, LEVEL, SeedResult};
use super::evidence::FinalEvaluation;
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Crossed, Draws};
use crate::stats::interval::paired_difference;
use crate::stats::paired::{Pairs, corpus_nll};
use crate::stats::power::{POWER, minimum_detectable_effect, seeds_needed};
use crate::stats::superiority::probability_of_superiority;

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
    /// Two-sided, against no difference.
    pub p: f64,
    /// The same with all comparisons of the experiment counted (Holm).
    pub p_holm: f64,
    pub seeds: usize,
    pub documents: usize,
    /// That a seed of this cell ends below one of the reference's.
    pub probability_of_superiority: f64,
    /// What these seeds and documents would have shown four times out of five.
    pub minimum_detectable_effect: f64,
    /// Seeds that would show the difference four times out of five; absent where documents hide it.
    pub seeds_needed: Option<usize>,
}

impl NllDifference {
    /// Whether all comparisons counted together still leave it apart from 0.
    pub fn holds_among_all(&self, level: f64) -> bool {
        self.p_holm < 1.0 - level
    }
}

/// What sets cell `at` apart from the cell of `reference` that has its axes; `None` where there is none, or no seed in common.
pub(super) fn difference(
    cells: &[Cell],
    at: usize,
    reference: &str,
    evidence: &BTreeMap<String, FinalEvaluation>,
) -> Option<Difference> {
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

fn nll_difference(pairs: &[(&SeedResult, &SeedResult)], evidence: &BTreeMap<String, FinalEvaluation>) -> Option<NllDifference> {
    let found: Vec<(&FinalEvaluation, &FinalEvaluation)> =
        pairs.iter().map(|(a, b)| Some((evidence.get(&a.run)?, evidence.get(&b.run)?))).collect::<Option<_>>()?;
    let (first, _) = found.first()?;
    if found.iter().flat_map(|(a, b)| [a, b]).any(|run| run.documents != first.documents || run.tokens != first.tokens) {
        return None;
    }
    let nats = |runs: Vec<&FinalEvaluation>| runs.into_iter().map(|run| run.nats.clone()).collect();
    let (a, b) = found.iter().copied().unzip();
    let pairs = Pairs { tokens: first.tokens.clone(), a: nats(a), b: nats(b) };
    let found = pairs.difference(LEVEL, Draws { replicates: REPLICATES, seed: SEED })?;
    let Crossed { mean, low, high, p, seeds, documents, .. } = found;
    let whole = vec![1.0; documents];
    let final_nll = |sums: &[Vec<f64>]| -> Vec<f64> { sums.iter().map(|sums| corpus_nll(sums, &pairs.tokens, &whole)).collect() };
    Some(NllDifference {
        mean,
        low,
        high,
        p,
        p_holm: p,
        seeds,
        documents,
        probability_of_superiority: probability_of_superiority(&final_nll(&pairs.a), &final_nll(&pairs.b)),
        minimum_detectable_effect: minimum_detectable_effect(&found, LEVEL, POWER),
        seeds_needed: seeds_needed(&found, found.mean, LEVEL, POWER),
    })
}
