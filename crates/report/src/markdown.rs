//! `report.md`: the report in brief, for a Git host.

use hydrometer_base::text::{visible, visible_block};
use hydrometer_base::units::markdown;
use hydrometer_record::provenance::Provenance;

use super::claims::Outcome;
use super::comparison::Comparison;
use super::findings::{self, Rows};
use super::input::Input;
use super::plot::Plot;
use super::pooled::{self, Pooled};
use super::table::{self, Surface};
use super::texts::{self, Side};
use super::verdict;

/// The whole file.
pub fn report(
    input: &Input,
    comparison: &Comparison,
    pooled: &[Pooled],
    provenance: &Provenance,
    outcomes: &[Outcome],
    plots: &[Plot],
    sides: &[Side],
) -> String {
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
    out.push_str(&format!("\n{}\n\n{}\n", markdown(verdict::CAVEAT), table::comparison(comparison, Surface::Page).markdown()));
    if let Some(metrics) = table::metrics(comparison, Surface::Page) {
        out.push_str(&format!("## {}\n\n{}\n", table::METRICS_TITLE, metrics.markdown()));
    }
    for (heading, table) in table::tasks(comparison) {
        out.push_str(&format!("## {}\n\n{}\n", markdown(&heading), table.markdown()));
    }
    if !pooled.is_empty() {
        out.push_str(&format!("## {}\n\n{}\n{}\n\n", pooled::TITLE, rows(&pooled::rows(pooled)), markdown(pooled::NOTE)));
    }
    if !sides.is_empty() {
        out.push_str(&format!("## {}\n\n{}\n\n{}", texts::TITLE, markdown(texts::NOTE), texts::to_markdown(sides)));
    }
    out.push_str("## Plots\n\n");
    for plot in plots {
        out.push_str(&format!("![{}](plots/{}.svg)\n\n{}\n\n", markdown(&plot.title), plot.name, markdown(&plot.caption)));
    }
    out.push_str(&format!("## Diagnostics\n\n{}\n", rows(&findings::diagnostics(input, comparison))));
    out.push_str(&format!("{}\n\n## Refuted claims and failures\n\n", findings::DIAGNOSTICS_NOTE));
    let sentences =
        [Some(findings::refuted(outcomes)), Some(findings::failure_sentence(input)), findings::set_aside_sentence(input)];
    for sentence in sentences.into_iter().flatten() {
        out.push_str(&format!("{}\n\n", markdown(&sentence)));
    }
    let failures = findings::failures(input);
    if !failures.1.is_empty() {
        out.push_str(&format!("{}\n", rows(&failures)));
    }
    out.push_str(&format!(
        "## Cost\n\n{}\n{}\n\n## Environment\n\n",
        rows(&findings::cost(input, comparison)),
        findings::COST_NOTE
    ));
    for (name, value) in findings::facts(provenance) {
        out.push_str(&format!("- {name}: {}\n", markdown(&value)));
    }
    let command = visible(&findings::reproduce(provenance).replace(['\n', '\r'], " "));
    out.push_str(&format!("\n## Run it again\n\n    {command}\n"));
    if !provenance.experiment_toml.is_empty() {
        let indented: String = visible_block(&provenance.experiment_toml)
            .lines()
            .map(|line| format!("    {line}").trim_end().to_string() + "\n")
            .collect();
        out.push_str(&format!("\nwith\n\n{indented}"));
    }
    out
}

fn rows((head, rows): &Rows) -> String {
    let line = |row: Vec<String>| format!("| {} |\n", row.join(" | "));
    let body: String = rows.iter().map(|row| line(row.iter().map(|text| markdown(text)).collect())).collect();
    let head_line = line(head.iter().map(|name| name.to_string()).collect());
    format!("{head_line}|:--|{}\n{body}", "--:|".repeat(head.len() - 1))
}
