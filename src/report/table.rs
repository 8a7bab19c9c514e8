//! The comparison as a table: for a terminal, for Markdown and for HTML.

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Object, Rows};
use tabled::settings::style::HorizontalLine;
use tabled::settings::themes::Theme;
use tabled::settings::{Alignment, Padding, Style};

use super::comparison::{Cell, Comparison, Estimate, Reference};
use super::format::{decimals, duration, fixed, html as escape_html, markdown as escape_markdown, perplexity, quantity};
use super::format::{shorten, signed};

const WIDTH: usize = 110;
const GAP: usize = 2;

/// A table of at most 110 columns, teachers and the unigram baseline under a rule.
pub fn terminal(comparison: &Comparison) -> String {
    if comparison.cells.is_empty() && comparison.references.is_empty() {
        return "no runs yet".into();
    }
    let mut rows = rows(comparison);
    let columns = rows[0].len();
    let width = |column: usize, rows: &[Vec<String>]| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let others: usize = (1..columns).map(|column| width(column, &rows)).sum::<usize>() + GAP * (columns + 1);
    let first = WIDTH.saturating_sub(others).max(8);
    for row in &mut rows {
        row[0] = shorten(&row[0], first);
    }
    let mut builder = Builder::default();
    for row in &rows {
        builder.push_record(row.clone());
    }
    let mut theme = Theme::from_style(Style::empty());
    theme.insert_horizontal_line(1, HorizontalLine::filled('─'));
    if !comparison.references.is_empty() && !comparison.cells.is_empty() {
        theme.insert_horizontal_line(1 + comparison.cells.len(), HorizontalLine::filled('─'));
    }
    let mut table = builder.build();
    table
        .with(theme)
        .modify(Rows::new(..), Padding::new(0, GAP, 0, 0))
        .modify(Columns::last(), Padding::zero())
        .modify(Columns::new(1..), Alignment::right())
        .modify(Rows::first().intersect(Columns::first()), Alignment::left());
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("{}\n{}", lines.join("\n"), note(comparison))
}

/// A GitHub-flavoured table.
pub fn markdown(comparison: &Comparison) -> String {
    let rows = rows(comparison);
    let line = |row: &[String]| format!("| {} |\n", row.iter().map(|text| escape_markdown(text)).collect::<Vec<_>>().join(" | "));
    let rule = format!("|:--|{}\n", "--:|".repeat(rows[0].len() - 1));
    let body: String = rows[1..].iter().map(|row| line(row)).collect();
    format!("{}{rule}{body}\n{}\n", line(&rows[0]), escape_markdown(&note(comparison)))
}

/// A `<table>`, teachers and the unigram baseline in a body of their own.
pub fn html(comparison: &Comparison, colour: impl Fn(&str) -> String) -> String {
    let rows = rows(comparison);
    let head: String = rows[0].iter().map(|text| format!("<th scope=\"col\">{}</th>", escape_html(text))).collect();
    let body = |rows: &[Vec<String>], swatch: &dyn Fn(usize) -> String| -> String {
        let line = |(at, row): (usize, &Vec<String>)| {
            let cells: String = row[1..].iter().map(|text| format!("<td>{}</td>", escape_html(text))).collect();
            format!("<tr><th scope=\"row\">{}{}</th>{cells}</tr>\n", swatch(at), escape_html(&row[0]))
        };
        rows.iter().enumerate().map(line).collect()
    };
    let split = 1 + comparison.cells.len();
    let swatch =
        |at: usize| format!("<span class=\"swatch\" style=\"background:{}\"></span>", colour(&comparison.cells[at].label));
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{}</tbody>\n<tbody class=\"references\">\n{}\
         </tbody>\n</table></div>\n<p class=\"note\">{}</p>\n",
        body(&rows[1..split], &swatch),
        body(&rows[split..], &|_| String::new()),
        escape_html(&note(comparison))
    )
}

fn rows(comparison: &Comparison) -> Vec<Vec<String>> {
    let against = format!("vs {}", shorten(&comparison.reference, 13));
    let head = ["arm", "runs", "perplexity", &against, "", "nats/token", "tokens", "tokens/s", "time/run"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(comparison.cells.iter().map(|cell| cell_row(cell, &comparison.reference)));
    rows.extend(comparison.references.iter().map(reference_row));
    rows
}

fn cell_row(cell: &Cell, reference: &str) -> Vec<String> {
    let total = cell.ok + cell.failed + cell.diverged + cell.unfinished;
    let missing = || "–".to_string();
    let (difference, percent) = match &cell.difference {
        Some(found) => (with_half(&found.perplexity, signed), format!("{}%", signed(found.percent.mean, 1))),
        None if cell.method == reference => ("reference".into(), String::new()),
        None => (missing(), String::new()),
    };
    vec![
        cell.label.clone(),
        if cell.ok == total { total.to_string() } else { format!("{}/{total}", cell.ok) },
        cell.perplexity.as_ref().map_or_else(missing, |estimate| with_half(estimate, |value, _| perplexity(value))),
        difference,
        percent,
        cell.nll.map_or_else(missing, |nll| fixed(nll, 3)),
        cell.tokens.map_or_else(missing, |tokens| quantity(tokens as f64)),
        cell.tokens_per_s.map_or_else(missing, quantity),
        cell.wall_s.map_or_else(missing, duration),
    ]
}

fn reference_row(reference: &Reference) -> Vec<String> {
    let name = if reference.role == "teacher" { format!("{} (teacher)", reference.name) } else { reference.name.clone() };
    let missing = || "–".to_string();
    let mut row = vec![String::new(); 9];
    row[0] = name;
    row[2] = reference.perplexity.map_or_else(missing, perplexity);
    row[5] = reference.nll.map_or_else(missing, |nll| fixed(nll, 3));
    row
}

/// `85.10 ± 0.91`: a Student interval is symmetric.
fn with_half(estimate: &Estimate, number: impl Fn(f64, usize) -> String) -> String {
    let digits = decimals(estimate.mean);
    let mean = number(estimate.mean, digits);
    match estimate.low.zip(estimate.high) {
        Some((low, high)) if (high - low) / 2.0 < 1e6 => format!("{mean} ± {}", fixed((high - low) / 2.0, digits)),
        _ => mean,
    }
}

fn note(comparison: &Comparison) -> String {
    let smoke = if comparison.smoke { "Smoke tier: not a result. " } else { "" };
    let level = fixed(comparison.level * 100.0, 0);
    format!("{smoke}± is the half-width of the {level}% Student t interval over seeds; differences are paired by seed.")
}
