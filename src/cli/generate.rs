//! `hydrometer generate`: writes texts after prompts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use hydrometer_base::fs::{sha256_file, sha256_hex};
use hydrometer_base::numerics::NUMERICS;
use hydrometer_base::user_error;
use hydrometer_data::prompt_file::{Prompt, PromptReader};
use hydrometer_data::template::Template;
use hydrometer_data::tokenizer;
use hydrometer_data::vocabulary::Vocabulary;
use hydrometer_torch::dist::{Mesh, launch};
use hydrometer_torch::generate::{Beams, Generator, Sampling, Written};
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::{TEMPERATURES, TEMPERATURES_WORDS};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

use super::eval::precision;
use super::generated_file::{GeneratedFile, resumable};
use super::generated_line::LineFormat;
use super::named_model::NamedModel;
use super::{Output, place, terminal};
use crate::say;
use crate::sweep::worker;

/// Most bytes of the keys and values of a batch, and most texts of a batch, unless --batch says otherwise.
const CACHE_BYTES: usize = 1 << 30;
const BATCH: usize = 32;
/// Texts that each data-parallel rank writes before the ranks gather what they have, in batches.
const ROUND: usize = 4;

#[derive(Args, Debug)]
pub struct Generate {
    /// A folder with config.json, safetensors and tokenizer.json; or a finished run: its folder, its id, or the beginning of its id.
    #[arg(long, value_name = "HF_DIR|RUN")]
    model: PathBuf,
    /// Prompts: plain text with one a line, or JSON lines with "prompt", "prompt_ids" or "messages", or with fields for --template.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The file to write: one line of JSON for each text, in the order of the prompts. The same command completes an unfinished one.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Texts to write after each prompt.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Draw from softmax(logits / T); 0 takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw only from the K likeliest tokens.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Draw only from the smallest set of likeliest tokens whose probabilities sum to P.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Beam search with B beams.
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..))]
    beams: Option<u32>,
    /// With --beams: texts are compared by the sum of their log-probabilities, divided by length^X [default: 1].
    #[arg(long, value_name = "X", requires = "beams")]
    length_penalty: Option<f64>,
    /// Most tokens of a text.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// A string that ends a text and is cut off from it; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// A Jinja template that makes a prompt of the fields of a line.
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Format of the lines.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: LineFormat,
    /// List the K likeliest tokens at each place of a text, with their log-probabilities.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_logprobs: Option<u32>,
    /// Seed of the samples.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Most texts that are written at a time; it changes no text [default: 32, or fewer for long texts of large models].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Where the run is, if --model names one.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Tensor-parallel ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tp: u32,
    /// Data-parallel ranks, which divide the prompts among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    dp: u32,
    /// Number format: f32 or bf16.
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// Device: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
}

