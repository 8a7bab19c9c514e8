//! `hydrometer teach --endpoint`: scores a text, or answers prompts, with a model behind an OpenAI-compatible API.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use hydrometer_base::fs::sha256_file;
use hydrometer_base::identity::identity;
use hydrometer_base::text::number;
use hydrometer_base::user_error;
use hydrometer_data::example::Segment;
use hydrometer_data::format::Keys;
use hydrometer_data::line_error::Tally;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokenizer;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_data::vocabulary::Vocabulary;
use hydrometer_record::journal::Fence;
use serde_json::json;
use tokenizers::Tokenizer;

use super::data_flags::{DataFlags, counts, need_some, with};
use super::describe_cache::describe;
use super::eval::Text;
use super::run::count_interrupts;
use super::{Output, terminal};
use crate::experiment::AMOUNT_MAX;
use crate::sweep::lease::LeaseObserver;
use crate::teacher::endpoint::collect::collect;
use crate::teacher::endpoint::prompt_scorer::PromptScorer;
use crate::teacher::endpoint::request::{ApiRequest, Generation};
use crate::teacher::endpoint::response_log::{ResponseLog, Spending};
use crate::teacher::endpoint::service::{Budget, CONCURRENCY, Price, RETRIES, Service, TIMEOUT};
use crate::teacher::manifest::CacheManifest;
use crate::teacher::recipe::{EchoRows, EndpointRecipe, Sent};
use crate::teacher::source::Source;
use crate::teacher::target_spec::TargetSpec;
use crate::{note, say};

/// Upper bound of the tokens that a server's template adds to a message.
const TOKENS_AROUND: u64 = 16;

#[derive(Args, Debug)]
#[command(next_help_heading = "A model behind an API")]
pub struct Ask {
    /// Use a model behind this OpenAI-compatible API instead, e.g. http://localhost:8000/v1. Every response is stored in
    /// DIR/answers.jsonl, so that none is paid for twice.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The model's name in the API.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    served_model: Option<String>,
    /// What to ask the model for.
    #[arg(long, value_enum, default_value = "judge", requires = "endpoint")]
    ask: What,
    /// The tokenizer.json of teacher and students [default: the one in --model].
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    tokenizer: Option<PathBuf>,
    /// With --ask judge: send text, one document per request, or token ids, one sequence per request.
    #[arg(long, default_value = "text", requires = "endpoint", value_parser = PossibleValuesParser::new(Sent::NAMES))]
    sent: String,
    /// Which token a row of an echoed prompt describes: its own, or the next (llama-cpp-python without a BOS token).
    #[arg(long, default_value = "own", requires = "endpoint", value_parser = PossibleValuesParser::new(EchoRows::NAMES))]
    echo_rows: String,
    /// The environment variable with the API key. The key is never stored or shown.
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    key_env: Option<String>,
    /// Number of concurrent requests.
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY as u32, requires = "endpoint", value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Number of retries of a request.
    #[arg(long, value_name = "N", default_value_t = RETRIES, requires = "endpoint")]
    retries: u32,
    /// Timeout of a request.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT.as_secs(), requires = "endpoint", value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
    /// Price per million input tokens.
    #[arg(long, value_name = "PRICE", requires = "endpoint", value_parser = amount)]
    price_input: Option<f64>,
    /// Price per million output tokens.
    #[arg(long, value_name = "PRICE", requires = "endpoint", value_parser = amount)]
    price_output: Option<f64>,
    /// Maximum number of input and output tokens to spend in total.
    #[arg(long, value_name = "N", requires = "endpoint")]
    budget_tokens: Option<u64>,
    /// Maximum total cost, computed from the prices.
    #[arg(long, value_name = "COST", requires = "endpoint", value_parser = amount)]
    budget_cost: Option<f64>,
    /// With --ask complete and --ask chat: maximum number of tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "endpoint", value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: u64,
    /// With --ask complete and --ask chat: sampling temperature.
    #[arg(long, value_name = "T", default_value_t = 1.0, requires = "endpoint", value_parser = amount)]
    temperature: f64,
    /// Seed for reproducible sampling, if the API supports it.
    #[arg(long, value_name = "N", requires = "endpoint")]
    seed: Option<u64>,
    /// With --ask chat: the system message.
    #[arg(long, value_name = "TEXT", requires = "endpoint")]
    system: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Log-probabilities of the given text (`/completions` with `echo`), stored in a teacher cache.
    Judge,
    /// Completions of prompts (`/completions`), usable as data and as recorded teacher targets.
    Complete,
    /// Chat answers to prompts (`/chat/completions`), usable as data and as recorded teacher targets.
    Chat,
}

