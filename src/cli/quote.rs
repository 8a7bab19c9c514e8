//! `hydrometer quote`: updates the numbers that a Markdown file quotes from the frames.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::user_error;
use hydrometer_report::quote::{Filled, Results, fill};
use serde_json::{Value, json};

use super::{Output, REFUTED, terminal};
use crate::{note, say};

#[derive(Args, Debug)]
pub struct Quote {
    /// Markdown files with marked quotes; see docs/quotes.md.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write nothing; exit with code 4 if a quote differs from the frames.
    #[arg(long)]
    check: bool,
    /// The folder with the results of the experiments.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

impl Quote {
    pub fn quote(&self, output: Output) -> Result<ExitCode> {
        let mut results = Results::of(&self.results);
        let mut all: Vec<(&PathBuf, String, Filled)> = Vec::new();
        for file in &self.files {
            let text = std::fs::read_to_string(file).map_err(|error| user_error!("cannot read {}: {error}", file.display()))?;
            let filled = fill(&text, file, &mut results);
            all.push((file, text, filled));
        }
        for (file, _, filled) in &all {
            filled.faults.iter().for_each(|placed| note!("{}:{}: {}", file.display(), placed.line, placed.fault.reason));
        }
        let faults = || all.iter().flat_map(|(_, _, filled)| &filled.faults);
        // If a marker is invalid, it is unclear what the text quotes, so nothing is written.
        let wrong = faults().any(|placed| !placed.fault.contradicted);
        if !self.check && !wrong {
            for (file, text, filled) in all.iter().filter(|(_, text, filled)| *text != filled.text) {
                replace_bytes(file, filled.text.as_bytes()).map_err(|error| {
                    user_error!("cannot write {} ({} bytes): {error:#}; make the file writable", file.display(), text.len())
                })?;
            }
        }
        match output {
            Output::Json => {
                terminal::json(&json!({ "files": all.iter().map(|(file, _, filled)| summary(file, filled)).collect::<Vec<_>>() }))
            }
            Output::Human => all.iter().for_each(|(file, _, filled)| self.say(file, filled, wrong)),
        }
        let changed = all.iter().any(|(_, _, filled)| !filled.changes.is_empty());
        Ok(match (wrong, faults().next().is_some() || (self.check && changed)) {
            (true, _) => ExitCode::from(2),
            (false, true) => ExitCode::from(REFUTED),
            (false, false) => ExitCode::SUCCESS,
        })
    }

    fn say(&self, file: &Path, filled: &Filled, wrong: bool) {
        let file = file.display();
        for change in &filled.changes {
            let (line, quote, found, given) = (change.line, &change.quote, &change.found, &change.given);
            say!("{file}:{line}: {quote}: found {found:?}, the frames give {given:?}");
        }
        let done = match (filled.changes.len(), wrong, self.check) {
            (0, ..) => "all agree with the frames".to_string(),
            (count, true, _) => format!("{count} to be updated once the markers are valid"),
            (count, false, true) => format!("{count} differ from the frames; `hydrometer quote {file}` updates them"),
            (count, false, false) => format!("{count} updated"),
        };
        say!("{file}: {} quotes, {done}", filled.quotes);
    }
}

fn summary(file: &Path, filled: &Filled) -> Value {
    json!({ "file": file, "quotes": filled.quotes, "changes": filled.changes, "faults": filled.faults })
}