impl Generate {
    pub fn run(self, output: Output) -> Result<ExitCode> {
        let (tp, dp) = (self.tp as usize, self.dp as usize);
        let device = worker::device(&self.device)?;
        let model = NamedModel::open(&self.model, &self.runs)?;
        let vocab_size = model.config.vocab_size;
        let (sampling, beams) = self.decoding(vocab_size)?;
        model.config.check(tp).map_err(|why| user_error!("{}: {why}; use another --tp", self.model.display()))?;
        let tokenizer = tokenizer::open(&model.tokenizer)?;
        let ends = model.ends(&tokenizer)?;
        let context = model.longest_context();
        let prompts = self.read(&model, &tokenizer)?;
        let identity = self.identity(&model, &prompts, sampling, beams)?;
        let total = prompts.len() * self.samples as usize;
        if !launch::is_rank() {
            place::file(&self.out, "--out FILE")?;
        }
        let done = resumable(&self.out, &identity)?.min(total);
        if tp * dp > 1 && !launch::is_rank() {
            // The input has been checked; the ranks read it again.
            let status = launch::ranks(tp * dp)?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)));
        }

        let mesh = Mesh::from_env(tp, dp, device)?;
        // Every rank has counted the lines that are there before the first one appends to them.
        mesh.world.barrier(mesh.device)?;
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        let room = longest.saturating_add(self.max_new_tokens as usize).min(context);
        let decoder = model.decoder(room, self.precision.kind(), &mesh)?;
        let bytes = model.config.cached_numbers_per_token(tp) * self.precision.bytes() * room;
        let generator = Generator {
            decoder: &decoder,
            tp: &mesh.tp,
            tokenizer: Some(&tokenizer),
            sampling,
            beams,
            ends: &ends,
            stops: &self.stop,
            max_new_tokens: self.max_new_tokens as usize,
            context,
            seed: self.seed,
            batch: self.batch.map_or_else(|| (CACHE_BYTES / bytes.max(1)).clamp(1, BATCH), |n| n as usize),
        };
        let lines = Lines { format: self.format, prompts: &prompts, tokenizer: &tokenizer };
        let summary = self.write(&generator, &ids, &lines, &mesh, (done, total), &identity)?;
        if mesh.is_first() {
            self.tell(&summary, prompts.len(), (done, total), output);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the texts after the first `done`.
    fn write(
        &self,
        generator: &Generator,
        ids: &[Vec<u32>],
        lines: &Lines,
        mesh: &Mesh,
        (done, total): (usize, usize),
        identity: &str,
    ) -> Result<Summary> {
        let samples = self.samples as usize;
        let text_of = |index: usize| (index / samples, index % samples);
        let mut file = mesh.is_first().then(|| GeneratedFile::open(&self.out, identity)).transpose()?;
        let bar = ProgressBar::new(total as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} texts, {eta} left")?);
        bar.set_position(done as u64);
        bar.reset_eta();
        let mut summary = Summary::default();
        let begun = Instant::now();
        let mut next = done;
        // With one rank, all texts are one round.
        let round = if mesh.dp.size == 1 { total } else { generator.batch * ROUND * mesh.dp.size };
        while next < total {
            let end = (next + round).min(total);
            // The next line to be written, and those after it that are ready.
            let mut waiting: BTreeMap<usize, (String, Tally)> = BTreeMap::new();
            let mut due = next;
            let mut put = |waiting: &mut BTreeMap<usize, (String, Tally)>| -> Result<()> {
                while let Some((line, tally)) = waiting.remove(&due) {
                    summary.add(&tally);
                    if let Some(file) = &mut file {
                        file.append(line)?;
                    }
                    due += 1;
                    bar.inc(1);
                }
                Ok(())
            };
            let mine = (next..end).map(text_of).filter(|(prompt, _)| prompt % mesh.dp.size == mesh.dp.rank);
            generator.write(ids, mine, |written| {
                let index = written.prompt * samples + written.sample;
                waiting.insert(index, (lines.line(&written)?, Tally::of(&written, &ids[written.prompt])));
                if mesh.dp.size == 1 { put(&mut waiting) } else { Ok(()) }
            })?;
            gather(&mut waiting, mesh)?;
            put(&mut waiting)?;
            next = end;
        }
        bar.finish_and_clear();
        if let Some(file) = file {
            file.finish()?;
        }
        summary.seconds = begun.elapsed().as_secs_f64();
        Ok(summary)
    }

    /// How tokens are chosen, from the flags.
    fn decoding(&self, vocab_size: usize) -> Result<(Sampling, Option<Beams>)> {
        let temperature = self.temperature;
        if temperature != 0.0 && !TEMPERATURES.contains(&temperature) {
            return Err(user_error!("--temperature {temperature}: a temperature is 0 or {TEMPERATURES_WORDS}"));
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(user_error!("--top-p {p}: a share of the probability is above 0 and at most 1"));
        }
        for (flag, k) in [("--top-k", self.top_k), ("--top-logprobs", self.top_logprobs)] {
            if let Some(k) = k.filter(|&k| k as usize > vocab_size) {
                return Err(user_error!("{flag} {k} is larger than the vocabulary of {vocab_size}"));
            }
        }
        let drawing = [
            ("--temperature", temperature > 0.0),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--samples", self.samples > 1),
        ];
        if let (Some(_), Some((flag, _))) = (self.beams, drawing.iter().find(|(_, given)| *given)) {
            return Err(user_error!("beam search finds one text and draws nothing; leave out {flag} or --beams"));
        }
        if let (0.0, Some((flag, _))) = (temperature, drawing.iter().find(|(_, given)| *given)) {
            return Err(user_error!("{flag} has no effect at temperature 0, which draws nothing; pass e.g. --temperature 1"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(user_error!("--stop is empty: it would end every text at once; leave it out"));
        }
        let length_penalty = self.length_penalty.unwrap_or(1.0);
        if !length_penalty.is_finite() {
            return Err(user_error!("--length-penalty {length_penalty} is not a finite number"));
        }
        let beams = self.beams.filter(|&count| count > 1).map(|count| Beams { count: count as usize, length_penalty });
        let (top_k, listed) = (self.top_k.map(|k| k as usize), self.top_logprobs.unwrap_or(0) as usize);
        Ok((Sampling { temperature, top_k, top_p: self.top_p, listed }, beams))
    }

    fn read(&self, model: &NamedModel, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
        let vocabulary = Vocabulary::new(tokenizer, model.config.vocab_size, None)?;
        let template = self.template.as_deref().map(Template::of_file).transpose()?;
        let chat = match &model.files {
            Some(folder) if template.is_none() => Template::chat(folder)?,
            _ => None,
        };
        let longest = model.longest_context() - 1;
        let (template, chat) = (template.as_ref(), chat.as_ref());
        PromptReader { tokenizer, vocabulary: &vocabulary, template, chat, longest }.read(&self.prompts)
    }

    /// A hash of all that the output follows from.
    fn identity(&self, model: &NamedModel, prompts: &[Prompt], sampling: Sampling, beams: Option<Beams>) -> Result<String> {
        let read: Vec<(&str, &[u32])> = prompts.iter().map(|prompt| (prompt.text.as_str(), &prompt.ids[..])).collect();
        let all = json!({
            "numerics": NUMERICS,
            "model": model.content()?,
            "tokenizer": sha256_file(&model.tokenizer)?,
            "prompts": sha256_hex(serde_json::to_string(&read)?.as_bytes()),
            "decoding": format!("{sampling:?} {beams:?}"),
            "samples": self.samples,
            "max_new_tokens": self.max_new_tokens,
            "stop": self.stop,
            "seed": self.seed,
            "format": self.format.name(),
            "tp": self.tp,
            "precision": self.precision,
            "device": self.device,
        });
        Ok(sha256_hex(all.to_string().as_bytes()))
    }

    fn tell(&self, summary: &Summary, prompts: usize, (done, total): (usize, usize), output: Output) {
        let Summary { tokens, prompt_tokens, finish, seconds } = summary;
        let rate = *tokens as f64 / seconds.max(1e-9);
        match output {
            Output::Json => terminal::json(&json!({
                "file": self.out,
                "format": self.format.name(),
                "prompts": prompts,
                "texts": total,
                "resumed_after": done,
                "tokens": tokens,
                "prompt_tokens": prompt_tokens,
                "finish": finish,
                "seconds": seconds,
                "tokens_per_s": rate,
            })),
            Output::Human => {
                let ended: Vec<String> = finish.iter().map(|(why, count)| format!("{why} {count}")).collect();
                let before = if done > 0 { format!(", {done} of them before") } else { String::new() };
                say!("{}: {total} texts{before}; {tokens} new tokens, {rate:.1}/s", self.out.display());
                say!("ended by: {}", ended.join(", "));
            }
        }
    }
}

/// How texts become lines.
struct Lines<'a> {
    format: LineFormat,
    prompts: &'a [Prompt],
    tokenizer: &'a Tokenizer,
}

impl Lines<'_> {
    fn line(&self, written: &Written) -> Result<String> {
        self.format.line(&self.prompts[written.prompt], written, self.tokenizer)
    }
}

