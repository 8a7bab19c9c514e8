//! `hydrometer data`: checks and summarises a data file before anything is trained on it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::user_error;
use hydrometer_data::example::Segment;
use hydrometer_data::format::{Format, Keys};
use serde_json::json;

use super::data_flags::{DataFlags, counts, need_some, with};
use super::{Output, terminal};
use crate::say;

#[derive(Args, Debug)]
pub struct Data {
    /// A file, or a folder of files; gzip and zstd are decompressed.
    path: PathBuf,
    #[command(flatten)]
    reading: DataFlags,
    /// The key of the source text, if it differs from the format's own.
    #[arg(long, value_name = "KEY")]
    source_key: Option<String>,
    /// The key of the target text, if it differs from the format's own.
    #[arg(long, value_name = "KEY")]
    target_key: Option<String>,
}

impl Data {
    /// Reads the data to its end and prints a summary. Nothing is stored.
    pub fn run(self, output: Output) -> Result<ExitCode> {
        let keys = Keys { source: self.source_key, target: self.target_key };
        let (source, target) = (keys.source.is_some(), keys.target.is_some());
        let (mut reader, format) = self.reading.examples(&self.path, keys)?;
        let unused = match format {
            _ if source && format.is_plain() => Some("--source-key"),
            Format::Generated if source => Some("--source-key"),
            Format::OpenAi | Format::Vllm | Format::Generated if target => Some("--target-key"),
            _ => None,
        };
        if let Some(flag) = unused {
            return Err(user_error!("{flag} does not apply to {}; leave it out, or name the --format", format.name()));
        }
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
        need_some(examples, &self.path, tally)?;
        if output == Output::Json {
            let found = json!({
                "format": format.name(),
                "examples": examples,
                "with_source": sources,
                "text_bytes": bytes,
                "answer_rows": rows,
                "answer_ids": entries,
            });
            terminal::json(&with(found, counts(tally)));
            return Ok(ExitCode::SUCCESS);
        }
        say!("{}: {}", self.path.display(), format.name());
        say!("{examples} examples of {} lines, {sources} with a source, {bytes} bytes of text", tally.lines);
        if rows > 0 {
            say!("{rows} rows of teacher targets, {:.1} ids per row", entries as f64 / rows as f64);
        }
        if let Some(words) = tally.words() {
            say!("{words}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text_bytes(piece: &Segment) -> u64 {
    match piece {
        Segment::Text(text) => text.len() as u64,
        Segment::Tokens(tokens) => tokens.iter().filter_map(|token| token.text.as_ref()).map(|text| text.len() as u64).sum(),
    }
}
