//! What every arm, its teacher and the unigram baseline reach beside perplexity.

use hydrometer_base::units::fixed;

use super::{Surface, Table, missing, with_half};
use crate::claim::expectation::Metric;
use crate::comparison::{Cell, Comparison, Estimate, Reference};
use crate::metrics::{BESIDE, is_fidelity};

pub const TITLE: &str = "Beside perplexity";

/// A column for each metric that some run has; `None` where there is none.
pub fn metrics(found: &Comparison, place: Surface) -> Option<Table<'_>> {
    let all = || found.cells.iter().map(|cell| &cell.metrics).chain(found.references.iter().map(|one| &one.metrics));
    let shown: Vec<Metric> = BESIDE.into_iter().filter(|metric| all().any(|known| known.contains_key(metric))).collect();
    if shown.is_empty() {
        return None;
    }
    let head = shown.iter().map(|metric| head(*metric, place).to_string()).collect();
    let of_cell = |cell: &Cell| {
        let told = |metric: &Metric| cell.metrics.get(metric).map_or_else(missing, |found| text(*metric, found));
        shown.iter().map(told).collect()
    };
    let of_reference = |reference: &Reference| {
        // A teacher's likeness to itself is no finding.
        let absent = |metric: &Metric| if is_fidelity(*metric) { String::new() } else { missing() };
        let told = |metric: &Metric| reference.metrics.get(metric).map_or_else(|| absent(metric), |found| text(*metric, found));
        shown.iter().map(told).collect()
    };
    let note = note(found, &shown, place);
    Some(Table::new(found, head, of_cell, of_reference, note))
}

fn head(metric: Metric, place: Surface) -> &'static str {
    match (metric, place) {
        (Metric::BitsPerByte, Surface::Terminal) => "bits/byte",
        (Metric::TokenAccuracy, Surface::Terminal) => "accuracy",
        (Metric::Top1Agreement, Surface::Terminal) => "same top-1",
        (Metric::BitsPerByte, Surface::Page) => "bits per byte",
        (Metric::TokenAccuracy, Surface::Page) => "token accuracy",
        (Metric::Top1Agreement, Surface::Page) => "top-1 agreement",
        (Metric::Ece, _) => "ECE",
        (Metric::KlToTeacher, _) => "KL to teacher",
        (Metric::Top10Overlap, _) => "top-10 overlap",
        (Metric::Perplexity | Metric::Nll, _) => metric.name(),
    }
}

/// Shares in percent, `21.3 ± 0.4%`; bits and nats as they are.
pub fn text(metric: Metric, estimate: &Estimate) -> String {
    let (factor, digits, unit) = scale(metric);
    let scaled = estimate.scaled(factor);
    scaled.map_or_else(missing, |found| format!("{}{unit}", with_half(&found, digits, |value| fixed(value, digits))))
}

/// The mean alone.
pub fn mean(metric: Metric, value: f64) -> String {
    let (factor, digits, unit) = scale(metric);
    format!("{}{unit}", fixed(factor * value, digits))
}

/// What a metric is multiplied by, its decimals, and its unit.
fn scale(metric: Metric) -> (f64, usize, &'static str) {
    match metric {
        Metric::TokenAccuracy | Metric::Top1Agreement | Metric::Top10Overlap => (100.0, 1, "%"),
        Metric::Ece => (100.0, 2, "%"),
        _ => (1.0, 3, ""),
    }
}

/// What the columns are and of which text; in a terminal, what cannot be guessed.
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
        note += match metric {
            Metric::BitsPerByte => " Bits per byte: summed NLL in bits over the bytes of the text.",
            Metric::TokenAccuracy => " Token accuracy: share of tokens that were the likeliest of the whole vocabulary.",
            Metric::Ece => {
                " ECE: expected calibration error, how far the likeliest token's probability is from how often that token is \
                 right, in 15 equal bins (Guo et al. 2017); who knows little can be calibrated too."
            }
            Metric::KlToTeacher => {
                " KL to teacher: mean KL(teacher ‖ student) in nats a token, over the whole vocabulary at temperature 1."
            }
            Metric::Top1Agreement => {
                " Top-1 agreement: share of tokens for which student and teacher have the same likeliest id."
            }
            Metric::Top10Overlap => " Top-10 overlap: share of the teacher's ten likeliest ids that are among the student's ten.",
            Metric::Perplexity | Metric::Nll => "",
        };
    }
    if place == Surface::Page && shown.iter().any(|metric| is_fidelity(*metric)) {
        note += " Each arm is held against its teacher; one without, against that of the others.";
    }
    let short = |cell: &Cell| shown.iter().any(|metric| cell.metrics.get(metric).is_some_and(|found| found.n < cell.seeds.len()));
    if found.cells.iter().any(short) {
        note += " Not every finished run has all of these: such a mean is over those that do.";
    }
    note
}
