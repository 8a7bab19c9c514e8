//! The parts of the pages other than the comparison: diagnostics, failures, cost and provenance, as rows of text.

use hydrometer_base::mean::mean;
use hydrometer_base::units::{date, duration, fixed, flops, quantity};
use hydrometer_record::frames::CurveRow;
use hydrometer_record::provenance::Provenance;
use hydrometer_record::run_status::RunStatus;
use hydrometer_record::steps::{Diagnostic, STEP_METRICS, StepMetric};

use super::claims::Outcome;
use super::comparison::Comparison;
use super::input::{Input, Run};
use crate::cell::Cell;
use crate::stats::verdict::Verdict;

/// A heading row and the rows under it.
pub type Rows = (Vec<&'static str>, Vec<Vec<String>>);

/// Means over the last tenth of training, then over the finished runs of a cell.
pub fn diagnostics(input: &Input, comparison: &Comparison) -> Rows {
    let headings = diagnostic_means().map(|(shown, _)| shown.heading);
    let head = std::iter::once("arm").chain(headings).chain(["gradient check"]).collect();
    let row = |cell: &Cell| {
        let text = |found: Option<f64>| found.map_or("–".to_string(), |found| fixed(found, 3));
        let check = |at: usize| mean(finished(input, cell).filter_map(|run| run.gradient_checks[at])).map(|x| fixed(x, 3));
        let check = match (check(0), check(1)) {
            (Some(first), Some(last)) => format!("{first} / {last}"),
            (first, last) => first.or(last).unwrap_or("–".into()),
        };
        std::iter::once(cell.label.clone()).chain(means(input, cell).map(|(_, found)| text(found))).chain([check]).collect()
    };
    (head, in_facets(comparison).map(row).collect())
}

/// The metrics of training steps that the diagnostics show.
fn diagnostic_means() -> impl Iterator<Item = (Diagnostic, &'static StepMetric)> {
    STEP_METRICS.iter().filter_map(|item| Some((item.diagnostic?, item)))
}

/// The diagnostics of a cell: means over the last tenth of training, then over its finished runs.
pub fn means(input: &Input, cell: &Cell) -> impl Iterator<Item = (Diagnostic, Option<f64>)> {
    let over_runs = |item: &StepMetric| mean(finished(input, cell).filter_map(|run| last_tenth(run, item.value)));
    diagnostic_means().map(move |(shown, item)| (shown, over_runs(item)))
}

/// The cells facet by facet.
fn in_facets(comparison: &Comparison) -> impl Iterator<Item = &Cell> {
    comparison.facets().into_iter().flat_map(|(_, cells)| cells)
}

fn last_tenth(run: &Run, value: fn(&CurveRow) -> Option<f64>) -> Option<f64> {
    let last = run.steps.iter().map(|step| step.tokens).max().unwrap_or(0) as f64;
    mean(run.steps.iter().filter(|step| step.tokens as f64 > 0.9 * last).filter_map(value))
}

pub fn finished<'a>(input: &'a Input, cell: &'a Cell) -> impl Iterator<Item = &'a Run> {
    cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| run.ok())
}

/// The runs that did not finish. Empty if all did.
pub fn failures(input: &Input) -> Rows {
    let row = |run: &Run| vec![run.run.clone(), run.method.clone(), run.seed.to_string(), run.status.clone(), reason(run)];
    let rows = input.runs.iter().filter(|run| !run.ok()).map(row).collect();
    (vec!["run", "arm", "seed", "status", "reason"], rows)
}

fn reason(run: &Run) -> String {
    run.error.clone().unwrap_or_else(|| if run.is(RunStatus::New) { "not started".into() } else { "–".into() })
}

/// The refuted claims: a negative result is a result.
pub fn refuted(outcomes: &[Outcome]) -> String {
    let refuted: Vec<&str> = outcomes.iter().filter(|o| o.verdict == Verdict::Refuted).map(|o| o.id.as_str()).collect();
    match (outcomes.len(), refuted.len()) {
        (0, _) => "The experiment claims nothing.".into(),
        (1, 0) => "The claim is not refuted.".into(),
        (all, 0) => format!("None of {all} claims is refuted."),
        (all, 1) => format!("1 of {all} claims is refuted: {}.", refuted[0]),
        (all, count) => format!("{count} of {all} claims are refuted: {}.", refuted.join(", ")),
    }
}

/// The sentence that all runs finished, or how many did not.
pub fn failure_sentence(input: &Input) -> String {
    let (all, left) = (input.runs.len(), input.runs.iter().filter(|run| !run.ok()).count());
    match (all, left) {
        (0, _) => "There are no runs.".into(),
        (_, 0) => format!("All {all} runs finished."),
        _ => format!("{left} of {all} runs did not finish; their numbers are in no mean."),
    }
}

