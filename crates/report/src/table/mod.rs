//! Arms side by side as a table: for terminals, pages and documents.

mod comparison;
pub mod csv;
pub mod document;
mod latex;
mod metrics;
mod task;
mod typst;

use tabled::builder::Builder;
use tabled::settings::object::{Columns, Object, Rows};
use tabled::settings::style::HorizontalLine;
use tabled::settings::themes::Theme;
use tabled::settings::{Alignment, Padding, Style};

pub use comparison::{comparison, probability};
pub use metrics::{TITLE as METRICS_TITLE, metrics, text as metric_text};
pub use task::tasks;

use super::comparison::Comparison;
use super::findings;
use crate::cell::Cell;
use crate::cell::Estimate;
use crate::cell::Reference;
use hydrometer_base::text::visible;
use hydrometer_base::units::{fixed, html as escape_html, markdown as escape_markdown, shorten};

const WIDTH: usize = 110;
const GAP: usize = 2;

/// Where a table is shown; a terminal has [`WIDTH`] columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Page,
    Terminal,
}

/// Rows under a header, the arms before the references.
pub struct Table<'a> {
    head: Vec<String>,
    rows: Vec<Row<'a>>,
    note: String,
}

enum Row<'a> {
    /// The axes that the rows under it share.
    Facet(String),
    Cell(&'a Cell, Vec<String>),
    /// A row that is not a cell: an arm over several data sets.
    Plain(Vec<String>),
    Reference(Vec<String>),
}

/// The comparison, the table of the other metrics and those of tasks, at most 110 columns wide.
pub fn terminal(found: &Comparison) -> String {
    if found.cells.is_empty() && found.references.is_empty() {
        return "no runs yet".into();
    }
    let tables = [Some(comparison(found, Surface::Terminal)), metrics(found, Surface::Terminal)];
    let tables = tables.iter().flatten().map(Table::terminal);
    let of_tasks = tasks(found).into_iter().map(|(heading, table)| format!("{}\n{}", visible(&heading), table.terminal()));
    tables.chain(of_tasks).collect::<Vec<_>>().join("\n\n")
}

impl<'a> Table<'a> {
    /// The rows of `found`; `of_cell` and `of_reference` return their columns after the name.
    fn new(
        found: &'a Comparison,
        columns: Vec<String>,
        of_cell: impl Fn(&Cell) -> Vec<String>,
        of_reference: impl Fn(&Reference) -> Vec<String>,
        note: String,
    ) -> Self {
        let named = |name: String, texts: Vec<String>| std::iter::once(name).chain(texts).collect::<Vec<_>>();
        let mut rows = Vec::new();
        for (facet, cells) in found.facets() {
            if !facet.is_empty() {
                rows.push(Row::Facet(facet));
            }
            rows.extend(cells.into_iter().map(|cell| Row::Cell(cell, named(cell.arm.clone(), of_cell(cell)))));
        }
        rows.extend(found.references.iter().map(|one| Row::Reference(named(title(one), of_reference(one)))));
        Self { head: named("arm".into(), columns), rows, note }
    }

    /// A table of other rows, the first column of which names them.
    fn plain((head, rows): findings::Rows, note: String) -> Self {
        Self { head: head.into_iter().map(String::from).collect(), rows: rows.into_iter().map(Row::Plain).collect(), note }
    }

