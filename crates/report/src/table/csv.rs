//! Comparisons as comma-separated values, with unrounded numbers, for programs.
//!
//! RFC 4180 with lines that end in a bare LF, like all exports. One row per cell of the table, then the teachers and the unigram
//! baseline, and after all experiments the arms pooled over several data sets. Unmeasured numbers are empty. Interval ends have
//! columns of their own, `_low` and `_high`.

use hydrometer_record::export::csv::quoted;
use hydrometer_record::metric::Metric;

use crate::cell::{AxisValue, Cell, Estimate, Reference};
use crate::comparison::Comparison;
use crate::pooled::Pooled;
use crate::task::TaskComparison;

/// The columns before those of the axes.
const FIRST: [&str; 6] = ["experiment", "smoke", "split", "role", "label", "arm"];
/// The columns after them, followed by three columns per metric and those of [`TASK`] per score of a task.
const THEN: [&str; 25] = [
    "ok",
    "failed",
    "diverged",
    "unfinished",
    "params",
    "tokens",
    "perplexity",
    "perplexity_low",
    "perplexity_high",
    "nll",
    "level",
    "reference",
    "percent",
    "percent_low",
    "percent_high",
    "nats",
    "nats_low",
    "nats_high",
    "p",
    "p_holm",
    "seeds",
    "documents",
    "probability_of_superiority",
    "minimum_detectable_effect",
    "seeds_needed",
];

/// The ends of the names of the columns that a task's score has; the first is its mean.
const TASK: [&str; 9] = ["", "_low", "_high", "_prompts", "_difference", "_difference_low", "_difference_high", "_p", "_p_holm"];

/// The whole file, head first.
pub fn csv(found: &[Comparison], pooled: &[Pooled]) -> String {
    let (axes, scores) = (axes(found), scores(found));
    let metrics = Metric::beside().flat_map(|metric| ["", "_low", "_high"].map(|end| format!("{}{end}", metric.name())));
    let head: Vec<String> = FIRST
        .map(String::from)
        .into_iter()
        .chain(axes.iter().map(|axis| format!("axis_{axis}")))
        .chain(THEN.map(String::from))
        .chain(metrics)
        .chain(scores.iter().flat_map(|score| TASK.map(|end| format!("{score}{end}"))))
        .collect();
    let mut lines = vec![head];
    for one in found {
        lines.extend(one.cells.iter().map(|cell| of_cell(cell, one, &axes, &scores)));
        lines.extend(one.references.iter().map(|reference| of_reference(reference, one, &axes, &scores)));
    }
    lines.extend(pooled.iter().map(|one| of_pooled(one, found, &axes, &scores)));
    // A missing value is an empty cell, not a quoted empty text.
    let field = |text: &String| if text.is_empty() { String::new() } else { quoted(text) };
    lines.iter().map(|line| line.iter().map(field).collect::<Vec<_>>().join(",") + "\n").collect()
}

/// Every axis of every cell, in the order in which they first appear.
fn axes(found: &[Comparison]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for axis in found.iter().flat_map(|one| &one.cells).flat_map(|cell| &cell.axes) {
        if !names.contains(&axis.axis) {
            names.push(axis.axis.clone());
        }
    }
    names
}

