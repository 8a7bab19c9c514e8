//! Flags for reading data files, and the counts of lines that were left out.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use hydrometer_base::user_error;
use hydrometer_data::corpus::Reader;
use hydrometer_data::cure::Says;
use hydrometer_data::format::{Format, Keys};
use hydrometer_data::line_error::{OnBadLine, Tally};
use hydrometer_data::survey::{Survey, Wanted};
use serde_json::{Value, json};

#[derive(Args, Debug)]
pub struct DataFlags {
    /// Format of the data [default: detected from its content].
    #[arg(long, value_parser = PossibleValuesParser::new(Format::ALL.iter().map(|format| format.name())))]
    format: Option<String>,
    /// Stop at a damaged line, or skip and count it [default: stop].
    #[arg(long, value_parser = PossibleValuesParser::new(OnBadLine::NAMES))]
    on_bad_line: Option<String>,
}

impl DataFlags {
    /// Opens the data at `path`; returns a reader and the format.
    pub fn examples(&self, path: &Path, keys: Keys) -> Result<(Reader, Format)> {
        self.reader(path, self.format().map_or(Wanted::Any, Wanted::Named), keys)
    }

    /// Opens the plain documents at `path`. A user error if --format names another kind of data.
    pub fn documents(&self, path: &Path) -> Result<Reader> {
        let wanted = match self.format() {
            None => Wanted::Documents,
            Some(format) if format.is_plain() => Wanted::Named(format),
            Some(format) => {
                return Err(user_error!(
                    "--format {}: only plain documents can be read here; use --format text or --format jsonl",
                    format.name()
                ));
            }
        };
        Ok(self.reader(path, wanted, Keys::default())?.0)
    }

    fn reader(&self, path: &Path, wanted: Wanted, keys: Keys) -> Result<(Reader, Format)> {
        let policy = self.on_bad_line.as_deref().and_then(OnBadLine::named).unwrap_or_default();
        let survey = Survey::of(path, wanted, Says::Flags)?;
        let format = survey.format;
        Ok((Reader::of(path, survey, keys, policy, Says::Flags), format))
    }

    fn format(&self) -> Option<Format> {
        self.format.as_deref().and_then(Format::named)
    }
}

/// Refuses data from which nothing was read.
pub fn need_some(read: u64, path: &Path, tally: &Tally) -> Result<()> {
    if read > 0 {
        return Ok(());
    }
    let why = tally.words().map_or_else(String::new, |words| format!(": {words}"));
    Err(user_error!("{}: there is nothing to read{why}", path.display()))
}

/// The counts of lines read and left out, for JSON output.
pub fn counts(tally: &Tally) -> Value {
    json!({ "lines": tally.lines, "bad_lines": tally.bad_lines(), "bad": tally.bad, "first_bad": tally.first })
}

/// Adds the fields of `more` to those of `value`.
pub fn with(mut value: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    value
}
