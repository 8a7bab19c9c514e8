//! The command line: one file per subcommand.

mod arms;
mod compare;
mod data;
mod data_flags;
mod describe_cache;
mod doctor;
mod eval;
mod export;
mod export_checkpoint;
mod finished_run;
mod generate;
mod generated_file;
mod generated_line;
mod log;
mod loss;
mod named_model;
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

/// Exit code: some run failed or diverged.
const FAILED: u8 = 3;
/// Exit code: a claim is refuted, or a file does not follow from its frames.
const REFUTED: u8 = 4;
/// Exit code: there was nothing to work on.
const NOTHING: u8 = 5;

/// Distill or finetune? Trains language models by several objectives and measures which one wins.
#[derive(Debug, Parser)]
#[command(version, about, bin_name = "hydrometer")]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Format of standard output: text, or exactly one JSON document. Everything else goes to standard error.
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
    /// Show every run of an experiment with its status and cost, without starting anything.
    Plan(plan::Plan),
    /// Run the unfinished part of an experiment, then write the report.
    Run(run::Run),
    /// Show the progress of an experiment: what is done, what is running, and what went wrong.
    Status(Common),
    /// Show the recipe fields in which a run differs from the most similar existing run.
    Why(why::Why),
    /// Rebuild tables, plots and pages from the frames.
    Report(Common),
    /// Compare the arms of one or more experiments with a chosen arm, from the frames alone.
    Compare(compare::Compare),
    /// Export a run's weights to a Hugging Face folder, frames to CSV or TensorBoard, or a report's numbers to JSON.
    Export(export::Export),
    /// Update the numbers that a Markdown file quotes from the frames.
    Quote(quote::Quote),
    /// Rebuild tables, plots, pages and claims from the frames; fail if any byte differs or a claim is refuted.
    Verify(verify::Verify),
    /// Check a data file: its format, its examples, and its damaged lines by kind.
    Data(data::Data),
    /// Evaluate a Hugging Face checkpoint on text: NLL, perplexity, bits per byte, accuracy, calibration.
    Eval(eval::Eval),
    /// Build a teacher cache from a checkpoint or an API; inspect or export one.
    Teach(Box<teach::Teach>),
    /// Write texts after prompts with a checkpoint or a finished run: greedy, sampled or by beam search.
    Generate(Box<generate::Generate>),
    /// Evaluate an objective and its gradients on tensors from a file.
    Loss(loss::LossArgs),
    /// Check this machine and this build, and show what is missing.
    Doctor,
    /// Run one rank of a job (started by `run`).
    #[command(hide = true)]
    Worker {
        job: PathBuf,
        /// The token of the lease it works under.
        #[arg(long)]
        lease: Option<String>,
    },
}

/// The arguments that all subcommands on an experiment share.
#[derive(Args, Debug)]
struct Common {
    /// The experiment file, e.g. experiments/quickstart.toml.
    experiment: PathBuf,
    /// Use the experiment's `[smoke]` tier.
    #[arg(long)]
    smoke: bool,
    /// Where frames and reports go [default: results/<experiment>, results/<experiment>-smoke with --smoke].
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Where journals, checkpoints and caches are stored.
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
    /// Loads the experiment and links its renamed runs. A user error if --runs or --results is inside a data folder.
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

    /// Loads the experiment for subcommands that do not use the runs folder.
    fn read(&self) -> Result<Experiment> {
        load(&self.experiment, &self.options())
    }

    fn options(&self) -> Options {
        Options { smoke: self.smoke, tp: self.tp as usize, dp: self.dp as usize }
    }

    fn results(&self, experiment: &Experiment) -> PathBuf {
        self.results_of(&experiment.name)
    }

    /// The results folder of the experiment `name`.
    fn results_of(&self, name: &str) -> PathBuf {
        let tier = if self.smoke { "-smoke" } else { "" };
        self.results.clone().unwrap_or_else(|| Path::new("results").join(format!("{name}{tier}")))
    }
}

/// The results folder that `path` names: `path` itself, or that of an experiment file. A user error if it has no frames.
fn results_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.extension() {
        Some(extension) if extension == "toml" => Path::new("results").join(name_of(path)?),
        _ => path.to_path_buf(),
    };
    if !folder.join("runs.parquet").exists() {
        return Err(user_error!("{} has no frames; name a results folder or an experiment file that was run", folder.display()));
    }
    Ok(folder)
}

/// Runs the command line.
pub fn run() -> Result<ExitCode> {
    log::install();
    let typed: Vec<OsString> = std::env::args_os().collect();
    check_utf8(&typed)?;
    match Cli::try_parse_from(typed) {
        Ok(cli) => cli.run(),
        Err(message) => {
            terminal::clap(&message);
            Ok(ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2)))
        }
    }
}

/// Refuses arguments that are not UTF-8, because provenance and JSON output are text.
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
            Verb::Generate(generate) => generate.run(self.output),
            Verb::Loss(args) => loss::loss(&args, self.output),
            Verb::Doctor => doctor::doctor(self.output),
            Verb::Worker { job, lease } => worker::work(&job, lease.as_deref()),
        }
    }
}

/// The exit code of an error: 2 for wrong input, 1 for everything else.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<UserError>()) { ExitCode::from(2) } else { ExitCode::from(1) }
}
