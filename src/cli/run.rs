//! `hydrometer run`: runs the unfinished part of an experiment, then writes its frames and report.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use hydrometer_base::fs::{remove_parts, replace_bytes, writable};
use hydrometer_base::run_id::RunId;
use hydrometer_base::user_error;
use hydrometer_record::checked::changed;
use hydrometer_record::frames::{Frames, NAMES, RunRow, file_of};
use hydrometer_record::provenance::{self, Provenance, kept_from};

use super::report::{show, writable_results};
use super::{Common, FAILED, Output};
use crate::experiment::Experiment;
use crate::note;
use crate::sweep::build_frames::{BuiltFrames, build_frames};
use crate::sweep::ending::Ending;
use crate::sweep::job::{baselines, ending};
use crate::sweep::provenance::gather;
use crate::sweep::schedule::Rerun;
use crate::sweep::session::RETRIES;
use crate::sweep::{imports, schedule, session, worker};

#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    common: Common,
    /// Number of runs at a time; the cores are divided among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Run only the students whose id begins with PREFIX, and the teachers they need.
    #[arg(long, value_name = "PREFIX")]
    only: Option<String>,
    /// Run again what failed or diverged, or everything.
    #[arg(long, value_enum)]
    rerun: Option<Rerun>,
    /// Device: cpu or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Activation recomputation: recompute activations in the backward pass. Less memory, the same numbers.
    #[arg(long)]
    recompute: bool,
    /// With --tp: shard norms and residual sums over the tokens. Less memory.
    #[arg(long)]
    sequence_parallel: bool,
    /// Stop at the first run that fails or diverges, instead of continuing with the others.
    #[arg(long)]
    fail_fast: bool,
    /// Number of retries, with growing pauses, for a run that was killed or could not start.
    #[arg(long, value_name = "N", default_value_t = RETRIES)]
    retries: u32,
}

impl Run {
    pub fn run(self, output: Output) -> Result<ExitCode> {
        let experiment = self.common.load()?;
        worker::device(&self.device)?;
        if self.sequence_parallel && self.common.tp == 1 {
            return Err(user_error!("--sequence-parallel shards tokens over tensor-parallel ranks; add --tp 2 or more"));
        }
        let results = self.common.results(&experiment);
        writable_results(&results)?;
        writable(&self.common.runs, "the runs folder", "choose another with --runs DIR")?;
        if let Some(prefix) = &self.only
            && !experiment.students.iter().any(|student| student.run.starts_with(prefix.as_str()))
        {
            return Err(user_error!("--only {prefix}: no run id begins with it; see `hydrometer plan`"));
        }
        let settings = schedule::Settings {
            runs: self.common.runs.clone(),
            jobs: self.jobs as usize,
            only: self.only.clone(),
            rerun: self.rerun,
            device: self.device.clone(),
            tp: self.common.tp as usize,
            dp: self.common.dp as usize,
            recompute: self.recompute,
            sequence_parallel: self.sequence_parallel,
            pass_tokens: self.common.pass_tokens(),
            retries: self.retries,
            fail_fast: self.fail_fast,
        };
        let summary = session::run(&experiment, &settings, &count_interrupts()?)?;

        let endings = endings(&experiment, &self.common.runs)?;
        let earlier = earlier(&experiment, &results);
        let current = earlier.as_ref().is_some_and(|(frames, provenance)| {
            // Frames written before checksums were recorded are written again, with checksums.
            !provenance.frames.is_empty() && provenance.experiment_toml == experiment.toml && are_current(frames, &endings)
        });
        if summary.started + summary.elsewhere > 0 || !current {
            let BuiltFrames { mut frames, kept, numerics } =
                build_frames(&experiment, &self.common.runs, earlier.as_ref().map(|(frames, _)| frames))?;
            frames.imports = Some(imports::frame(&experiment, &self.common.runs, &results)?);
            frames.write(&results)?;
            let kept = earlier.map_or(Vec::new(), |(_, provenance)| kept_from(&provenance, &kept));
            let provenance = gather(&experiment, &settings, &results, kept, numerics)?;
            replace_bytes(&results.join(provenance::FILE), serde_json::to_string_pretty(&provenance)?.as_bytes())?;
        }
        remove_parts(&results, Duration::from_secs(3600));
        let files = hydrometer_report::write(&results, &experiment.claims)?;
        let mut all: Vec<_> = NAMES.iter().map(|name| results.join(file_of(name))).collect();
        all.push(results.join(provenance::FILE));
        // Results of older versions have no `imports` frame.
        all.retain(|file| file.exists());
        all.extend(files);
        show(&results, &experiment.claims, &all, output)?;
        if summary.interrupted {
            note!("interrupted; the same command resumes from here");
            return Ok(ExitCode::from(130));
        }
        let trained = experiment.students.len() + experiment.teachers.len();
        let failed = endings[..trained].iter().filter(|(_, ending)| ending.error().is_some());
        match failed.count() {
            0 if summary.short > 0 => {
                note!(
                    "{} jobs ran out of memory; try {}; the same command resumes from here",
                    summary.short,
                    session::cure(&settings)
                );
                Ok(ExitCode::FAILURE)
            }
            0 if summary.undone > 0 => {
                note!("{} jobs could not be done; the same command resumes from here", summary.undone);
                Ok(ExitCode::from(FAILED))
            }
            0 => Ok(ExitCode::SUCCESS),
            count => {
                note!("{count} runs failed or diverged; `--rerun failed` runs them again");
                Ok(ExitCode::from(FAILED))
            }
        }
    }
}

