//! Quotes that take lines of their own: a table, a figure, sentences.

use std::path::Path;

use hydrometer_base::text::capital;
use hydrometer_base::units::{fixed, markdown};
use hydrometer_record::metric::Metric;
use serde_json::Value;

use super::material::{MarkerError, Material, link};
use super::{input, plot, verdict};
use crate::cell::LEVEL;

/// The kinds, for the message about an unknown one.
const KINDS: &str = "table: COLUMNS, facets: NUMBER, sentences, claims and figure: PLOT";

type Lines = std::result::Result<String, MarkerError>;

/// A block of `kind` about `argument`, for the text in `file`.
pub fn block(material: &Material, kind: &str, argument: &str, file: &Path) -> Lines {
    match kind {
        "table" => table(material, argument),
        "facets" => facets(material, argument),
        "sentences" => Ok(list(verdict::sentences(&material.comparison))),
        "claims" => claims(material),
        "figure" => figure(material, argument, file),
        _ => Err(MarkerError::wrong(format!("there is no block `{kind}`; there are {KINDS}"))),
    }
}

fn list(sentences: Vec<String>) -> String {
    sentences.iter().map(|sentence| format!("- {}\n", markdown(sentence))).collect()
}

/// `columns` of every cell, with the arm's name first; then of the teachers and the unigram baseline.
fn table(material: &Material, columns: &str) -> Lines {
    let numbers = &material.numbers;
    let columns: Vec<&str> = columns.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let nodes =
        || ["cells", "references"].into_iter().filter_map(|kind| numbers[kind].as_object()).flatten().map(|(_, node)| node);
    if columns.is_empty() {
        return Err(MarkerError::wrong("a table needs columns: `EXPERIMENT table: perplexity, percent`"));
    }
    if let Some(unknown) = columns.iter().find(|column| nodes().all(|node| cell(node, column).is_none())) {
        return Err(MarkerError::wrong(format!("no arm of {} has a `{unknown}`", material.comparison.experiment)));
    }
    let reference = &material.comparison.reference;
    let head = std::iter::once("arm".to_string()).chain(columns.iter().map(|column| title(column, reference)));
    let mut lines = row(head) + "|:--|" + &columns.iter().map(|column| rule(column)).collect::<String>() + "\n";
    let texts = |name: &str, node: &Value| {
        let cells = columns.iter().map(|column| cell(node, column).unwrap_or_default());
        row(std::iter::once(name.to_string()).chain(cells).map(|text| markdown(&text)))
    };
    for (facet, cells) in material.comparison.facets() {
        if !facet.is_empty() {
            let empty = columns.iter().map(|_| String::new());
            lines += &row(std::iter::once(format!("**{}**", markdown(&facet))).chain(empty));
        }
        lines.extend(cells.iter().map(|cell| texts(&cell.arm, &numbers["cells"][&cell.label])));
    }
    for one in &material.comparison.references {
        let name = super::table::title(one);
        lines += &texts(&name, &numbers["references"][&name]);
    }
    Ok(lines)
}

/// One number of every arm, one column per facet; bold if it differs significantly from the reference after Holm's correction.
fn facets(material: &Material, number: &str) -> Lines {
    let (numbers, comparison) = (&material.numbers, &material.comparison);
    let facets = comparison.facets();
    let mut arms: Vec<(&str, &str)> = Vec::new();
    for one in facets.iter().flat_map(|(_, cells)| cells) {
        let there = cell(&numbers["cells"][&one.label], number).is_some();
        if there && !arms.iter().any(|(arm, _)| *arm == one.arm) {
            arms.push((&one.arm, numbers["cells"][&one.label]["objective"].as_str().unwrap_or_default()));
        }
    }
    if arms.is_empty() {
        return Err(MarkerError::wrong(format!("no arm of {} has a `{number}`", comparison.experiment)));
    }
    let head = ["arm", "objective"].into_iter().map(String::from).chain(facets.iter().map(|(name, _)| markdown(name)));
    let mut lines = row(head) + "|:--|:--|" + &"--:|".repeat(facets.len()) + "\n";
    for (arm, objective) in arms {
        let told = facets.iter().map(|(_, cells)| {
            let Some(one) = cells.iter().find(|one| one.arm == arm) else { return String::new() };
            let node = &numbers["cells"][&one.label];
            let text = markdown(&cell(node, number).unwrap_or_default());
            let apart = matches!(node["verdict_holm"].as_str(), Some("lower" | "higher"));
            if apart && !text.is_empty() { format!("**{text}**") } else { text }
        });
        lines += &row([markdown(arm), markdown(objective)].into_iter().chain(told));
    }
    let counted = &numbers["comparisons"];
    let reference = markdown(&comparison.reference);
    Ok(lines
        + &format!(
            "\n{}: {} seeds. Bold: different from {reference} at the {}% level with all {counted} comparisons counted (Holm).\n",
            capital(&title(number, &comparison.reference)),
            comparison.cells.iter().map(|cell| cell.seeds.len()).max().unwrap_or_default(),
            fixed(100.0 - LEVEL * 100.0, 0)
        ))
}

