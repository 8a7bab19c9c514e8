//! The comparison as a table: for a terminal, for Markdown and for HTML.

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Object, Rows};
use tabled::settings::style::HorizontalLine;
use tabled::settings::themes::Theme;
use tabled::settings::{Alignment, Padding, Style};

use super::comparison::{Cell, Comparison, Estimate, Reference};
use super::format::{decimals, fixed, html as escape_html, markdown as escape_markdown, perplexity, quantity};
use super::format::{shorten, signed};

const WIDTH: usize = 110;
const GAP: usize = 2;

/// Columns that a terminal has no room for.
const WIDE_ONLY: [usize; 2] = [5, 8];

/// A row of the table.
enum Row {
    /// What the rows under it have in common.
    Facet(String),
    Cell(Vec<String>),
    Reference(Vec<String>),
}

/// A table of at most 110 columns, teachers and the unigram baseline under a rule.
pub fn terminal(comparison: &Comparison) -> String {
    if comparison.cells.is_empty() && comparison.references.is_empty() {
        return "no runs yet".into();
    }
    let narrow = |row: Vec<String>| -> Vec<String> {
        row.into_iter().enumerate().filter(|(at, _)| !WIDE_ONLY.contains(at)).map(|(_, text)| text).collect()
    };
    let body = rows(comparison, short_counts);
    let references = body.iter().filter(|row| matches!(row, Row::Reference(_))).count();
    let mut rows = vec![narrow(head(comparison))];
    let columns = rows[0].len();
    rows.extend(body.into_iter().map(|row| match row {
        Row::Facet(name) => std::iter::once(name).chain(std::iter::repeat_n(String::new(), columns - 1)).collect(),
        Row::Cell(cells) | Row::Reference(cells) => narrow(cells),
    }));
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
    if references > 0 && rows.len() > references + 1 {
        theme.insert_horizontal_line(rows.len() - references, HorizontalLine::filled('─'));
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
    format!("{}\n{}", lines.join("\n"), wrapped(&note(comparison)))
}

/// `text` in lines of at most [`WIDTH`] columns.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_string());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last] += &format!("{space}{word}");
        }
    }
    lines.join("\n")
}

/// A GitHub-flavoured table.
pub fn markdown(comparison: &Comparison) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let escaped = |cells: Vec<String>| cells.iter().map(|text| escape_markdown(text)).collect::<Vec<String>>();
    let head = head(comparison);
    let columns = head.len();
    let rule = format!("|:--|{}\n", "--:|".repeat(columns - 1));
    let row = |row: Row| match row {
        Row::Facet(name) => {
            let name = format!("**{}**", escape_markdown(&name));
            line(std::iter::once(name).chain(std::iter::repeat_n(String::new(), columns - 1)).collect())
        }
        Row::Cell(cells) | Row::Reference(cells) => line(escaped(cells)),
    };
    let body: String = rows(comparison, counts).into_iter().map(row).collect();
    format!("{}{rule}{body}\n{}\n", line(escaped(head)), escape_markdown(&note(comparison)))
}

/// A `<table>` with a body a facet, teachers and the unigram baseline in one of their own; `swatch` marks an arm by its colour.
pub fn html(comparison: &Comparison, swatch: impl Fn(&Cell) -> String) -> String {
    let head = head(comparison);
    let names: String = head.iter().map(|text| format!("<th scope=\"col\">{}</th>", escape_html(text))).collect();
    let line = |mark: String, row: &[String]| {
        let cells: String = row[1..].iter().map(|text| format!("<td>{}</td>", escape_html(text))).collect();
        format!("<tr><th scope=\"row\">{mark}{}</th>{cells}</tr>\n", escape_html(&row[0]))
    };
    let (mut bodies, mut references, mut open) = (String::from("<tbody>\n"), String::new(), false);
    let mut cells = comparison.facets().into_iter().flat_map(|(_, cells)| cells);
    for row in rows(comparison, counts) {
        match row {
            Row::Facet(name) => {
                if std::mem::replace(&mut open, true) {
                    bodies.push_str("</tbody>\n<tbody>\n");
                }
                let columns = head.len();
                bodies.push_str(&format!(
                    "<tr class=\"facet\"><th scope=\"rowgroup\" colspan=\"{columns}\">{}</th></tr>\n",
                    escape_html(&name)
                ));
            }
            Row::Cell(row) => bodies.push_str(&line(cells.next().map_or(String::new(), &swatch), &row)),
            Row::Reference(row) => references.push_str(&line(String::new(), &row)),
        }
    }
    format!(
        "<div class=\"scroll\"><table class=\"sorts\">\n<thead><tr>{names}</tr></thead>\n{bodies}</tbody>\n\
         <tbody class=\"references\">\n{references}</tbody>\n</table></div>\n<p class=\"note\">{}</p>\n",
        escape_html(&note(comparison))
    )
}

fn head(comparison: &Comparison) -> Vec<String> {
    let against = format!("vs {}", shorten(&comparison.reference, 13));
    ["arm", "runs", "perplexity", &against, "Δ nats/token", "p", "p (Holm)", "nats/token", "tokens"].map(String::from).to_vec()
}

fn rows(comparison: &Comparison, counts: fn(&Cell) -> String) -> Vec<Row> {
    let mut rows = Vec::new();
    for (facet, cells) in comparison.facets() {
        if !facet.is_empty() {
            rows.push(Row::Facet(facet));
        }
        rows.extend(cells.into_iter().map(|cell| Row::Cell(cell_row(cell, &comparison.reference, counts))));
    }
    rows.extend(comparison.references.iter().map(|reference| Row::Reference(reference_row(reference))));
    rows
}

fn cell_row(cell: &Cell, reference: &str, counts: fn(&Cell) -> String) -> Vec<String> {
    let missing = || "–".to_string();
    let nll = cell.difference.as_ref().and_then(|found| found.nll);
    let (percent, difference) = match (&cell.difference, nll) {
        (Some(found), Some(nll)) => {
            let [mean, low, high] = [nll.mean, nll.low, nll.high].map(|value| signed(value, 3));
            (format!("{}%", signed(found.percent.mean, 1)), format!("{mean} [{low}, {high}]"))
        }
        (Some(found), None) => {
            (format!("{}%", signed(found.percent.mean, 1)), format!("perplexity {}", with_half(&found.perplexity, signed)))
        }
        (None, _) if cell.method == reference => ("reference".into(), String::new()),
        (None, _) => (missing(), String::new()),
    };
    vec![
        cell.arm.clone(),
        counts(cell),
        cell.perplexity.as_ref().map_or_else(missing, |estimate| with_half(estimate, |value, _| perplexity(value))),
        percent,
        difference,
        nll.map_or_else(String::new, |nll| probability(nll.p)),
        nll.map_or_else(String::new, |nll| probability(nll.p_holm)),
        cell.nll.map_or_else(missing, |nll| fixed(nll, 3)),
        cell.tokens.map_or_else(missing, |tokens| quantity(tokens as f64)),
    ]
}

/// `3`, or `2/3` where not all finished.
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
fn probability(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { fixed(p, 3) }
}

fn reference_row(reference: &Reference) -> Vec<String> {
    let name = if reference.role == "teacher" { format!("{} (teacher)", reference.name) } else { reference.name.clone() };
    let missing = || "–".to_string();
    let mut row = vec![String::new(); 9];
    row[0] = name;
    row[2] = reference.perplexity.map_or_else(missing, perplexity);
    row[7] = reference.nll.map_or_else(missing, |nll| fixed(nll, 3));
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
