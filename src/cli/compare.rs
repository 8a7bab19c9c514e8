//! `hydrometer compare`: compares arms, from the frames alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hydrometer_base::units::{fixed, signed};
use hydrometer_base::user_error;
use hydrometer_record::checked::Checked;
use hydrometer_report::pooled::{Pooled, over_data, over_experiments, shared};
use hydrometer_report::table::csv::csv;
use hydrometer_report::table::document::{Language, document};
use hydrometer_report::{Cell, Comparison, comparison, table};
use serde_json::json;

use super::{Output, results_of, terminal};
use crate::{note, say};

#[derive(Args, Debug)]
pub struct Compare {
    /// Results folders, or experiment files that were run.
    #[arg(required = true, value_name = "RESULTS")]
    results: Vec<PathBuf>,
    /// The arm to compare with [default: the reference arm of the report].
    #[arg(long, value_name = "ARM")]
    to: Option<String>,
    /// Format of the tables. For all numbers as JSON, use `--output json` instead.
    #[arg(long, value_enum, default_value = "terminal")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// At most 110 columns, with a sentence on each arm's evidence.
    Terminal,
    /// As in report.md.
    Markdown,
    /// A `tabular` that uses the package booktabs.
    Latex,
    /// A `#table`.
    Typst,
    /// Unrounded numbers, one row per arm, with the ends of intervals in separate columns.
    Csv,
}

impl Compare {
    pub fn compare(&self, output: Output) -> Result<ExitCode> {
        if output == Output::Json && self.format != Format::Terminal {
            let format = self.format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
            return Err(user_error!(
                "--format {format} and --output json exclude each other; leave out one of them (--output json is the comparison as one \
                 JSON document)"
            ));
        }
        let (mut comparisons, mut changed_frames) = (Vec::new(), Vec::new());
        for path in &self.results {
            let folder = results_of(path)?;
            let results = Checked::read(&folder)?;
            if let Some(warning) = results.warning(&folder) {
                note!("{warning}");
            }
            let Checked { frames, mut provenance, changed } = results;
            changed_frames.push(json!({ "results": folder, "frames": changed }));
            if let Some(arm) = &self.to {
                provenance.reference = arm.clone();
            }
            let found = comparison(&frames, &provenance)?;
            if let Some(arm) = self.to.as_ref().filter(|arm| !found.cells.iter().any(|cell| cell.method == **arm)) {
                let mut arms: Vec<&str> = found.cells.iter().map(|cell| cell.method.as_str()).collect();
                arms.dedup();
                return Err(user_error!("--to {arm}: {} has no such arm; it has {}", folder.display(), arms.join(", ")));
            }
            comparisons.push(found);
        }
        let mut pooled: Vec<Pooled> = comparisons.iter().flat_map(over_data).collect();
        pooled.extend(over_experiments(&comparisons)?);
        shared(&comparisons).iter().for_each(|sentence| note!("{sentence}"));
        match output {
            Output::Json => {
                terminal::json(&json!({ "comparisons": comparisons, "pooled": pooled, "changed_frames": changed_frames }))
            }
            Output::Human if self.format != Format::Terminal => {
                let text = match self.format {
                    Format::Latex => document(&comparisons, &pooled, Language::Latex),
                    Format::Typst => document(&comparisons, &pooled, Language::Typst),
                    Format::Csv => csv(&comparisons, &pooled),
                    Format::Markdown | Format::Terminal => document(&comparisons, &pooled, Language::Markdown),
                };
                terminal::block(text.trim_end_matches('\n'));
            }
            Output::Human => {
                for (at, found) in comparisons.iter().enumerate() {
                    if at > 0 {
                        say!("");
                    }
                    say!("{}", found.experiment);
                    terminal::block(&table::terminal(found));
                    found.cells.iter().filter_map(|cell| evidence(cell, found)).for_each(|line| say!("{line}"));
                }
                pooled.iter().for_each(|one| say!("{}", sentence(one)));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A sentence on the statistical evidence of a cell.
fn evidence(cell: &Cell, comparison: &Comparison) -> Option<String> {
    let found = cell.difference.as_ref()?.nll?;
    let needed = match found.seeds_needed {
        Some(seeds) => format!("{seeds} seeds would"),
        None => "no number of seeds would, the documents vary too much".to_string(),
    };
    Some(format!(
        "{}: a seed ends below one of {} with probability {}; {} seeds show {} nats four times out of five, and to show the {} found, {needed}",
        cell.label,
        comparison.reference,
        fixed(found.probability_of_superiority, 2),
        found.seeds,
        fixed(found.minimum_detectable_effect, 3),
        fixed(found.mean.abs(), 3),
    ))
}

fn sentence(one: &Pooled) -> String {
    let interval = one.nll.low.zip(one.nll.high);
    let interval = interval.map_or("one seed gives no interval".to_string(), |(low, high)| {
        format!("95% interval {} to {}", signed(low, 3), signed(high, 3))
    });
    let at = if one.at.is_empty() { String::new() } else { format!(" at {}", one.at) };
    let (arm, mean, seeds) = (&one.arm, signed(one.nll.mean, 3), one.nll.n);
    format!("{arm}{at}: interquartile mean over {}: {mean} nats per token ({interval}, {seeds} seeds)", one.sets.join(", "))
}
