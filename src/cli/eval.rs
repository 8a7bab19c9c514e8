//! `hydrometer eval`: evaluates a checkpoint on text.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::user_error;
use hydrometer_data::line_error::Tally;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_data::{corpus, tokenizer};
use hydrometer_record::metric::{Item, Unit};
use hydrometer_torch::dist::{Mesh, launch};
use hydrometer_torch::model::{Precision, hf};
use serde_json::json;

use super::data_flags::{DataFlags, counts, need_some, with};
use super::{Output, terminal};
use crate::eval::perplexity::evaluate_rows;
use crate::eval::windows::windows;
use crate::sweep::worker;
use crate::{note, say};

/// Longest default context.
const CONTEXT: usize = 1024;

#[derive(Args, Debug)]
pub struct Eval {
    /// A folder with config.json, safetensors and tokenizer.json.
    #[arg(long, value_name = "HF_DIR")]
    model: PathBuf,
    /// Plain text, or JSON lines with a "text" field, optionally compressed by gzip or zstd; or a folder of such files.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    reading: DataFlags,
    /// Maximum number of tokens the model reads at once [default: 1024, or the model's positions if fewer].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Tokens from the start of one window to the next; less than the context makes windows overlap [default: the context].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Tensor-parallel ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tp: u32,
    /// Number format: f32 or bf16.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// Device: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
}

pub fn precision(name: &str) -> Result<Precision, String> {
    Precision::named(name).ok_or_else(|| format!("use {}", Precision::NAMES.join(" or ")))
}

impl Eval {
    pub fn run(self, output: Output) -> Result<ExitCode> {
        let tp = self.tp as usize;
        let device = worker::device(&self.device)?;
        let checkpoint = hf::open(&self.model)?;
        let context = self.context.map_or_else(|| checkpoint.longest_context().min(CONTEXT), |n| n as usize);
        let stride = self.stride.map_or(context, |n| n as usize);
        checkpoint.check_use(tp, context)?;
        if stride > context {
            return Err(user_error!("--stride {stride} is larger than the context of {context}: some tokens would be left out"));
        }
        let (split, tally) = Text { data: &self.data, reading: &self.reading }.split(&checkpoint)?;
        if tp > 1 && !launch::is_rank() {
            // The input has been checked; the ranks read it again.
            let status = launch::ranks(tp)?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }

        let mesh = Mesh::from_env(tp, 1, device)?;
        let decoder = checkpoint.decoder(context, self.precision.kind(), &mesh)?;
        let rows = windows(&split, context, stride);
        let found = evaluate_rows(&decoder, checkpoint.config.vocab_size, &split, &rows, context, &mesh)?;
        let nll = found.nll();
        if !nll.is_finite() {
            let cure = if self.precision == Precision::F32 { "" } else { "; try --precision f32" };
            return Err(user_error!("{}: the NLL is {nll}: the model's activations overflow{cure}", self.model.display()));
        }
        if mesh.is_first() {
            if let Some(words) = tally.words() {
                note!("{words}");
            }
            let scores = found.scores().with_derived();
            let (tokens, documents) = (found.tokens(), found.documents.len());
            match output {
                Output::Json => {
                    let mut found = json!({ "tokens": tokens, "documents": documents });
                    scores.there().for_each(|(metric, value)| found[metric.name()] = json!(value));
                    terminal::json(&with(found, counts(&tally)));
                }
                Output::Human => {
                    say!("{tokens} tokens predicted in {documents} documents");
                    for (metric, value) in scores.there() {
                        let Item { heading, unit, eval_decimals, .. } = metric.item();
                        let after = if *unit == Unit::NatsPerToken { " nats per token" } else { unit.sign() };
                        say!("{heading:<14} {:.eval_decimals$}{after}", unit.factor() * value);
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A text to tokenise.
pub struct Text<'a> {
    pub data: &'a Path,
    pub reading: &'a DataFlags,
}

impl Text<'_> {
    /// The documents in the tokens of `checkpoint`, and a tally of the lines that were read and left out.
    pub fn split(&self, checkpoint: &hf::Checkpoint) -> Result<(TokenizedSplit, Tally)> {
        self.encode(&checkpoint.tokenizer()?, checkpoint.config.vocab_size)
    }

    /// Like [`Self::split`], with the `tokenizer.json` at `path`. A user error if no document has a token to predict.
    pub fn encode(&self, path: &Path, vocab_size: usize) -> Result<(TokenizedSplit, Tally)> {
        let mut reader = self.reading.documents(self.data)?;
        let documents = corpus::documents(&mut reader)?;
        need_some(documents.len() as u64, self.data, &reader.tally)?;
        let split = TokenizedSplit::encode(documents, &tokenizer::open(path)?, vocab_size);
        let split = split.map_err(|error| error.context(path.display().to_string()))?;
        if split.is_empty() {
            return Err(user_error!("{}: no document has a token to predict", self.data.display()));
        }
        Ok((split, reader.tally))
    }
}
