//! What can be typed: a file per verb.

mod arms;
mod compare;
mod data;
mod data_flags;
mod describe_cache;
mod doctor;
mod eval;
mod export;
mod export_checkpoint;
mod log;
mod loss;
mod place;
mod plan;
mod planned_run;
mod quote;
mod report;
mod run;
mod saved_experiment;
mod status;
mod teach;
mod teach_endpoint;
pub mod terminal;
mod verify;
mod why;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use hydrometer_base::{UserError, user_error};

use crate::experiment::{Experiment, Options, load, name_of};
use crate::sweep::memory::Spread;
use crate::sweep::{alias, worker};

/// Some run failed or diverged.
const FAILED: u8 = 3;
/// A claim is refuted, or a file is not what the frames give.
const REFUTED: u8 = 4;
/// There was nothing to do it on.
const NOTHING: u8 = 5;

/// Distill or finetune? Trains language models by several objectives and measures which one wins.
#[derive(Debug, Parser)]
#[command(version, about, bin_name = "hydrometer")]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Format of what goes to standard output: text, or exactly one JSON document. All else goes to standard error.
    #[arg(long, global = true, value_enum, default_value = "human")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show every run of an experiment, its status and its cost; start nothing.
    Plan(plan::Plan),
    /// Run what is left of an experiment, then report.
    Run(run::Run),
    /// Show how far an experiment is, what runs, and what went wrong.
    Status(Common),
    /// Show in which fields of its recipe a run differs from the nearest one that is there.
    Why(why::Why),
    /// Rebuild tables, plots and pages from the frames.
    Report(Common),
    /// Show the arms of one experiment or several against any arm, from the frames alone.
    Compare(compare::Compare),
    /// Write the weights of a run as a Hugging Face folder, the frames as CSV or TensorBoard events, or a report's numbers as JSON.
    Export(export::Export),
    /// Write the numbers that a Markdown file quotes into it, from the frames.
    Quote(quote::Quote),
    /// Rebuild tables, plots, pages and claims from the frames and demand the same bytes; refuse refuted claims.
    Verify(verify::Verify),
    /// Read a file of data to its end: its format, its examples, its damaged lines by kind.
    Data(data::Data),
    /// Measure a Hugging Face checkpoint on text: NLL, perplexity, bits per byte, accuracy, calibration.
    Eval(eval::Eval),
    /// Keep a checkpoint's answers to a text, for students; describe or export what is kept.
    Teach(Box<teach::Teach>),
    /// Evaluate any objective, with gradients, on tensors from a file.
    Loss(loss::LossArgs),
    /// Show what this machine and this build offer, and what is missing.
    Doctor,
    /// Do one job (started by `run`).
    #[command(hide = true)]
    Worker {
        job: PathBuf,
        /// The lease it works under.
        #[arg(long)]
        lease: Option<String>,
    },
}

/// What verbs on an experiment share.
#[derive(Args, Debug)]
struct Common {
    /// The experiment file, e.g. experiments/quickstart.toml.
    experiment: PathBuf,
    /// The experiment's `[smoke]` tier.
    #[arg(long)]
    smoke: bool,
    /// Where frames and reports go [default: results/<experiment>, results/<experiment>-smoke with --smoke].
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Where journals, checkpoints and caches live.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Tensor-parallel ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tp: u32,
    /// Data-parallel ranks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    dp: u32,
    /// Pass size: the most input tokens of one forward and backward pass of a data-parallel rank. An update accumulates the
    /// gradients of as many passes as its batch needs [default: by the recipe, for about 1 GiB of activations].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pass_tokens: Option<u32>,
}

impl Common {
    fn load(&self) -> Result<Experiment> {
        let experiment = self.read()?;
        let teachers = experiment.teachers.iter().map(|teacher| &teacher.data);
        let all = experiment.students.iter().map(|student| &student.data).chain(teachers);
        let data: BTreeSet<&PathBuf> = all.flat_map(|files| files.splits.values()).filter(|path| path.is_dir()).collect();
        for folder in data {
            place::outside(&self.runs, folder, "--runs DIR")?;
            place::outside(&self.results(&experiment), folder, "--results DIR")?;
        }
        self.check_pass_tokens(&experiment)?;
        alias::link(&experiment, &self.runs)?;
        Ok(experiment)
    }

