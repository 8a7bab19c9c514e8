//! `hydrometer quote`: the numbers that a text quotes, written into it from the frames.

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
    /// Markdown files with marked quotes: see docs/quotes.md.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write nothing; end with 4 where a quote is not what the frames give.
    #[arg(long)]
    check: bool,
    /// Where the results of the experiments are.
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
        // Of a text with a wrong marker it is not known what it means to quote.
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
                terminal::json(&json!({ "files": all.iter().map(|(file, _, filled)| told(file, filled)).collect::<Vec<_>>() }))
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
            (0, ..) => "all as the frames give".to_string(),
            (count, true, _) => format!("{count} to be written once the markers are right"),
            (count, false, true) => format!("{count} not what the frames give; `hydrometer quote {file}` writes them"),
            (count, false, false) => format!("{count} written"),
        };
        say!("{file}: {} quotes, {done}", filled.quotes);
    }
}

fn told(file: &Path, filled: &Filled) -> Value {
    json!({ "file": file, "quotes": filled.quotes, "changes": filled.changes, "faults": filled.faults })
}
