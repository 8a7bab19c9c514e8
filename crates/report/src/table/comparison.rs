//! The table of perplexity and nats per token of every arm against the reference's.

use hydrometer_base::units::{decimals, fixed, quantity, shorten, signed};
use hydrometer_record::metric::Metric;

use super::metrics::text;
use super::{Surface, Table, missing, with_half};
use crate::cell::{Cell, Reference};
use crate::comparison::Comparison;
use crate::metrics::metric_mean;

/// Columns that a terminal has no room for, counted after the arm's.
const WIDE_ONLY: [usize; 2] = [4, 7];

pub fn comparison(found: &Comparison, place: Surface) -> Table<'_> {
    let against = format!("vs {}", shorten(&found.reference, 13));
    let head = ["runs", "perplexity", &against, "Δ nats/token", "p", "p (Holm)", "nats/token", "tokens"].map(String::from);
    let fit = |texts: [String; 8]| -> Vec<String> {
        let there = |at: usize| place == Surface::Page || !WIDE_ONLY.contains(&at);
        texts.into_iter().enumerate().filter(|(at, _)| there(*at)).map(|(_, text)| text).collect()
    };
    let counts = if place == Surface::Page { counts } else { short_counts };
    let of_cell = |cell: &Cell| fit(cell_row(cell, &found.reference, counts));
    Table::new(found, fit(head), of_cell, |reference| fit(reference_row(reference)), note(found))
}

fn cell_row(cell: &Cell, reference: &str, counts: fn(&Cell) -> String) -> [String; 8] {
    let nll = cell.difference.as_ref().and_then(|found| found.nll);
    let (percent, difference) = match (&cell.difference, nll) {
        (Some(found), Some(nll)) => {
            let [mean, low, high] = [nll.mean, nll.low, nll.high].map(|value| signed(value, 3));
            (format!("{}%", signed(found.percent.mean, 1)), format!("{mean} [{low}, {high}]"))
        }
        (Some(found), None) => {
            let digits = decimals(found.perplexity.mean);
            let shift = with_half(&found.perplexity, digits, |value| signed(value, digits));
            (format!("{}%", signed(found.percent.mean, 1)), format!("perplexity {shift}"))
        }
        (None, _) if cell.method == reference => ("reference".into(), String::new()),
        (None, _) => (missing(), String::new()),
    };
    [
        counts(cell),
        cell.perplexity.as_ref().map_or_else(missing, |found| text(Metric::Perplexity, found)),
        percent,
        difference,
        nll.map_or_else(String::new, |nll| probability(nll.p)),
        nll.map_or_else(String::new, |nll| probability(nll.p_holm)),
        cell.nll.map_or_else(missing, |nll| metric_mean(Metric::Nll, nll)),
        cell.tokens.map_or_else(missing, |tokens| quantity(tokens as f64)),
    ]
}

/// `3`, or `2/3` if not all finished.
fn short_counts(cell: &Cell) -> String {
    let total = cell.ok + cell.failed + cell.diverged + cell.unfinished;
    if cell.ok == total { total.to_string() } else { format!("{}/{total}", cell.ok) }
}

/// `3 ok`, or `1 ok, 1 failed, 1 diverged`.
fn counts(cell: &Cell) -> String {
    let others = [(cell.failed, "failed"), (cell.diverged, "diverged"), (cell.unfinished, "unfinished")];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    format!("{} ok{}", cell.ok, others.collect::<String>())
}

/// A p-value with three decimals.
pub fn probability(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { fixed(p, 3) }
}

fn reference_row(reference: &Reference) -> [String; 8] {
    let mut row = [const { String::new() }; 8];
    row[1] = reference.perplexity.map_or_else(missing, |value| metric_mean(Metric::Perplexity, value));
    row[6] = reference.nll.map_or_else(missing, |nll| metric_mean(Metric::Nll, nll));
    row
}

fn note(comparison: &Comparison) -> String {
    let smoke = if comparison.smoke { "Smoke tier: not a result. " } else { "" };
    let level = fixed(comparison.level * 100.0, 0);
    let decided = if comparison.cells.iter().any(|cell| cell.difference.as_ref().is_some_and(|found| found.nll.is_some())) {
        format!(
            " Δ nats/token: less {}'s, with its {level}% interval over seeds and documents; p against no difference, alone and with \
             all comparisons counted (Holm).",
            comparison.reference
        )
    } else {
        String::new()
    };
    format!("{smoke}± is the half-width of the {level}% Student t interval over seeds; differences are paired by seed.{decided}")
}