    /// Refuses passes that would be too small for a sequence.
    fn check_pass_tokens(&self, experiment: &Experiment) -> Result<()> {
        let students = experiment.students.iter().map(|student| (&student.run, &student.recipe));
        let teachers = experiment.teachers.iter().map(|teacher| (&teacher.run, &teacher.recipe));
        let trained = students.chain(teachers).filter(|(_, recipe)| !recipe.is_untrained());
        let longest = trained.max_by_key(|(_, recipe)| recipe.data.context);
        let (Some(tokens), Some((run, recipe))) = (self.pass_tokens(), longest) else { return Ok(()) };
        let (file, context) = (self.experiment.display(), recipe.data.context);
        match tokens < context {
            true => Err(user_error!(
                "--pass-tokens {tokens}: a pass takes whole sequences, which have up to {context} tokens ({file}: context of {run}); \
                 use at least {context}"
            )),
            false => Ok(()),
        }
    }

    fn pass_tokens(&self) -> Option<usize> {
        self.pass_tokens.map(|tokens| tokens as usize)
    }

    /// How each run is distributed.
    fn spread(&self) -> Spread {
        Spread { pass_tokens: self.pass_tokens(), ..Spread::of(self.tp as usize, self.dp as usize) }
    }

    /// The same for who looks at no run.
    fn read(&self) -> Result<Experiment> {
        load(&self.experiment, &self.options())
    }

    fn options(&self) -> Options {
        Options { smoke: self.smoke, tp: self.tp as usize, dp: self.dp as usize }
    }

    fn results(&self, experiment: &Experiment) -> PathBuf {
        self.results_of(&experiment.name)
    }

    /// Where the results of the experiment `name` are.
    fn results_of(&self, name: &str) -> PathBuf {
        let tier = if self.smoke { "-smoke" } else { "" };
        self.results.clone().unwrap_or_else(|| Path::new("results").join(format!("{name}{tier}")))
    }
}

/// The folder of results that `path` names: itself, or that of an experiment file.
fn results_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.extension() {
        Some(extension) if extension == "toml" => Path::new("results").join(name_of(path)?),
        _ => path.to_path_buf(),
    };
    if !folder.join("runs.parquet").exists() {
        return Err(user_error!(
            "{} has no frames; name a folder of results or an experiment file that was run",
            folder.display()
        ));
    }
    Ok(folder)
}

/// Does what was typed.
pub fn run() -> Result<ExitCode> {
    log::install();
    let typed: Vec<OsString> = std::env::args_os().collect();
    check_utf8(&typed)?;
    match Cli::try_parse_from(typed) {
        Ok(cli) => cli.run(),
        Err(said) => {
            terminal::clap(&said);
            Ok(ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(2)))
        }
    }
}

/// Errors at an argument that is not UTF-8: what is recorded of runs, and all JSON, is text.
fn check_utf8(typed: &[OsString]) -> Result<()> {
    match typed.iter().skip(1).find(|argument| argument.to_str().is_none()) {
        Some(wrong) => Err(user_error!("the argument {wrong:?} is not UTF-8; rename the file or folder")),
        None => Ok(()),
    }
}

impl Cli {
    fn run(self) -> Result<ExitCode> {
        match self.verb {
            Verb::Plan(plan) => plan.plan(self.output),
            Verb::Run(run) => run.run(self.output),
            Verb::Status(common) => status::status(&common, self.output),
            Verb::Why(why) => why.why(self.output),
            Verb::Report(common) => report::report(&common, self.output),
            Verb::Compare(compare) => compare.compare(self.output),
            Verb::Quote(quote) => quote.quote(self.output),
            Verb::Export(export) => export.export(self.output),
            Verb::Verify(verify) => verify.verify(self.output),
            Verb::Data(data) => data.run(self.output),
            Verb::Eval(eval) => eval.run(self.output),
            Verb::Teach(teach) => teach.run(self.output),
            Verb::Loss(args) => loss::loss(&args, self.output),
            Verb::Doctor => doctor::doctor(self.output),
            Verb::Worker { job, lease } => worker::work(&job, lease.as_deref()),
        }
    }
}

/// 2 for the user's input, 1 for everything else.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<UserError>()) { ExitCode::from(2) } else { ExitCode::from(1) }
}
