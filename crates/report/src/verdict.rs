//! The answer in plain sentences.

use hydrometer_base::units::{decimals, fixed, perplexity, signed};

use super::comparison::Comparison;
use crate::cell::{Cell, Difference, NllDifference};
use crate::stats::verdict::{Verdict, below_zero};

/// That an interval over seeds and documents is no more than that.
pub const CAVEAT: &str = "The intervals cover the variation from seed to seed, and in nats from document to document, on this data and \
    at this size only: they say nothing of other data, models or budgets, and each stands for its own comparison, not for all of \
    them at once: Holm's p counts them all.";

/// Comparisons that get a sentence each; more than these are told in a sentence or two a facet.
const SENTENCES: usize = 6;

/// A sentence for each cell that is not the reference's, or for each facet where they are many.
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

/// Where the difference of a cell from the reference lies, by what decides it.
fn side(found: &Difference) -> Verdict {
    match (&found.nll, found.perplexity.low.zip(found.perplexity.high)) {
        (Some(nll), _) => below_zero(nll.low, nll.high),
        (None, Some((low, high))) => below_zero(low, high),
        (None, None) => Verdict::Inconclusive,
    }
}

/// On which side of the reference a cell lies: `lower` (better), `higher`, `undecided` where its interval holds both, or `unknown`
/// where there is no interval.
pub fn word(found: &Difference) -> &'static str {
    match side(found) {
        Verdict::Supported => "lower",
        Verdict::Refuted => "higher",
        Verdict::Inconclusive if found.nll.is_none() && found.perplexity.low.is_none() => "unknown",
        Verdict::Inconclusive => "undecided",
    }
}

/// The same with all comparisons of the experiment counted (Holm).
pub fn word_among_all(found: &Difference, level: f64) -> &'static str {
    match found.nll {
        None => "unknown",
        Some(nll) if nll.holds_among_all(level) => word(found),
        Some(_) => "undecided",
    }
}

/// A facet in which many arms stand against the reference, in one go.
fn summary(facet: &str, cells: &[&Cell], comparison: &Comparison) -> String {
    let reference = &comparison.reference;
    let own = cells.iter().find(|cell| cell.method == *reference).and_then(|cell| cell.perplexity);
    let at = if facet.is_empty() { String::new() } else { format!("At {facet}: ") };
    let Some(own) = own else { return format!("{at}no run of {reference} has finished, so nothing can be compared with it.") };
    let mut compared: Vec<(&Cell, &Difference)> =
        cells.iter().filter_map(|cell| Some((*cell, cell.difference.as_ref()?))).collect();
    compared.sort_by(|a, b| a.1.percent.mean.total_cmp(&b.1.percent.mean));
    let list = |verdict: Verdict| -> Vec<String> {
        let found = compared.iter().filter(|(_, found)| side(found) == verdict);
        found.map(|(cell, found)| format!("{} ({}%)", cell.arm, signed(found.percent.mean, 1))).collect()
    };
    let level = fixed(comparison.level * 100.0, 0);
    let mut text = format!("{at}{reference} reaches a perplexity of {}.", perplexity(own.mean));
    for (verdict, words) in [
        (Verdict::Supported, format!("Below it, with {level}% intervals that leave out 0")),
        (Verdict::Refuted, "Above it, likewise".to_string()),
        (Verdict::Inconclusive, "Not to be told from it".to_string()),
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
        text += &format!(" Still told apart with all {all} comparisons counted (Holm): {kept}.");
    }
    let missing: Vec<&str> = cells.iter().filter(|cell| cell.perplexity.is_none()).map(|cell| cell.arm.as_str()).collect();
    if !missing.is_empty() {
        text += &format!(" Without a finished run: {}.", missing.join(", "));
    }
    text
}

fn sentence(cell: &Cell, comparison: &Comparison) -> String {
    let name = &cell.label;
    let Some(own) = cell.perplexity else { return format!("{name} has no finished run, so nothing can be said of it.") };
    let reached = format!("{name} reaches a perplexity of {}", perplexity(own.mean));
    let Some(found) = &cell.difference else {
        return format!("{reached}; no run of {} has the same axes and seeds to compare with.", comparison.reference);
    };
    if let Some(nll) = &found.nll {
        return decided(&reached, found, nll, comparison.level);
    }
    let (difference, to) = (found.perplexity, &found.to);
    let digits = decimals(difference.mean);
    let Some((low, high)) = difference.low.zip(difference.high) else {
        let shift = fixed(difference.mean, digits);
        return format!("{reached}, against {to} a paired difference of {shift} from 1 seed; one seed gives no interval.");
    };
    let level = fixed(comparison.level * 100.0, 0);
    let evidence = format!(
        "(paired difference {}, {level}% interval {} to {}, {} seeds)",
        fixed(difference.mean, digits),
        fixed(low, digits),
        fixed(high, digits),
        difference.n
    );
    if !difference.excludes_zero() {
        return format!("{reached}; no difference from {to} can be told from {} seeds {evidence}.", difference.n);
    }
    let side = if difference.mean < 0.0 { "below" } else { "above" };
    format!("{reached}, {}% {side} {to} {evidence}.", fixed(found.percent.mean.abs(), 1))
}

/// The sentence where nats per token decide, over seeds and documents.
fn decided(reached: &str, found: &Difference, nll: &NllDifference, level: f64) -> String {
    let to = &found.to;
    let percent = fixed(level * 100.0, 0);
    let evidence = format!(
        "({} nats per token, {percent}% interval {} to {} over {} seeds and {} documents)",
        signed(nll.mean, 3),
        signed(nll.low, 3),
        signed(nll.high, 3),
        nll.seeds,
        nll.documents
    );
    if below_zero(nll.low, nll.high) == Verdict::Inconclusive {
        return format!("{reached}; no difference from {to} can be told {evidence}.");
    }
    let side = if nll.mean < 0.0 { "below" } else { "above" };
    let among = if nll.holds_among_all(level) { "" } else { "; with all comparisons counted it cannot be told apart" };
    format!("{reached}, {}% {side} {to} {evidence}{among}.", fixed(found.percent.mean.abs(), 1))
}