/// The flags of `teach` that also apply with --endpoint.
pub struct AskedEndpoint<'a> {
    pub model: Option<&'a Path>,
    pub data: &'a Path,
    pub reading: &'a DataFlags,
    pub out: &'a Path,
    pub top_k: usize,
    pub context: usize,
}

impl Ask {
    pub fn run(&self, asked: &AskedEndpoint, output: Output) -> Result<ExitCode> {
        let service = self.service()?;
        let name = self.served_model.as_deref().ok_or_else(|| user_error!("--endpoint needs --served-model NAME"))?;
        let interrupts = count_interrupts()?;
        let interrupts = || interrupts.load(Ordering::Relaxed);
        let input = self.read_input(asked, name)?;
        let lease = LeaseObserver::new(asked.out).wait(|sentence| note!("{sentence}"), || interrupts() > 0)?;
        let done = match (&lease, input) {
            (None, _) => false,
            (Some(lease), Read::Text(text)) => self.score(asked, name, &service, &text, lease.fence(), interrupts, output)?,
            (Some(lease), Read::Prompts(requests, tally)) => {
                let mut log = ResponseLog::open(asked.out, lease.fence())?;
                let others = log.others(&requests);
                if others > 0 {
                    let path = log.path().display();
                    return Err(user_error!(
                        "{path} has {others} answers to other prompts, or to these prompts with other settings, which would become data as \
                         well; use another --out"
                    ));
                }
                let done = collect(name, &service, &requests, &mut log, |_, _| Ok(()), interrupts)?;
                self.show(log.path(), &log.spent, &service, &tally, output);
                done
            }
        };
        if !done {
            note!("interrupted; the same command resumes from here");
            return Ok(ExitCode::from(130));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Reads and checks all input, before the first request is sent.
    fn read_input(&self, asked: &AskedEndpoint, name: &str) -> Result<Read> {
        if self.ask == What::Judge {
            let tokenizer = match (&self.tokenizer, asked.model) {
                (Some(path), _) => path.clone(),
                (None, Some(folder)) => folder.join("tokenizer.json"),
                (None, None) => {
                    return Err(user_error!("scoring needs the students' tokenizer; pass --tokenizer FILE or --model HF_DIR"));
                }
            };
            let opened = tokenizer::open(&tokenizer)?;
            let vocab_size = tokenizer::vocab_size(&opened);
            let (split, tally) = Text { data: asked.data, reading: asked.reading }.encode(&tokenizer, vocab_size)?;
            return Ok(Read::Text(Box::new(ScoredText { tokenizer, opened, vocab_size, split, tally })));
        }
        let how = Generation { max_tokens: self.max_tokens, temperature: self.temperature, seed: self.seed };
        // Without a tokenizer, count every byte as a token: an upper bound, so that the budget is not exceeded.
        let tokenizer = self.tokenizer.as_deref().map(tokenizer::open).transpose()?;
        let vocabulary =
            tokenizer.as_ref().map(|known| Vocabulary::new(known, tokenizer::vocab_size(known), None)).transpose()?;
        let tokens = |text: &str| match &vocabulary {
            Some(vocabulary) => Ok(vocabulary.encode(text, false)?.len() as u64),
            None => anyhow::Ok(text.len() as u64),
        };
        let around = tokens(self.system.as_deref().unwrap_or_default())? + TOKENS_AROUND;
        let (mut reader, _) = asked.reading.examples(asked.data, Keys::default())?;
        let mut requests = Vec::new();
        while let Some(example) = reader.next_example()? {
            let prompt = example.source.or(example.target).map(|piece: Segment| piece.text()).unwrap_or_default();
            let tokens = around + tokens(&prompt)?;
            requests.push(match self.ask {
                What::Chat => ApiRequest::chat(example.id, name, self.system.as_deref(), &prompt, tokens, asked.top_k, how),
                _ => ApiRequest::complete(example.id, name, json!(prompt), tokens, asked.top_k, how),
            });
        }
        need_some(requests.len() as u64, asked.data, &reader.tally)?;
        Ok(Read::Prompts(requests, reader.tally))
    }

    /// Scores the text into the cache in `asked.out`. Returns false if interrupted.
    #[expect(clippy::too_many_arguments, reason = "called once: the end of a subcommand, separated for readability")]
    fn score(
        &self,
        asked: &AskedEndpoint,
        name: &str,
        service: &Service,
        text: &ScoredText,
        fence: Fence,
        interrupts: impl Fn() -> usize,
        output: Output,
    ) -> Result<bool> {
        let ScoredText { tokenizer, opened, vocab_size, split, tally } = text;
        let recipe = EndpointRecipe {
            model: name.to_string(),
            sent: Sent::named(&self.sent).unwrap_or(Sent::Text),
            echo_rows: EchoRows::named(&self.echo_rows).unwrap_or(EchoRows::Own),
            revision: String::new(),
        };
        let kept = TargetSpec::best(asked.top_k, &[1.0]);
        let title = CacheManifest::new(identity(&recipe), sha256_file(tokenizer)?, *vocab_size, kept);
        let context = asked.context;
        let scorer =
            PromptScorer { name, recipe: &recipe, service, tokenizer: opened, examples: None, split, context, title: &title };
        if scorer.prepare(&sequences(split, context), (asked.out, fence), asked.out, interrupts)?.is_none() {
            return Ok(false);
        }
        let folder = tokenizer.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let source = Source::asked(folder, asked.data, context, &service.url);
        source.add(asked.out, split)?;
        describe(asked.out, &title, (split, tally), context, output)?;
        Ok(true)
    }

    fn service(&self) -> Result<Service> {
        let url = self.endpoint.as_deref().unwrap_or_default();
        let service = Service::at(url).map_err(|why| user_error!("--endpoint: {why}"))?;
        let price = match (self.price_input, self.price_output) {
            (None, None) => None,
            (input, output) => Some(Price { input: input.unwrap_or(0.0), output: output.unwrap_or(0.0) }),
        };
        if self.budget_cost.is_some() && price.is_none() {
            return Err(user_error!("--budget-cost needs prices; pass --price-input and --price-output, per million tokens"));
        }
        Ok(Service {
            key_env: self.key_env.clone(),
            concurrency: self.concurrency as usize,
            retries: self.retries,
            timeout: Duration::from_secs(self.timeout),
            price,
            budget: Budget { tokens: self.budget_tokens, cost: self.budget_cost },
            ..service
        })
    }

    fn show(&self, answers: &Path, spent: &Spending, service: &Service, tally: &Tally, output: Output) {
        if let Some(words) = tally.words() {
            note!("{words}");
        }
        match output {
            Output::Json => {
                let found = json!({
                    "answers": answers,
                    "requests": spent.requests,
                    "prompt_tokens": spent.prompt_tokens,
                    "completion_tokens": spent.completion_tokens,
                    "cost": spent.cost(service.price),
                });
                terminal::json(&with(found, counts(tally)));
            }
            Output::Human => say!("{}: {}", answers.display(), spent.words(service)),
        }
    }
}

/// The input that was read.
enum Read {
    Text(Box<ScoredText>),
    Prompts(Vec<ApiRequest>, Tally),
}

/// A text to score, with its tokenizer.
struct ScoredText {
    tokenizer: PathBuf,
    opened: Tokenizer,
    vocab_size: usize,
    split: TokenizedSplit,
    tally: Tally,
}

/// Parses an amount of money, or a temperature.
fn amount(text: &str) -> Result<f64, String> {
    let expected = || format!("expected a number from 0 to {}", number(AMOUNT_MAX));
    text.parse().ok().filter(|x: &f64| (0.0..=AMOUNT_MAX).contains(x)).ok_or_else(expected)
}