/// The scores of tasks of all comparisons, in the order in which they first appear.
fn scores(found: &[Comparison]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in found.iter().flat_map(|one| &one.tasks).map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `sums exact_match`.
fn name(found: &TaskComparison) -> String {
    format!("{} {}", found.task, found.score.identifier())
}

fn first(one: &Comparison, role: &str, label: &str, arm: &str, values: &[AxisValue], axes: &[String]) -> Vec<String> {
    let value =
        |axis: &String| values.iter().find(|value| value.axis == *axis).map_or_else(String::new, |value| value.value.clone());
    let named = [&one.experiment, one.smoke.to_string().as_str(), &one.split, role, label, arm].map(String::from);
    named.into_iter().chain(axes.iter().map(value)).collect()
}

fn of_cell(cell: &Cell, one: &Comparison, axes: &[String], scores: &[String]) -> Vec<String> {
    let mut line = first(one, "student", &cell.label, &cell.method, &cell.axes, axes);
    line.extend([cell.ok, cell.failed, cell.diverged, cell.unfinished].map(|count| count.to_string()));
    line.extend([String::new(), text(cell.tokens)]);
    line.extend(estimate(cell.perplexity.as_ref()));
    line.extend([number(cell.nll), number(Some(one.level))]);
    let found = cell.difference.as_ref();
    line.push(found.map_or_else(String::new, |found| found.to.clone()));
    line.extend(estimate(found.map(|found| &found.percent)));
    let nll = found.and_then(|found| found.nll);
    line.extend([nll.map(|nll| nll.mean), nll.map(|nll| nll.low), nll.map(|nll| nll.high)].map(number));
    line.extend([nll.map(|nll| nll.p), nll.map(|nll| nll.p_holm)].map(number));
    line.extend([text(nll.map(|nll| nll.seeds).or(found.map(|found| found.perplexity.n))), text(nll.map(|nll| nll.documents))]);
    line.extend([nll.map(|nll| nll.probability_of_superiority), nll.map(|nll| nll.minimum_detectable_effect)].map(number));
    line.push(text(nll.and_then(|nll| nll.seeds_needed)));
    line.extend(Metric::beside().flat_map(|metric| estimate(cell.metrics.get(&metric))));
    for score in scores {
        let arm = one.tasks.iter().find(|found| name(found) == *score).and_then(|found| found.arm(&cell.label));
        let found = arm.and_then(|arm| arm.difference.as_ref());
        line.extend(estimate(arm.map(|arm| &arm.value)));
        line.push(text(arm.map(|arm| arm.prompts)));
        line.extend(
            [found.map(|found| found.mean), found.and_then(|found| found.low), found.and_then(|found| found.high)].map(number),
        );
        line.extend([found.and_then(|found| found.p), found.and_then(|found| found.p_holm)].map(number));
    }
    line
}

fn of_reference(reference: &Reference, one: &Comparison, axes: &[String], scores: &[String]) -> Vec<String> {
    let mut line = first(one, &reference.role, &super::title(reference), &reference.name, &[], axes);
    let mut rest = vec![String::new(); THEN.len()];
    put(&mut rest, "params", text(reference.params));
    put(&mut rest, "perplexity", number(reference.perplexity));
    put(&mut rest, "nll", number(reference.nll));
    line.extend(rest);
    line.extend(Metric::beside().flat_map(|metric| estimate(reference.metrics.get(&metric))));
    for score in scores {
        let models = one.tasks.iter().filter(|found| name(found) == *score).flat_map(|found| &found.references);
        let model = models.into_iter().find(|model| model.role == reference.role && model.name == reference.name);
        let mut columns = vec![String::new(); TASK.len()];
        (columns[0], columns[3]) = (number(model.map(|model| model.mean)), text(model.map(|model| model.prompts)));
        line.extend(columns);
    }
    line
}

/// An arm over several data sets or experiments: the interquartile mean of its nats.
fn of_pooled(one: &Pooled, found: &[Comparison], axes: &[String], scores: &[String]) -> Vec<String> {
    let label = format!("{} {}", one.arm, one.at);
    // The names of the sets are in the column of the experiment.
    let named = [&one.sets.join(" + "), "", "", "pooled", label.trim_end(), &one.arm].map(String::from);
    let mut rest = vec![String::new(); THEN.len()];
    put(&mut rest, "level", number(found.first().map(|one| one.level)));
    put(&mut rest, "nats", number(Some(one.nll.mean)));
    put(&mut rest, "nats_low", number(one.nll.low));
    put(&mut rest, "nats_high", number(one.nll.high));
    put(&mut rest, "seeds", one.nll.n.to_string());
    let empty = std::iter::repeat_n(String::new(), axes.len());
    let metrics = std::iter::repeat_n(String::new(), 3 * Metric::beside().count());
    let scores = std::iter::repeat_n(String::new(), TASK.len() * scores.len());
    named.into_iter().chain(empty).chain(rest).chain(metrics).chain(scores).collect()
}

fn put(line: &mut [String], name: &str, value: String) {
    if let Some(at) = THEN.iter().position(|column| *column == name) {
        line[at] = value;
    }
}

fn estimate(found: Option<&Estimate>) -> [String; 3] {
    [found.map(|one| one.mean), found.and_then(|one| one.low), found.and_then(|one| one.high)].map(number)
}

/// The shortest decimal that reads back to the same number.
fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, hydrometer_base::text::number)
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}
