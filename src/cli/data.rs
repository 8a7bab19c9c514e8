//! `hydrometer data`: what a file of data holds, line by line, before anything is trained on it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::Output;
use crate::data::corpus::{Reader, detect};
use crate::data::damage::OnBadLine;
use crate::data::example::Piece;
use crate::data::format::{Format, Keys};
use crate::{say, terminal, user_error};

#[derive(Args, Debug)]
pub struct Data {
    /// A file, or a folder of files; .gz and .zst are unpacked.
    path: PathBuf,
    /// The format [default: what the first line tells].
    #[arg(long, value_parser = PossibleValuesParser::new(Format::ALL.iter().map(|format| format.name())))]
    format: Option<String>,
    /// Stop at a damaged line, or skip and count it.
    #[arg(long, default_value = "stop", value_parser = PossibleValuesParser::new(OnBadLine::NAMES))]
    on_bad_line: String,
    /// The key of the text that is read, where the format's own is not it.
    #[arg(long, value_name = "KEY")]
    source_key: Option<String>,
    /// The key of the text that is learned.
    #[arg(long, value_name = "KEY")]
    target_key: Option<String>,
}

impl Data {
    /// Reads the file to its end. Nothing of it is kept.
    pub fn run(self, output: Output) -> Result<ExitCode> {
        if !self.path.exists() {
            return Err(user_error!("there is no file {}", self.path.display()));
        }
        let format = match self.format.as_deref().and_then(Format::named) {
            Some(format) => format,
            None => detect(&self.path)?,
        };
        let keys = Keys { source: self.source_key, target: self.target_key };
        let policy = OnBadLine::named(&self.on_bad_line).unwrap_or_default();
        let mut reader = Reader::new(&self.path, format, keys, policy)?;
        let (mut examples, mut sources, mut bytes, mut rows, mut entries) = (0u64, 0u64, 0u64, 0u64, 0u64);
        while let Some(example) = reader.next_example()? {
            examples += 1;
            sources += u64::from(example.source.is_some());
            bytes += example.source.iter().chain(&example.target).map(text_bytes).sum::<u64>();
            for row in example.answers.iter().flat_map(|answers| answers.rows.iter().flatten()) {
                rows += 1;
                entries += row.len() as u64;
            }
        }
        let tally = &reader.tally;
        if output == Output::Json {
            terminal::json(&json!({
                "format": format.name(),
                "lines": tally.lines,
                "bad_lines": tally.bad_lines(),
                "bad": tally.bad,
                "first_bad": tally.first,
                "examples": examples,
                "with_source": sources,
                "text_bytes": bytes,
                "answer_rows": rows,
                "answer_ids": entries,
            }));
            return Ok(ExitCode::SUCCESS);
        }
        say!("{}: {}", self.path.display(), format.name());
        say!("{examples} examples of {} lines, {sources} with a source, {bytes} bytes of text", tally.lines);
        if rows > 0 {
            say!("{rows} rows of a teacher's answers, {:.1} ids a row", entries as f64 / rows as f64);
        }
        if let Some(words) = tally.words() {
            say!("{words}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text_bytes(piece: &Piece) -> u64 {
    match piece {
        Piece::Text(text) => text.len() as u64,
        Piece::Tokens(tokens) => tokens.iter().filter_map(|token| token.text.as_ref()).map(|text| text.len() as u64).sum(),
    }
}
