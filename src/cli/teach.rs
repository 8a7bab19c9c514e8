//! `hydrometer teach`: builds, inspects and exports teacher caches.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hydrometer_base::fs::{replace_file, sha256_file};
use hydrometer_base::text::number;
use hydrometer_base::user_error;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokenizer;
use hydrometer_torch::dist::{Mesh, launch};
use hydrometer_torch::model::{Precision, hf};
use hydrometer_torch::objective::{TEMPERATURES, TEMPERATURES_WORDS};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::data_flags::DataFlags;
use super::describe_cache::{describe, show};
use super::eval::{Text, precision};
use super::teach_endpoint::{Ask, AskedEndpoint};
use super::{Output, place, terminal};
use crate::say;
use crate::sweep::worker;
use crate::teacher::build_cache::TeacherPass;
use crate::teacher::cache::Cache;
use crate::teacher::export;
use crate::teacher::inspect::{Inspection, compare, inspect};
use crate::teacher::manifest::{self, CacheManifest};
use crate::teacher::source::Source;
use crate::teacher::target_spec::TargetSpec;
use crate::train::recipe::{StartRecipe, checkpoint_identity};

/// Longest default context.
const CONTEXT: usize = 512;

#[derive(Args, Debug)]
pub struct Teach {
    /// A folder with config.json, safetensors and tokenizer.json. With --inspect and --export: the teacher's folder, if moved.
    #[arg(long, value_name = "HF_DIR")]
    model: Option<PathBuf>,
    /// Plain text, or JSON lines with a "text" field, optionally compressed by gzip or zstd; or a folder of such files. With --ask
    /// complete and --ask chat: prompts in any format.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: DataFlags,
    /// Number of most likely ids to store for every token.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Number of ids to draw from the full distribution of every token, for tail "sampled".
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    draws: Option<u32>,
    /// Temperatures at which log-probabilities are stored exactly and ids are drawn [default: 1].
    #[arg(long, value_name = "T,T", value_delimiter = ',')]
    temperatures: Vec<f64>,
    /// Maximum sequence length in tokens; longer documents are cut [default: 512, or the model's positions if fewer].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// The cache's folder, new or to be extended; with --export, the file to write [default: standard output].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Describe the cache in DIR: bytes per token, retained mass by k, agreement with a second pass of its teacher.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "format", "on_bad_line", "top_k", "draws", "temperatures", "context", "out"])]
    inspect: Option<PathBuf>,
    /// Approximate number of tokens of that second pass; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    sample: usize,
    /// Export the cache in --cache.
    #[arg(long, value_enum, requires = "cache", conflicts_with_all = ["inspect", "data", "format", "on_bad_line", "top_k", "draws", "temperatures", "context"])]
    export: Option<Format>,
    /// The cache that --export reads.
    #[arg(long, value_name = "DIR", requires = "export")]
    cache: Option<PathBuf>,
    /// Tensor-parallel ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tp: u32,
    /// Number format: f32 or bf16.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// Device: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object per document, in the format of metaseq's distillation tasks.
    MetaseqJsonl,
    /// One row per token.
    Parquet,
}

impl Teach {
    pub fn run(self, output: Output) -> Result<ExitCode> {
        match (&self.inspect, self.export, &self.cache) {
            (Some(folder), ..) => self.inspect(folder, output),
            (None, Some(format), Some(folder)) => self.export(format, folder, output),
            _ => self.teach(output),
        }
    }

