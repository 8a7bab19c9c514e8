//! The result of a comparison in plain sentences.

use hydrometer_base::units::{decimals, fixed, perplexity, signed};

use super::comparison::Comparison;
use crate::cell::{Cell, Difference, NllDifference, SeedResult};
use crate::stats::verdict::{Verdict, below_zero};

/// The note on what an interval over seeds and documents covers.
pub const CAVEAT: &str = "The intervals cover the variation between seeds and, in nats, between documents, on this data and at this size \
    only. They say nothing about other data, models or budgets. Each interval is for its own comparison; Holm's p counts all of them.";

/// Maximum number of comparisons that get a sentence each; more are summarised in one or two sentences per facet.
const SENTENCES: usize = 6;

/// A sentence for each cell except the reference's, or for each facet if there are many.
pub fn sentences(comparison: &Comparison) -> Vec<String> {
    let others: Vec<&Cell> = comparison.cells.iter().filter(|cell| cell.method != comparison.reference).collect();
    if others.is_empty() {
        return match comparison.cells.iter().find_map(|cell| Some((cell, cell.perplexity?))) {
            Some((cell, found)) => {
                vec![format!("{} reaches a perplexity of {}; there is no other arm.", cell.label, perplexity(found.mean))]
            }
            None => vec!["No run has finished, so nothing can be said yet.".into()],
        };
    }
    if others.len() > SENTENCES {
        return comparison.facets().iter().map(|(facet, cells)| summary(facet, cells, comparison)).collect();
    }
    others.into_iter().map(|cell| sentence(cell, comparison)).collect()
}

/// The verdict on "the cell is below the reference", by the deciding interval.
fn side(found: &Difference) -> Verdict {
    match (&found.nll, found.perplexity.low.zip(found.perplexity.high)) {
        (Some(nll), _) => below_zero(nll.low, nll.high),
        (None, Some((low, high))) => below_zero(low, high),
        (None, None) => Verdict::Inconclusive,
    }
}

/// On which side of the reference a cell lies: `lower` (better), `higher`, `undecided` if its interval contains both, or
/// `unknown` if there is no interval.
pub fn word(found: &Difference) -> &'static str {
    match side(found) {
        Verdict::Supported => "lower",
        Verdict::Refuted => "higher",
        Verdict::Inconclusive if found.nll.is_none() && found.perplexity.low.is_none() => "unknown",
        Verdict::Inconclusive => "undecided",
    }
}

/// The same after Holm's correction over all comparisons of the experiment.
pub fn word_among_all(found: &Difference, level: f64) -> &'static str {
    match found.nll {
        None => "unknown",
        Some(nll) if nll.holds_among_all(level) => word(found),
        Some(_) => "undecided",
    }
}

/// The summary of a facet in which many arms are compared with the reference.
fn summary(facet: &str, cells: &[&Cell], comparison: &Comparison) -> String {
    let reference = &comparison.reference;
    let own = cells.iter().find(|cell| cell.method == *reference).and_then(|cell| cell.perplexity);
    let at = if facet.is_empty() { String::new() } else { format!("At {facet}, ") };
    let Some(own) = own else { return format!("{at}no run of {reference} has finished, so nothing can be compared with it.") };
    let mut compared: Vec<(&Cell, &Difference)> =
        cells.iter().filter_map(|cell| Some((*cell, cell.difference.as_ref()?))).collect();
    compared.sort_by(|a, b| a.1.percent.mean.total_cmp(&b.1.percent.mean));
    let list = |verdict: Verdict| -> Vec<String> {
        let found = compared.iter().filter(|(_, found)| side(found) == verdict);
        found.map(|(cell, found)| format!("{} ({}%)", cell.arm, signed(found.percent.mean, 1))).collect()
    };
    let level = fixed(comparison.level * 100.0, 0);
    let found = |verdict: Verdict| compared.iter().find(|(_, found)| side(found) == verdict);
    let mut text = match found(Verdict::Supported) {
        Some((cell, found)) => {
            let (percent, reached) = (fixed(found.percent.mean.abs(), 1), cell.perplexity.map_or(f64::NAN, |own| own.mean));
            let numbers = format!("{} against {}", perplexity(reached), perplexity(own.mean));
            let (arm, best) = (&cell.arm, format!("{percent}% lower perplexity than {reference}"));
            format!("{at}{arm} does best, with {best} ({numbers}).")
        }
        None if at.is_empty() => {
            format!("No arm is clearly below {reference}, which reaches a perplexity of {}.", perplexity(own.mean))
        }
        None => format!("{at}no arm is clearly below {reference}, which reaches a perplexity of {}.", perplexity(own.mean)),
    };
    for (verdict, words) in [
        (Verdict::Supported, format!("Lower than {reference}, with {level}% CIs that exclude 0")),
        (Verdict::Refuted, "Higher, likewise".to_string()),
        (Verdict::Inconclusive, "Not clearly different".to_string()),
    ] {
        let found = list(verdict);
        if !found.is_empty() {
            text += &format!(" {words}: {}.", found.join(", "));
        }
    }
    let holm: Vec<&str> = compared
        .iter()
        .filter(|(_, found)| found.nll.is_some_and(|nll| nll.holds_among_all(comparison.level)))
        .map(|(cell, _)| cell.arm.as_str())
        .collect();
    let all = comparison.cells.iter().filter(|cell| cell.difference.as_ref().is_some_and(|found| found.nll.is_some())).count();
    if all > 0 {
        let kept = if holm.is_empty() { "none".to_string() } else { holm.join(", ") };
        text += &format!(" Still different with all {all} comparisons counted (Holm): {kept}.");
    }
    let missing: Vec<&str> = cells.iter().filter(|cell| cell.perplexity.is_none()).map(|cell| cell.arm.as_str()).collect();
    if !missing.is_empty() {
        text += &format!(" Without a finished run: {}.", missing.join(", "));
    }
    text
}