    /// At most 110 columns, teachers and the unigram baseline under a rule.
    fn terminal(&self) -> String {
        let references = self.rows.iter().filter(|row| matches!(row, Row::Reference(_))).count();
        let columns = self.head.len();
        let mut rows = vec![self.head.clone()];
        rows.extend(self.rows.iter().map(|row| match row {
            Row::Facet(name) => unpaired(name.clone(), columns),
            Row::Cell(_, texts) | Row::Plain(texts) | Row::Reference(texts) => texts.clone(),
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let others: usize = (1..columns).map(width).sum::<usize>() + GAP * (columns + 1);
        let first = WIDTH.saturating_sub(others).max(8);
        for row in &mut rows {
            row[0] = shorten(&row[0], first);
        }
        let mut theme = Theme::from_style(Style::empty());
        theme.insert_horizontal_line(1, HorizontalLine::filled('─'));
        if references > 0 && rows.len() > references + 1 {
            theme.insert_horizontal_line(rows.len() - references, HorizontalLine::filled('─'));
        }
        let mut builder = Builder::default();
        rows.into_iter().for_each(|row| builder.push_record(row));
        let mut table = builder.build();
        table
            .with(theme)
            .modify(Rows::new(..), Padding::new(0, GAP, 0, 0))
            .modify(Columns::last(), Padding::zero())
            .modify(Columns::new(1..), Alignment::right())
            .modify(Rows::first().intersect(Columns::first()), Alignment::left());
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        format!("{}\n{}", lines.join("\n"), wrapped(&self.note))
    }

    /// A GitHub-flavoured table and its note.
    pub fn markdown(&self) -> String {
        let line = |texts: Vec<String>| format!("| {} |\n", texts.join(" | "));
        let escaped = |texts: &[String]| line(texts.iter().map(|text| escape_markdown(text)).collect());
        let columns = self.head.len();
        let rule = format!("|:--|{}\n", "--:|".repeat(columns - 1));
        let row = |row: &Row| match row {
            Row::Facet(name) => line(unpaired(format!("**{}**", escape_markdown(name)), columns)),
            Row::Cell(_, texts) | Row::Plain(texts) | Row::Reference(texts) => escaped(texts),
        };
        let body: String = self.rows.iter().map(row).collect();
        format!("{}{rule}{body}\n{}\n", escaped(&self.head), escape_markdown(&self.note))
    }

    /// A `<table>` with one body per facet and one for the teachers and the unigram baseline, and its note. `swatch` marks an arm
    /// by its colour.
    pub fn html(&self, swatch: impl Fn(&Cell) -> String) -> String {
        let names: String = self.head.iter().map(|text| format!("<th scope=\"col\">{}</th>", escape_html(text))).collect();
        let line = |mark: String, row: &[String]| {
            let cells: String = row[1..].iter().map(|text| format!("<td>{}</td>", escape_html(text))).collect();
            format!("<tr><th scope=\"row\">{mark}{}</th>{cells}</tr>\n", escape_html(&row[0]))
        };
        let (mut bodies, mut references, mut open) = (String::from("<tbody>\n"), String::new(), false);
        for row in &self.rows {
            match row {
                Row::Facet(name) => {
                    if std::mem::replace(&mut open, true) {
                        bodies.push_str("</tbody>\n<tbody>\n");
                    }
                    let columns = self.head.len();
                    bodies.push_str(&format!(
                        "<tr class=\"facet\"><th scope=\"rowgroup\" colspan=\"{columns}\">{}</th></tr>\n",
                        escape_html(name)
                    ));
                }
                Row::Cell(cell, row) => bodies.push_str(&line(swatch(cell), row)),
                Row::Plain(row) => bodies.push_str(&line(String::new(), row)),
                Row::Reference(row) => references.push_str(&line(String::new(), row)),
            }
        }
        format!(
            "<div class=\"scroll\"><table class=\"sorts\">\n<thead><tr>{names}</tr></thead>\n{bodies}</tbody>\n\
             <tbody class=\"references\">\n{references}</tbody>\n</table></div>\n<p class=\"note\">{}</p>\n",
            escape_html(&self.note)
        )
    }
}

/// `big (teacher)`, or `unigram`.
pub fn title(reference: &Reference) -> String {
    title_of(&reference.name, &reference.role)
}

fn title_of(name: &str, role: &str) -> String {
    if role == "teacher" { format!("{name} (teacher)") } else { name.to_string() }
}

/// A row of `columns` that has only `name`.
fn unpaired(name: String, columns: usize) -> Vec<String> {
    std::iter::once(name).chain(std::iter::repeat_n(String::new(), columns - 1)).collect()
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

/// `85.10 ± 0.91`: a Student interval is symmetric.
fn with_half(estimate: &Estimate, digits: usize, number: impl Fn(f64) -> String) -> String {
    let mean = number(estimate.mean);
    match estimate.low.zip(estimate.high) {
        Some((low, high)) if (high - low) / 2.0 < 1e6 => format!("{mean} ± {}", fixed((high - low) / 2.0, digits)),
        _ => mean,
    }
}

fn missing() -> String {
    "–".into()
}
