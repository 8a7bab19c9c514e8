//! The difference of two arms on the same seeds and documents.

use std::collections::BTreeMap;

use hydrometer_base::mean::mean;

use super::evidence::FinalEvaluation;
use crate::cell::{Cell, Difference, Estimate, LEVEL, NllDifference, SeedResult};
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Crossed, Draws};
use crate::stats::interval::paired_difference;
use crate::stats::paired::{Pairs, corpus_nll};
use crate::stats::power::{POWER, minimum_detectable_effect, seeds_needed};
use crate::stats::superiority::probability_of_superiority;

/// The difference of cell `at` from the cell of `reference` with the same axes; `None` if there is none, or no seed in common.
pub(super) fn difference(
    cells: &[Cell],
    at: usize,
    reference: &str,
    evidence: &BTreeMap<String, FinalEvaluation>,
) -> Option<Difference> {
    let cell = &cells[at];
    let partner = partner(cells, cell, reference)?;
    let pairs: Vec<(&SeedResult, &SeedResult)> =
        cell.seeds.iter().filter_map(|seed| Some((seed, partner.seeds.iter().find(|other| other.seed == seed.seed)?))).collect();
    let (values, base): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(a, b)| (a.perplexity, b.perplexity)).unzip();
    let perplexity = Estimate::of(paired_difference(&values, &base, LEVEL))?;
    let percent = perplexity.scaled(100.0 / mean(base.iter().copied())?)?;
    Some(Difference { to: partner.label.clone(), perplexity, percent, nll: nll_difference(&pairs, evidence) })
}

/// The cell of `reference` that `cell` is compared with; `None` for the reference itself.
pub(super) fn partner<'a>(cells: &'a [Cell], cell: &Cell, reference: &str) -> Option<&'a Cell> {
    // Axes that the reference does not have are ignored when its cell is chosen.
    let fits = |other: &&Cell| other.method == reference && other.axes.iter().all(|axis| cell.axes.contains(axis));
    cells.iter().find(fits).filter(|_| cell.method != reference)
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