    fn teach(&self, output: Output) -> Result<ExitCode> {
        let needed = |flag: &str| user_error!("teach needs {flag}; or --inspect DIR, or --export FORMAT --cache DIR");
        let data = self.data.as_ref().ok_or_else(|| needed("--data FILE"))?;
        let out = self.out.as_ref().ok_or_else(|| needed("--out DIR"))?;
        if self.ask.endpoint.is_some() {
            let top_k = self.top_k.ok_or_else(|| needed("--top-k K"))? as usize;
            if self.draws.is_some() || !self.temperatures.is_empty() {
                return Err(user_error!(
                    "an API returns its most likely tokens at temperature 1; leave out --draws and --temperatures"
                ));
            }
            let (model, context) = (self.model.as_deref(), self.context.map_or(CONTEXT, |n| n as usize));
            return self.ask.run(&AskedEndpoint { model, data, reading: &self.reading, out, top_k, context }, output);
        }
        let model = self.model.as_ref().ok_or_else(|| needed("--model HF_DIR, or --endpoint URL"))?;
        if let Some(here) = std::env::current_dir().ok().filter(|here| here.to_str().is_none()) {
            return Err(user_error!(
                "the working folder {here:?} is not UTF-8, but a cache must record where its teacher is; use another folder"
            ));
        }
        let device = worker::device(&self.device)?;
        let checkpoint = hf::open(model)?;
        let kept = self.kept(checkpoint.config.vocab_size)?;
        let context = self.context.map_or_else(|| checkpoint.longest_context().min(CONTEXT), |n| n as usize);
        checkpoint.check_use(self.tp as usize, context)?;
        let (split, tally) = Text { data, reading: &self.reading }.split(&checkpoint)?;
        let title = title_of(&checkpoint, self.precision, kept)?;
        if !launch::is_rank() {
            place::folder(out, "cache", "--out DIR")?;
        }
        if out.join(manifest::FILE).exists() {
            title.check(&CacheManifest::read(out)?, out)?;
        }
        if let Some(ended) = self.ranks()? {
            return Ok(ended);
        }

        let mesh = Mesh::from_env(self.tp as usize, 1, device)?;
        let decoder = checkpoint.decoder(context, self.precision.kind(), &mesh)?;
        let pass = TeacherPass { decoder: &decoder, title: &title, context, mesh: &mesh };
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} tokens, {eta} left")?);
        pass.teach(&split, &sequences(&split, context), out, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            Ok(true)
        })?;
        bar.finish_and_clear();
        if mesh.is_first() {
            Source::new(model, data, self.precision, context).add(out, &split)?;
            describe(out, &title, (&split, &tally), context, output)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn inspect(&self, folder: &Path, output: Output) -> Result<ExitCode> {
        let device = worker::device(&self.device)?;
        let title = CacheManifest::read(folder)?;
        let sources = Source::all(folder)?;
        let cache = Cache::open(folder, &title)?;
        // A second pass of a teacher behind an API would cost money.
        let here = sources.last().filter(|source| source.endpoint.is_none());
        let teacher = here.map(|source| self.teacher(source, &title)).transpose();
        let teacher = if self.sample == 0 { None } else { teacher? };
        if teacher.is_some()
            && let Some(ended) = self.ranks()?
        {
            return Ok(ended);
        }
        let mut found = Inspection::default();
        let mesh = Mesh::from_env(if teacher.is_some() { self.tp as usize } else { 1 }, 1, device)?;
        for source in &sources {
            inspect(&cache, &source.split(folder)?, source.context, &mut found)?;
        }
        found.bytes = cache.bytes;
        found.bytes_per_token = cache.bytes as f64 / cache.targets().max(1) as f64;
        if let (Some(checkpoint), Some(source)) = (&teacher, sources.last()) {
            checkpoint.check_use(self.tp as usize, source.context)?;
            let decoder = checkpoint.decoder(source.context, source.precision.kind(), &mesh)?;
            let pass = TeacherPass { decoder: &decoder, title: &title, context: source.context, mesh: &mesh };
            found.agreement = Some(compare(&cache, &source.split(folder)?, &pass, self.sample)?);
        }
        if mesh.is_first() {
            show(&found, &title, folder, Value::Null, output)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Opens the checkpoint that the cache was made from, in --model or in the folder of `source`. A user error if it is missing
    /// or its content differs from `wanted`.
    fn teacher(&self, source: &Source, wanted: &CacheManifest) -> Result<hf::Checkpoint> {
        let folder = self.model.as_ref().unwrap_or(&source.model);
        if !folder.exists() {
            let at = folder.display();
            return Err(user_error!(
                "the teacher is no longer at {at}; pass --model HF_DIR, or --sample 0 to skip the second pass"
            ));
        }
        let checkpoint = hf::open(folder)?;
        wanted.check(&title_of(&checkpoint, source.precision, wanted.kept.clone())?, folder)?;
        Ok(checkpoint)
    }

    fn export(&self, format: Format, folder: &Path, output: Output) -> Result<ExitCode> {
        match &self.out {
            Some(path) => place::file(path, "--out FILE")?,
            None if output == Output::Json => {
                return Err(user_error!(
                    "--output json describes the export, but the export itself goes to standard output; pass --out FILE"
                ));
            }
            None => {}
        }
        let title = CacheManifest::read(folder)?;
        let (sources, cache) = (Source::all(folder)?, Cache::open(folder, &title)?);
        let splits = sources.iter().map(|source| Ok((source.split(folder)?, source.context))).collect::<Result<Vec<_>>>()?;
        let write = |to: &mut (dyn Write + Send)| -> Result<()> {
            let mut to = BufWriter::new(to);
            match format {
                Format::Parquet => export::parquet(&cache, splits.iter().map(|(split, context)| (split, *context)), &mut to)?,
                Format::MetaseqJsonl => {
                    for ((split, context), source) in splits.iter().zip(&sources) {
                        let path = self.model.as_ref().unwrap_or(&source.model).join("tokenizer.json");
                        if !path.exists() || sha256_file(&path)? != title.tokenizer {
                            let at = path.display();
                            return Err(user_error!("{at} is not the tokenizer of this cache; pass --model HF_DIR"));
                        }
                        export::metaseq_jsonl(&cache, split, *context, &tokenizer::open(&path)?, &mut to)?;
                    }
                }
            }
            to.flush().context("cannot write the export")
        };
        let Some(path) = &self.out else {
            terminal::stream(write)?;
            return Ok(ExitCode::SUCCESS);
        };
        replace_file(path, |file: &mut File| write(file))?;
        let documents: usize = splits.iter().map(|(split, _)| split.len()).sum();
        let tokens: u64 = splits.iter().flat_map(|(split, context)| sequences(split, *context)).map(|s| s.counted() as u64).sum();
        match output {
            Output::Json => terminal::json(&json!({
                "file": path,
                "format": format.to_possible_value().map(|value| value.get_name().to_string()),
                "cache": folder,
                "documents": documents,
                "tokens": tokens,
            })),
            Output::Human => say!("{}: {tokens} tokens of {documents} documents", path.display()),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The targets to store, from the flags.
    fn kept(&self, vocab_size: usize) -> Result<TargetSpec> {
        let mut temperatures = if self.temperatures.is_empty() { vec![1.0] } else { self.temperatures.clone() };
        if let Some(wrong) = temperatures.iter().find(|t| !TEMPERATURES.contains(t)) {
            return Err(user_error!("--temperatures {}: a temperature is {TEMPERATURES_WORDS}", number(*wrong)));
        }
        temperatures.sort_by(f64::total_cmp);
        temperatures.dedup();
        let (top_k, draws) = (self.top_k.unwrap_or(0) as usize, self.draws.unwrap_or(0) as usize);
        if top_k > vocab_size {
            return Err(user_error!("--top-k {top_k} is larger than the vocabulary of {vocab_size}"));
        }
        if top_k + draws == 0 {
            return Err(user_error!("nothing would be stored; pass --top-k K or --draws N"));
        }
        let mut kept = TargetSpec::default();
        if draws > 0 {
            (kept.draws, kept.draw_temperatures) = (draws, temperatures.clone());
        }
        if top_k > 0 {
            if !temperatures.contains(&1.0) {
                temperatures.push(1.0);
                temperatures.sort_by(f64::total_cmp);
            }
            (kept.top_k, kept.temperatures) = (top_k, temperatures);
        }
        Ok(kept)
    }

    /// If --tp asks for several ranks and this process is not one of them, runs them and returns their exit code.
    fn ranks(&self) -> Result<Option<ExitCode>> {
        if self.tp == 1 || launch::is_rank() {
            return Ok(None);
        }
        let status = launch::ranks(self.tp as usize)?;
        Ok(Some(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))))
    }
}

/// The manifest of a cache of `checkpoint`'s targets.
fn title_of(checkpoint: &hf::Checkpoint, precision: Precision, kept: TargetSpec) -> Result<CacheManifest> {
    let start = StartRecipe { content: checkpoint.content()?, layers: None };
    let tokenizer = sha256_file(&checkpoint.tokenizer()?)?;
    Ok(CacheManifest::new(checkpoint_identity(&start, precision), tokenizer, checkpoint.config.vocab_size, kept))
}
