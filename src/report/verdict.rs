//! The answer in plain sentences.

use super::comparison::{Cell, Comparison, Difference, NllDifference};
use super::format::{decimals, fixed, perplexity, signed};
use crate::stats::verdict::{Verdict, below_zero};

/// That an interval over seeds and documents is no more than that.
pub const CAVEAT: &str = "The intervals cover the variation from seed to seed, and in nats from document to document, on this data and \
    at this size only: they say nothing of other data, models or budgets, and each stands for its own comparison, not for all of \
    them at once.";

/// A sentence for each cell that is not the reference's.
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
    others.into_iter().map(|cell| sentence(cell, comparison)).collect()
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
    let level = fixed(level * 100.0, 0);
    let evidence = format!(
        "({} nats per token, {level}% interval {} to {} over {} seeds and {} documents)",
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
    format!("{reached}, {}% {side} {to} {evidence}.", fixed(found.percent.mean.abs(), 1))
}