/// What is counted of a text.
#[derive(serde::Serialize, serde::Deserialize)]
struct Tally {
    tokens: usize,
    prompt_tokens: usize,
    finish: String,
}

impl Tally {
    fn of(written: &Written, prompt: &[u32]) -> Self {
        Self { tokens: written.ids.len(), prompt_tokens: prompt.len(), finish: written.finish.name().to_string() }
    }
}

/// What was written.
#[derive(Default)]
struct Summary {
    tokens: usize,
    prompt_tokens: usize,
    finish: BTreeMap<String, usize>,
    seconds: f64,
}

impl Summary {
    fn add(&mut self, tally: &Tally) {
        self.tokens += tally.tokens;
        self.prompt_tokens += tally.prompt_tokens;
        *self.finish.entry(tally.finish.clone()).or_default() += 1;
    }
}

/// Adds the lines of all data-parallel ranks.
fn gather(lines: &mut BTreeMap<usize, (String, Tally)>, mesh: &Mesh) -> Result<()> {
    if mesh.dp.size == 1 {
        return Ok(());
    }
    let own = serde_json::to_vec(lines)?;
    let length = Tensor::from_slice(&[own.len() as i64]).to_device(mesh.device);
    let lengths = Vec::<i64>::try_from(mesh.dp.all_gather(&length)?.flatten(0, -1).to_device(Device::Cpu))?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let missing = longest - own.len() as i64;
    let padded = Tensor::from_slice(&own).to_device(mesh.device).constant_pad_nd([0, missing]);
    let all = mesh.dp.all_gather(&padded.to_kind(Kind::Uint8))?.to_device(Device::Cpu);
    for (rank, &length) in lengths.iter().enumerate() {
        let bytes = Vec::<u8>::try_from(all.get(rank as i64).narrow(0, 0, length))?;
        lines.extend(serde_json::from_slice::<BTreeMap<usize, (String, Tally)>>(&bytes)?);
    }
    Ok(())
}
