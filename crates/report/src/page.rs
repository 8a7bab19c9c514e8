//! `report.html`: a single file without external resources. Its script only sorts tables.

use hydrometer_base::units::html;
use hydrometer_record::provenance::Provenance;

use super::claims::Outcome;
use super::comparison::Comparison;
use super::findings::{self, Rows};
use super::input::Input;
use super::plot::{Palette, Plot};
use super::pooled::{self, Pooled};
use super::table::{self, Surface};
use super::texts::{self, Side};
use super::verdict;
use crate::cell::Cell;

/// The whole page.
pub fn report(
    input: &Input,
    comparison: &Comparison,
    pooled: &[Pooled],
    provenance: &Provenance,
    outcomes: &[Outcome],
    plots: &[Plot],
    sides: &[Side],
) -> String {
    let palette = Palette::of(comparison, provenance);
    let title = html(findings::title(provenance));
    let mut body = String::new();
    if provenance.smoke {
        body.push_str(&format!("<p class=\"smoke\" role=\"note\">{}</p>\n", html(findings::SMOKE)));
    }
    body.push_str(&format!("<h1>{title}</h1>\n"));
    if !provenance.hypothesis.is_empty() {
        body.push_str(&format!("<p class=\"subtitle\">Hypothesis: {}</p>\n", html(&provenance.hypothesis)));
    }
    let claim = |outcome: &Outcome| {
        let (class, verdict) = (outcome.verdict.name(), outcome.verdict_words());
        let rest = outcome.sentence.strip_prefix(&outcome.finding).and_then(|rest| rest.split_once(&verdict));
        let (between, after) = rest.unwrap_or_default();
        let (finding, between, after) = (html(&outcome.finding), html(between), html(after));
        format!("<p>{finding}{between}<strong class=\"{class}\">{verdict}</strong>{after}</p>\n")
    };
    if !outcomes.is_empty() {
        let claims: String = outcomes.iter().map(claim).collect();
        body.push_str(&format!("<div class=\"verdict\" id=\"claims\">\n{claims}</div>\n"));
    }
    let sentences = verdict::sentences(comparison);
    let sentences: String = sentences.iter().map(|sentence| format!("<p>{}</p>\n", html(sentence))).collect();
    body.push_str(&format!("<div class=\"verdict\">\n{sentences}</div>\n<p class=\"note\">{}</p>\n", html(verdict::CAVEAT)));
    body.push_str("<h2>Comparison</h2>\n");
    body.push_str(&table::comparison(comparison, Surface::Page).html(|cell| swatch(&palette, cell)));
    if let Some(metrics) = table::metrics(comparison, Surface::Page) {
        body.push_str(&format!("<h2>{}</h2>\n{}", table::METRICS_TITLE, metrics.html(|cell| swatch(&palette, cell))));
    }
    for (heading, table) in table::tasks(comparison) {
        body.push_str(&format!("<h2>{}</h2>\n{}", html(&heading), table.html(|cell| swatch(&palette, cell))));
    }
    if !pooled.is_empty() {
        body.push_str(&format!("<h2>{}</h2>\n{}", html(pooled::TITLE), rows(&pooled::rows(pooled), "sorts")));
        body.push_str(&format!("<p class=\"note\">{}</p>\n", html(pooled::NOTE)));
    }
    if !sides.is_empty() {
        let (note, sides) = (html(texts::NOTE), texts::to_html(sides));
        body.push_str(&format!("<h2>{}</h2>\n<p class=\"note\">{note}</p>\n{sides}", texts::TITLE));
    }
    let arms: Vec<(String, String)> = provenance
        .methods
        .iter()
        .filter(|method| !method.objective.is_empty())
        .map(|method| (html(&method.name), html(&method.objective)))
        .collect();
    if !arms.is_empty() {
        body.push_str(&format!("<h2>Arms</h2>\n{}", facts(&arms)));
    }
    body.push_str("<h2>Plots</h2>\n");
    for plot in plots {
        // Plots have no XML declaration, which would be invalid inside a page.
        body.push_str(&format!(
            "<figure id=\"{}\">\n<div class=\"card\">{}</div>\n<figcaption>{}</figcaption>\n</figure>\n",
            plot.name,
            plot.svg.trim_end(),
            html(&plot.caption)
        ));
    }
    body.push_str("<h2>Diagnostics</h2>\n");
    body.push_str(&rows(&findings::diagnostics(input, comparison), "sorts"));
    body.push_str(&format!("<p class=\"note\">{}</p>\n", html(findings::DIAGNOSTICS_NOTE)));
    body.push_str("<h2>Refuted claims and failures</h2>\n");
    body.push_str(&format!("<p>{}</p>\n", html(&findings::refuted(outcomes))));
    for sentence in [Some(findings::failure_sentence(input)), findings::set_aside_sentence(input)].into_iter().flatten() {
        body.push_str(&format!("<p>{}</p>\n", html(&sentence)));
    }
    let failures = findings::failures(input);
    if !failures.1.is_empty() {
        body.push_str(&rows(&failures, "failures"));
    }
    body.push_str("<h2>Cost</h2>\n");
    body.push_str(&rows(&findings::cost(input, comparison), "sorts"));
    body.push_str(&format!("<p class=\"note\">{}</p>\n<h2>Environment</h2>\n", html(findings::COST_NOTE)));
    let known: Vec<(String, String)> =
        findings::facts(provenance).into_iter().map(|(name, value)| (name.to_string(), html(&value))).collect();
    body.push_str(&facts(&known));
    body.push_str(&format!("<h2>Run it again</h2>\n<pre>{}</pre>\n", html(&findings::reproduce(provenance))));
    if !provenance.experiment_toml.is_empty() {
        let toml = html(&provenance.experiment_toml);
        body.push_str(&format!("<details><summary>The experiment file</summary>\n<pre>{toml}</pre>\n</details>\n"));
    }
    let (style, script) = (include_str!("style.css"), include_str!("sort.js"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
}

/// A dot in the arm's colour; a ring if its lines are dashed.
fn swatch(palette: &Palette, cell: &Cell) -> String {
    let (colour, class) = (palette.hex(cell), if palette.is_dashed(cell) { "swatch ring" } else { "swatch" });
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><circle cx=\"5\" cy=\"5\" r=\"4\" stroke=\"{colour}\" fill=\"{colour}\"/></svg>"
    )
}

fn rows((head, rows): &Rows, class: &str) -> String {
    let head: String = head.iter().map(|name| format!("<th scope=\"col\">{}</th>", html(name))).collect();
    let line = |row: &Vec<String>| {
        let cells: String = row[1..].iter().map(|text| format!("<td>{}</td>", html(text))).collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", html(&row[0]))
    };
    let body: String = rows.iter().map(line).collect();
    format!(
        "<div class=\"scroll\"><table class=\"{class}\">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )
}

/// Names and values that are HTML already.
fn facts(facts: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| format!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n");
    format!("<table class=\"facts\"><tbody>\n{}</tbody></table>\n", facts.iter().map(line).collect::<String>())
}