fn sentence(cell: &Cell, comparison: &Comparison) -> String {
    let name = &cell.label;
    let Some(own) = cell.perplexity else { return format!("{name} has no finished run, so nothing can be said about it.") };
    let own = perplexity(own.mean);
    let Some(found) = &cell.difference else {
        let reference = &comparison.reference;
        return format!(
            "{name} reaches a perplexity of {own}; no run of {reference} has the same axes and seeds to compare with."
        );
    };
    let partner = comparison.cells.iter().find(|other| other.label == found.to);
    let numbers = match partner.and_then(|partner| partner.perplexity) {
        Some(other) => format!("{own} against {}", perplexity(other.mean)),
        None => own,
    };
    let level = fixed(comparison.level * 100.0, 0);
    // Decided by nats per token over seeds and documents if there are documents, else by perplexity over seeds.
    let (mean, n, evidence) = match &found.nll {
        Some(nll) => (nll.mean, nll.seeds, nats(nll, &level)),
        None => {
            let Difference { perplexity: difference, .. } = found;
            let digits = decimals(difference.mean);
            let show = |value: f64| signed(value, digits);
            let Some((low, high)) = difference.low.zip(difference.high) else {
                let (to, shift) = (&found.to, show(difference.mean));
                return format!(
                    "{name} and {to} have only one finished seed in common, so there is no interval and no verdict: \
                                a perplexity of {numbers} (paired difference {shift})."
                );
            };
            let ends = format!("{} to {}", show(low), show(high));
            (
                difference.mean,
                difference.n,
                format!("paired difference {}, {level}% CI {ends}, {} seeds", show(difference.mean), difference.n),
            )
        }
    };
    let to = &found.to;
    if side(found) == Verdict::Inconclusive {
        return format!("{name} and {to} do not differ clearly in perplexity: {numbers} ({evidence}).");
    }
    let (percent, word) = (fixed(found.percent.mean.abs(), 1), if mean < 0.0 { "lower" } else { "higher" });
    let holds = partner.map_or(0, |partner| seeds_on_its_side(cell, partner, mean));
    let among = match &found.nll {
        Some(nll) if !nll.holds_among_all(comparison.level) => "; not with all comparisons counted (Holm)",
        _ => "",
    };
    format!("{name} reaches {percent}% {word} perplexity than {to}, {numbers}, in {holds} of {n} seeds ({evidence}){among}.")
}

/// Number of seeds of both cells on which the difference has the sign of its `mean`.
fn seeds_on_its_side(cell: &Cell, partner: &Cell, mean: f64) -> usize {
    let difference = |seed: &SeedResult| Some(seed.nll - partner.seeds.iter().find(|other| other.seed == seed.seed)?.nll);
    cell.seeds.iter().filter_map(difference).filter(|found| (*found < 0.0) == (mean < 0.0)).count()
}

fn nats(nll: &NllDifference, level: &str) -> String {
    let [mean, low, high] = [nll.mean, nll.low, nll.high].map(|value| signed(value, 3));
    format!("{mean} nats per token, {level}% CI {low} to {high} over {} seeds and {} documents", nll.seeds, nll.documents)
}
