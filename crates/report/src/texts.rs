//! What the arms wrote for the first prompts of each task, side by side.
//!
//! Models write these texts, and anyone may have written the prompts: both are cut, and escaped like all text from outside.

use anyhow::Result;
use hydrometer_base::units::{html, markdown};
use hydrometer_record::frames::{Frames, GenerationRow};

use super::comparison::Comparison;
use super::input::{Input, Run};
use super::table;

pub const TITLE: &str = "What the arms wrote";
pub const NOTE: &str = "The first prompts of each task, and the first text that each arm's lowest finished seed wrote after its last update. \
    Long texts are cut; an ellipsis marks the cut.";

/// Number of prompts of a task that are shown.
const PROMPTS: usize = 4;
/// Longest text, in characters and lines.
const CHARACTERS: usize = 300;
const LINES: usize = 8;

/// A prompt of a task, with the texts of the arms.
pub struct Side {
    task: String,
    prompt: String,
    input: String,
    /// By arm: the text, and why it ended.
    texts: Vec<(String, String, String)>,
}

/// The prompts that are shown, task by task. Empty without generations.
pub fn side_by_side(frames: &Frames, input: &Input, comparison: &Comparison) -> Result<Vec<Side>> {
    let rows = frames.generations.as_ref().map(GenerationRow::rows).transpose()?.unwrap_or_default();
    let writers = writers(input, comparison);
    let mut sides: Vec<Side> = Vec::new();
    for row in rows.iter().filter(|row| row.sample == 0 && writers.iter().any(|(_, run)| run.run == row.run)) {
        let known = sides.iter().any(|side| side.task == row.task && side.prompt == row.prompt);
        if !known && sides.iter().filter(|side| side.task == row.task).count() < PROMPTS {
            let (task, prompt, input) = (row.task.clone(), row.prompt.clone(), row.input.clone());
            sides.push(Side { task, prompt, input, texts: Vec::new() });
        }
    }
    let tasks: Vec<String> = sides.iter().map(|side| side.task.clone()).collect();
    sides.sort_by_key(|side| tasks.iter().position(|task| *task == side.task));
    for side in &mut sides {
        let here = |row: &&GenerationRow| row.sample == 0 && row.task == side.task && row.prompt == side.prompt;
        let here: Vec<&GenerationRow> = rows.iter().filter(here).collect();
        let text = |(arm, run): &(String, &Run)| {
            let row = here.iter().find(|row| row.run == run.run)?;
            Some((arm.clone(), row.text.clone(), row.finish.clone()))
        };
        side.texts = writers.iter().filter_map(text).collect();
    }
    Ok(sides)
}

/// The arms in the order of the tables, then the teachers, each with its finished run of the lowest seed.
fn writers<'a>(input: &'a Input, comparison: &Comparison) -> Vec<(String, &'a Run)> {
    let cells = comparison.facets().into_iter().flat_map(|(_, cells)| cells);
    let students = cells.filter_map(|cell| {
        let runs = cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| run.ok());
        Some((cell.label.clone(), runs.min_by_key(|run| run.seed)?))
    });
    let references = comparison.references.iter().filter_map(|one| {
        let runs = input.runs.iter().filter(|run| run.role == one.role && run.method == one.name && run.ok());
        Some((table::title(one), runs.min_by_key(|run| run.seed)?))
    });
    students.chain(references).collect()
}

/// One table per prompt, under a heading.
pub fn to_markdown(sides: &[Side]) -> String {
    let line = |name: &str, text: &str, end: &str| format!("| {name} | {text} | {end} |\n");
    let block = |side: &Side| {
        let heading = format!("### {}\n\n", markdown(&side.heading()));
        let arm =
            |(arm, text, end): &(String, String, String)| line(&markdown(arm), &shown(&head(text), markdown), &markdown(end));
        let arms: String = side.texts.iter().map(arm).collect();
        let prompt = line("*prompt*", &shown(&tail(&side.input), markdown), "");
        format!("{heading}| arm | text | ended by |\n|:--|:--|:--|\n{prompt}{arms}\n")
    };
    sides.iter().map(block).collect()
}

pub fn to_html(sides: &[Side]) -> String {
    let line =
        |name: &str, text: &str, end: &str| format!("<tr><th scope=\"row\">{name}</th><td>{text}</td><td>{end}</td></tr>\n");
    let block = |side: &Side| {
        let arm = |(arm, text, end): &(String, String, String)| line(&html(arm), &shown(&head(text), html), &html(end));
        let arms: String = side.texts.iter().map(arm).collect();
        let prompt = line("<em>prompt</em>", &shown(&tail(&side.input), html), "");
        let names = ["arm", "text", "ended by"].map(|name| format!("<th scope=\"col\">{name}</th>")).concat();
        format!(
            "<h3>{}</h3>\n<div class=\"scroll\"><table class=\"facts\">\n<thead><tr>{names}</tr></thead>\n<tbody>\n{prompt}{arms}</tbody>\n\
             </table></div>\n",
            html(&side.heading())
        )
    };
    sides.iter().map(block).collect()
}

impl Side {
    fn heading(&self) -> String {
        format!("{}, prompt {}", self.task, head(&self.prompt).replace('\n', " "))
    }
}

/// A text with its line breaks, escaped by `escape`.
fn shown(text: &str, escape: fn(&str) -> String) -> String {
    match text {
        "" => "<em>nothing</em>".into(),
        text => text.split('\n').map(|line| escape(line.trim_end_matches('\r'))).collect::<Vec<_>>().join("<br>"),
    }
}

/// The beginning of `text`.
fn head(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let kept: String = lines[..lines.len().min(LINES)].join("\n").chars().take(CHARACTERS).collect();
    if kept.len() < text.len() { kept + "…" } else { kept }
}

/// The end of `text`: the shots of a prompt come before what is asked.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
    let kept: String = last.chars().skip(last.chars().count().saturating_sub(CHARACTERS)).collect();
    if kept.len() < text.len() { format!("…{kept}") } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand.
    #[test]
    fn long_texts_are_cut_at_the_end_and_long_prompts_at_the_beginning() {
        let long = "é".repeat(CHARACTERS + 1);
        assert_eq!(head(&long), format!("{}…", "é".repeat(CHARACTERS)));
        assert_eq!(tail(&long), format!("…{}", "é".repeat(CHARACTERS)));
        assert_eq!((head("a\nb"), tail("a\nb")), ("a\nb".into(), "a\nb".into()));
        let lines: Vec<String> = (0..10).map(|line| line.to_string()).collect();
        assert_eq!(
            (head(&lines.join("\n")), tail(&lines.join("\n"))),
            ("0\n1\n2\n3\n4\n5\n6\n7…".into(), "…2\n3\n4\n5\n6\n7\n8\n9".into())
        );
    }
}