/// How every run of `experiment` has ended: students, teachers, baselines, in this order.
fn endings(experiment: &Experiment, runs: &Path) -> Result<Vec<(RunId, Ending)>> {
    let students = experiment.students.iter().map(|student| student.run.clone());
    let teachers = experiment.teachers.iter().map(|teacher| teacher.run.clone());
    let baselines = baselines(experiment).into_iter().map(|(run, _)| run);
    students.chain(teachers).chain(baselines).map(|run| Ok((run.clone(), ending(runs, &run)?))).collect()
}

/// Whether `frames` contain every run with its present status.
fn are_current(frames: &Frames, endings: &[(RunId, Ending)]) -> bool {
    let Ok(rows) = RunRow::rows(&frames.runs) else { return false };
    let known: BTreeMap<&str, &str> = rows.iter().map(|row| (row.run.as_str(), row.status.as_str())).collect();
    endings.iter().all(|(run, ending)| known.get(run.as_str()) == Some(&ending.status().in_frames()))
}

/// The frames of `experiment` in `results`; `None` if they are missing, damaged, or of another experiment or tier.
fn earlier(experiment: &Experiment, results: &Path) -> Option<(Frames, Provenance)> {
    if !results.join("runs.parquet").exists() {
        return None;
    }
    let replaced = |why: &str| note!("the frames in {} are replaced, not extended: {why}", results.display());
    // Frames are read only if their checksums match.
    let read = || -> Result<Result<(Frames, Provenance), String>> {
        let provenance = Provenance::read(results)?;
        // Frames of older versions have no checksums.
        match &changed(results, &provenance)[..] {
            files if files.is_empty() || provenance.frames.is_empty() => Ok(Ok((Frames::read(results)?, provenance))),
            files => Ok(Err(format!("{} differ from what provenance.json records", files.join(", ")))),
        }
    };
    match read() {
        Ok(Err(why)) => {
            replaced(&why);
            None
        }
        Ok(Ok(found)) => Some(found).filter(|(_, p)| p.experiment == experiment.name && p.smoke == experiment.smoke),
        Err(error) => {
            replaced(&format!("{error:#}"));
            None
        }
    }
}

/// Installs a ctrl-C handler; returns its counter.
pub fn count_interrupts() -> Result<Arc<AtomicUsize>> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    ctrlc::set_handler(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    })
    .context("cannot watch for ctrl-C")?;
    Ok(interrupts)
}
