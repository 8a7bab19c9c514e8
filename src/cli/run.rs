//! `hydrometer run`: what is left of an experiment, then its frames and report.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::report::show;
use super::{Common, FAILED, Output};
use crate::experiment::Experiment;
use crate::record::frames::Frames;
use crate::record::freeze::{Frozen, freeze};
use crate::record::provenance::{Provenance, gather, kept_from};
use crate::record::store::replace_bytes;
use crate::report;
use crate::sweep::job::{Status, status};
use crate::sweep::{schedule, worker};
use crate::user_error;

#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    common: Common,
    /// Runs at a time; the cores are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Only students whose id begins so, and what they need.
    #[arg(long, value_name = "PREFIX")]
    only: Option<String>,
    /// Run again what failed or diverged, or everything.
    #[arg(long, value_enum)]
    rerun: Option<Rerun>,
    /// cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Keep each block's input alone and compute its activations again on the way back: less memory, the same numbers.
    #[arg(long)]
    recompute: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rerun {
    Failed,
    All,
}

impl Run {
    pub fn run(self, output: Output) -> Result<ExitCode> {
        let experiment = self.common.load()?;
        worker::device(&self.device)?;
        let results = self.common.results(&experiment);
        writable(&results, "results")?;
        writable(&self.common.runs, "runs")?;
        if let Some(prefix) = &self.only
            && !experiment.students.iter().any(|student| student.run.starts_with(prefix.as_str()))
        {
            return Err(user_error!("--only {prefix}: no run begins so; see `hydrometer plan`"));
        }
        let settings = schedule::Settings {
            runs: self.common.runs.clone(),
            jobs: self.jobs as usize,
            only: self.only.clone(),
            rerun: self.rerun.map(|rerun| match rerun {
                Rerun::Failed => schedule::Rerun::Failed,
                Rerun::All => schedule::Rerun::All,
            }),
            device: self.device.clone(),
            tp: self.common.tp as usize,
            dp: self.common.dp as usize,
            recompute: self.recompute,
        };
        let ending = schedule::run(&experiment, &settings, &count_interrupts()?)?;

        let earlier = earlier(&experiment, &results);
        if ending.started > 0 || earlier.as_ref().is_none_or(|(_, provenance)| provenance.experiment_toml != experiment.toml) {
            let Frozen { mut frames, kept } = freeze(&experiment, &self.common.runs, earlier.as_ref().map(|(frames, _)| frames))?;
            frames.write(&results)?;
            let kept = earlier.map_or(Vec::new(), |(_, provenance)| kept_from(&provenance, &kept));
            let provenance = gather(&experiment, &settings, &results, kept)?;
            replace_bytes(&results.join("provenance.json"), serde_json::to_string_pretty(&provenance)?.as_bytes())?;
        }
        let files = report::write(&results, &experiment.claims)?;
        let mut all: Vec<_> =
            ["runs", "curves", "evals", "documents"].iter().map(|name| results.join(format!("{name}.parquet"))).collect();
        all.push(results.join("provenance.json"));
        all.extend(files);
        show(&results, &experiment.claims, &all, output)?;
        if ending.interrupted {
            eprintln!("interrupted; the same command goes on from here");
            return Ok(ExitCode::from(130));
        }
        let failed = experiment.students.iter().map(|student| &student.run).chain(experiment.teachers.iter().map(|t| &t.run));
        let failed = failed.filter(|run| matches!(status(&self.common.runs, run), Status::Failed(_) | Status::Diverged(_)));
        match failed.count() {
            0 if ending.killed > 0 => {
                eprintln!("{} jobs were killed; the same command goes on from here", ending.killed);
                Ok(ExitCode::from(FAILED))
            }
            0 => Ok(ExitCode::SUCCESS),
            count => {
                eprintln!("{count} runs failed or diverged; `--rerun failed` tries them again");
                Ok(ExitCode::from(FAILED))
            }
        }
    }
}

/// The frames of `experiment` that `results` holds, where they are whole and of the same tier.
fn earlier(experiment: &Experiment, results: &Path) -> Option<(Frames, Provenance)> {
    if !results.join("runs.parquet").exists() {
        return None;
    }
    match Frames::read(results).and_then(|frames| Ok((frames, Provenance::read(results)?))) {
        Ok(found) => Some(found).filter(|(_, p)| p.experiment == experiment.name && p.smoke == experiment.smoke),
        Err(error) => {
            eprintln!("the frames in {} are replaced, not added to: {error:#}", results.display());
            None
        }
    }
}

/// A counter of ctrl-C.
pub fn count_interrupts() -> Result<Arc<AtomicUsize>> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    ctrlc::set_handler(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    })
    .context("cannot watch for ctrl-C")?;
    Ok(interrupts)
}

/// Makes sure that files can be made in `folder`, before anything else is done.
fn writable(folder: &Path, what: &str) -> Result<()> {
    let probe = folder.join(format!(".probe.{}", std::process::id()));
    let tried = fs::create_dir_all(folder).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe));
    tried.map_err(|error| {
        user_error!("the {what} folder {} cannot be written: {error}; choose another with --{what} DIR", folder.display())
    })
}