/// The sentence that the frames contain runs that are not shown, if they do.
pub fn set_aside_sentence(input: &Input) -> Option<String> {
    let text = |count: usize| {
        format!(
            "The frames also hold {count} runs that the experiment file planned once and does not plan any more; they are in no table."
        )
    };
    (input.set_aside > 0).then(|| text(input.set_aside))
}

/// Means over the finished runs of a cell.
pub fn cost(input: &Input, comparison: &Comparison) -> Rows {
    let head = vec!["arm", "time per run", "time in all", "tokens/s", "student per run", "teacher"];
    let missing = || "–".to_string();
    let row = |cell: &Cell| {
        let runs = || finished(input, cell);
        let total: f64 = runs().filter_map(|run| run.wall_s).sum();
        vec![
            cell.label.clone(),
            cell.wall_s.map_or_else(missing, duration),
            if total > 0.0 { duration(total) } else { missing() },
            cell.tokens_per_s.map_or_else(missing, quantity),
            mean(runs().map(|run| run.train_flops)).map_or_else(missing, flops),
            mean(runs().map(|run| run.teacher_flops)).map_or_else(missing, flops),
        ]
    };
    let mut rows: Vec<Vec<String>> = in_facets(comparison).map(row).collect();
    for run in input.runs.iter().filter(|run| run.role == "teacher") {
        let wall = run.wall_s.map_or_else(missing, duration);
        let speed = run.tokens_per_s.map_or_else(missing, quantity);
        rows.push(vec![format!("{} (teacher)", run.method), wall.clone(), wall, speed, flops(run.train_flops), missing()]);
    }
    (head, rows)
}

pub const DIAGNOSTICS_NOTE: &str = "Means over the last tenth of training, then over the finished runs. Losses and entropies in nats \
    per token. Gradient check: before the first update and, after a stroke, before the last, the logged loss's slope along its own \
    gradient, over the gradient's norm; 1 where the gradient is that of the loss.";

pub const COST_NOTE: &str =
    "Teacher: its training and its pass over the targets, counted whole for each arm although arms share them.";

/// The provenance of the numbers, as names and values.
pub fn facts(provenance: &Provenance) -> Vec<(&'static str, String)> {
    let p = provenance;
    let memory = if p.memory_gb > 0.0 { format!(", {} GB", fixed(p.memory_gb, 0)) } else { String::new() };
    let mut facts = vec![
        ("experiment", format!("{} (revision {})", p.experiment, p.revision)),
        ("data", format!("{}, evaluated on {}", p.data, p.split)),
        ("student", p.student.clone()),
        ("teachers", p.teachers.join("; ")),
        ("hydrometer", p.version.clone()),
        ("commit", p.commit.clone().unwrap_or_else(|| "not from a git checkout".into())),
        ("Cargo.lock", p.cargo_lock_sha256.as_ref().map_or(String::new(), |hash| format!("sha256 {hash}"))),
        ("libtorch", p.libtorch.clone()),
        ("machine", format!("{}, {} cores{memory}", p.cpu, p.cores)),
        ("device", format!("{} on {}", p.device, p.os)),
        ("arithmetic", arithmetic(p)),
        ("command", p.argv.join(" ")),
        ("finished", if p.finished_at > 0 { date(p.finished_at) } else { String::new() }),
    ];
    for kept in &p.kept {
        let commit = kept.commit.as_ref().map_or(String::new(), |commit| format!(" by commit {commit}"));
        let when = if kept.finished_at > 0 { format!(" of {}", date(kept.finished_at)) } else { String::new() };
        facts.push(("kept", format!("{} runs{when}{commit} on {}: {}", kept.runs.len(), kept.cpu, kept.runs.join(", "))));
    }
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

/// What the exact bits depend on; empty if the results do not record it.
fn arithmetic(provenance: &Provenance) -> String {
    let version = provenance.numerics.map(|version| format!("numerics {version}"));
    let family = provenance.cpu_family.as_ref().map(|family| format!("CPU family {family}"));
    let settings = provenance.cpu_settings.iter().map(|(name, value)| format!("{name}={value}"));
    version.into_iter().chain(family).chain(settings).collect::<Vec<_>>().join(", ")
}

/// The command that runs the experiment again.
pub fn reproduce(provenance: &Provenance) -> String {
    let smoke = if provenance.smoke { " --smoke" } else { "" };
    format!("hydrometer run experiments/{}.toml{smoke}", provenance.experiment)
}

pub const SMOKE: &str = "Smoke run: a few steps to see that everything works. These numbers answer nothing.";

/// The question as a title, or the experiment's name if there is no question.
pub fn title(provenance: &Provenance) -> &str {
    if provenance.question.is_empty() { &provenance.experiment } else { &provenance.question }
}
