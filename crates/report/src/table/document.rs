//! Comparisons as document source: Markdown, LaTeX or Typst.

use hydrometer_base::text::visible;

use super::{Surface, Table, comparison, metrics, tasks};
use crate::comparison::Comparison;
use crate::pooled::{self, Pooled};

/// The language of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Markdown,
    Latex,
    Typst,
}

/// All tables of every comparison, then the arms over several data sets if there are any, each under a line that names it.
pub fn document(found: &[Comparison], pooled: &[Pooled], language: Language) -> String {
    let mut parts = Vec::new();
    for one in found {
        parts.push((one.experiment.clone(), comparison(one, Surface::Page)));
        let of_tasks = tasks(one).into_iter().map(|(heading, table)| (format!("{}: {heading}", one.experiment), table));
        parts.extend(metrics(one, Surface::Page).map(|table| (format!("{}: {}", one.experiment, super::METRICS_TITLE), table)));
        parts.extend(of_tasks);
    }
    if !pooled.is_empty() {
        parts.push((pooled::TITLE.to_string(), Table::plain(pooled::rows(pooled), pooled::NOTE.to_string())));
    }
    let written: Vec<String> = parts.iter().map(|(title, table)| part(&visible(title), table, language)).collect();
    format!("{}{}", preamble(language), written.join("\n"))
}

fn preamble(language: Language) -> &'static str {
    match language {
        Language::Latex => "% Needs \\usepackage{booktabs}.\n",
        Language::Markdown | Language::Typst => "",
    }
}

fn part(title: &str, table: &Table, language: Language) -> String {
    match language {
        Language::Markdown => format!("**{}**\n\n{}", hydrometer_base::units::markdown(title), table.markdown()),
        Language::Latex => format!("% {title}\n{}", table.latex()),
        Language::Typst => format!("// {title}\n{}", table.typst()),
    }
}