/// One line per claim, in the order of the experiment file: the verdict, then the claim.
fn claims(material: &Material) -> Lines {
    let experiment = &material.comparison.experiment;
    let none = || MarkerError::wrong(format!("{experiment} has no claims"));
    let text = material.claims.as_deref().ok_or_else(none)?;
    let file: Value =
        serde_json::from_str(text).map_err(|error| MarkerError::wrong(format!("{experiment}: claims.json: {error}")))?;
    let line = |claim: &Value| {
        let field = |name: &str| claim[name].as_str().unwrap_or_default();
        let alone = if field("verdict") == field("verdict_holm") {
            String::new()
        } else {
            format!(" With all claims counted (Holm): {}.", field("verdict_holm"))
        };
        let says = field("says").trim_end_matches('.');
        format!("- **{}:** {}.{alone}\n", capital(field("verdict")), markdown(says))
    };
    Ok(file["claims"].as_array().ok_or_else(none)?.iter().map(line).collect())
}

fn figure(material: &Material, name: &str, file: &Path) -> Lines {
    let Material { results, comparison, folder, .. } = material;
    let wrong = |error: anyhow::Error| MarkerError::wrong(format!("{error:#}"));
    let input = input::read(&results.frames).map_err(wrong)?;
    let plots = plot::all(&input, comparison, &results.provenance).map_err(wrong)?;
    let Some(plot) = plots.iter().find(|plot| plot.name == name) else {
        let names: Vec<String> = plots.iter().map(|plot| format!("`{}`", plot.name)).collect();
        return Err(MarkerError::wrong(format!("{} has no plot `{name}`; it has {}", comparison.experiment, names.join(", "))));
    };
    let folder = link(file, folder).map_err(wrong)?;
    Ok(format!("![{}]({folder}/plots/{name}.png)\n", markdown(&plot.title)))
}

/// The text of a row in a column; nats have their interval, which decides.
fn cell(node: &Value, column: &str) -> Option<String> {
    if let (Some(runs), "runs") = (node["runs"].as_object(), column) {
        let total: u64 = runs.values().filter_map(Value::as_u64).sum();
        return Some(format!("{} of {total}", node["runs"]["finished"]));
    }
    let number = &node["numbers"][column];
    let Some(text) = number["text"].as_str() else { return node[column].as_str().map(String::from) };
    match (column, number["low"]["text"].as_str(), number["high"]["text"].as_str()) {
        ("nats", Some(low), Some(high)) => Some(format!("{text} [{low}, {high}]")),
        _ => Some(text.to_string()),
    }
}

fn title(column: &str, reference: &str) -> String {
    match column {
        "runs" => "finished runs".into(),
        "percent" => format!("perplexity against {}", markdown(reference)),
        "nats" => format!("Δ nats per token, {}% interval", fixed(LEVEL * 100.0, 0)),
        _ => Metric::named(column).map_or_else(|| column.replace('_', " "), |metric| metric.item().heading.into()),
    }
}

/// Aligns words left and numbers right.
fn rule(column: &str) -> &'static str {
    if ["objective", "verdict", "verdict_holm"].contains(&column) { ":--|" } else { "--:|" }
}

fn row(texts: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", texts.collect::<Vec<_>>().join(" | "))
}
