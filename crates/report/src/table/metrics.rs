//! The table of the metrics other than perplexity of every arm, its teacher and the unigram baseline.

use hydrometer_base::text::capital;
use hydrometer_base::units::{decimals, fixed};
use hydrometer_record::metric::{Digits, Metric};

use super::{Surface, Table, missing, with_half};
use crate::cell::{Cell, Estimate, Reference};
use crate::comparison::Comparison;
use crate::metrics::number;

pub const TITLE: &str = "Beside perplexity";

/// A column for each metric that some run has; `None` if there is none.
pub fn metrics(found: &Comparison, place: Surface) -> Option<Table<'_>> {
    let all = || found.cells.iter().map(|cell| &cell.metrics).chain(found.references.iter().map(|one| &one.metrics));
    let shown: Vec<Metric> = Metric::beside().filter(|metric| all().any(|known| known.contains_key(metric))).collect();
    if shown.is_empty() {
        return None;
    }
    let head = shown.iter().map(|metric| head(*metric, place).to_string()).collect();
    let of_cell = |cell: &Cell| {
        let told = |metric: &Metric| cell.metrics.get(metric).map_or_else(missing, |found| text(*metric, found));
        shown.iter().map(told).collect()
    };
    let of_reference = |reference: &Reference| {
        // A teacher's fidelity to itself is meaningless.
        let absent = |metric: &Metric| if metric.is_fidelity() { String::new() } else { missing() };
        let told = |metric: &Metric| reference.metrics.get(metric).map_or_else(|| absent(metric), |found| text(*metric, found));
        shown.iter().map(told).collect()
    };
    let note = note(found, &shown, place);
    Some(Table::new(found, head, of_cell, of_reference, note))
}

fn head(metric: Metric, place: Surface) -> &'static str {
    match place {
        Surface::Terminal => metric.item().short_heading,
        Surface::Page => metric.item().heading,
    }
}

/// Shares in percent, `21.3 ± 0.4%`; others unchanged.
pub fn text(metric: Metric, estimate: &Estimate) -> String {
    let unit = metric.item().unit;
    let Some(found) = estimate.scaled(unit.factor()) else { return missing() };
    let digits = match metric.item().digits {
        Digits::Fixed(digits) => digits,
        Digits::BySize => decimals(found.mean),
    };
    format!("{}{}", with_half(&found, digits, |value| number(metric, value)), unit.sign())
}

/// The note on the columns and the text that they are measured on; in a terminal, only what is not obvious.
fn note(found: &Comparison, shown: &[Metric], place: Surface) -> String {
    let mut note = match place {
        Surface::Terminal => format!("On the held-out text ({}), means over the finished seeds, ± as above.", found.split),
        Surface::Page => {
            let level = fixed(found.level * 100.0, 0);
            format!(
                "All on the held-out text ({}) after training, means over the finished seeds; ± is the half-width of the {level}% \
                 Student t interval over seeds.",
                found.split
            )
        }
    };
    for metric in shown.iter().filter(|_| place == Surface::Page) {
        note += &format!(" {}: {}.", capital(metric.item().heading), metric.item().meaning);
    }
    if place == Surface::Page && shown.iter().any(|metric| metric.is_fidelity()) {
        note += " Each arm is held against its teacher; one without, against that of the others.";
    }
    let short = |cell: &Cell| shown.iter().any(|metric| cell.metrics.get(metric).is_some_and(|found| found.n < cell.seeds.len()));
    if found.cells.iter().any(short) {
        note += " Not every finished run has all of these: such a mean is over those that do.";
    }
    note
}
