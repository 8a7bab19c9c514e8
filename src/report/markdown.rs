//! `report.md`: the report in brief, for a Git host.

use super::claims::Outcome;
use super::comparison::Comparison;
use super::findings::{self, Rows};
use super::format::markdown;
use super::input::Input;
use super::plot::Plot;
use super::{table, verdict};
use crate::record::provenance::Provenance;

/// The whole file.
pub fn report(input: &Input, comparison: &Comparison, provenance: &Provenance, outcomes: &[Outcome], plots: &[Plot]) -> String {
    let mut out = format!("# {}\n\n", markdown(findings::title(provenance)));
    if provenance.smoke {
        out.push_str(&format!("> **{}**\n\n", markdown(findings::SMOKE)));
    }
    for outcome in outcomes {
        out.push_str(&format!("- {}\n", markdown(&outcome.sentence)));
    }
    if !outcomes.is_empty() {
        out.push('\n');
    }
    for sentence in verdict::sentences(comparison) {
        out.push_str(&format!("- {}\n", markdown(&sentence)));
    }
    out.push_str(&format!("\n{}\n\n{}\n", markdown(verdict::CAVEAT), table::markdown(comparison)));
    for plot in plots {
        out.push_str(&format!("![{}](plots/{}.svg)\n\n{}\n\n", markdown(&plot.title), plot.name, markdown(&plot.caption)));
    }
    out.push_str(&format!("## Diagnostics\n\n{}\n", rows(&findings::diagnostics(input, comparison))));
    out.push_str("Means over the last tenth of training, then over the finished runs. Gradient check: before the first update, the logged loss's slope \
         along its own gradient, over the gradient's norm; 1 where the gradient is that of the loss.\n\n");
    out.push_str("## Failures\n\n");
    if let Some(refuted) = findings::refuted(outcomes) {
        out.push_str(&format!("{}\n\n", markdown(&refuted)));
    }
    out.push_str(&format!("{}\n\n", markdown(&findings::failure_sentence(input))));
    let failures = findings::failures(input);
    if !failures.1.is_empty() {
        out.push_str(&format!("{}\n", rows(&failures)));
    }
    out.push_str(&format!(
        "## Cost\n\n{}\n{}\n\n## Provenance\n\n",
        rows(&findings::cost(input, comparison)),
        findings::COST_NOTE
    ));
    for (name, value) in findings::facts(provenance) {
        out.push_str(&format!("- {name}: {}\n", markdown(&value)));
    }
    out.push_str(&format!("\n    {}\n", findings::reproduce(provenance).replace(['\n', '\r'], " ")));
    out
}

fn rows((head, rows): &Rows) -> String {
    let line = |row: Vec<String>| format!("| {} |\n", row.join(" | "));
    let body: String = rows.iter().map(|row| line(row.iter().map(|text| markdown(text)).collect())).collect();
    let head_line = line(head.iter().map(|name| name.to_string()).collect());
    format!("{head_line}|:--|{}\n{body}", "--:|".repeat(head.len() - 1))
}
