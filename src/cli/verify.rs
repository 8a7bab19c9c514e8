//! `hydrometer verify`: checks that committed files follow from their frames and, on request, that training reproduces the
//! numbers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use hydrometer_base::fs::file_name;
use hydrometer_base::numerics::{NUMERICS, changes_since, family, foreign_setting};
use hydrometer_base::text::quoted;
use hydrometer_base::{cores, user_error};
use hydrometer_record::frames::{Frames, NAMES, RunRow, file_of};
use hydrometer_record::provenance;
use hydrometer_record::run_status::RunStatus;
use hydrometer_report::CLAIMS;
use hydrometer_report::claims::{Outcome, decide};
use hydrometer_report::stats::verdict::Verdict;
use hydrometer_report::verify::artefacts::{Findings, Mismatch, compare};
use hydrometer_report::verify::golden::{self, Golden};
use hydrometer_report::verify::numerics::{self, ReproLevel, TOLERANCE};
use hydrometer_torch::dist::c10d::torch_version;
use hydrometer_torch::model::Precision;
use serde_json::{Value, json};

use super::run::count_interrupts;
use super::saved_experiment::SavedExperiment;
use super::{Common, NOTHING, Output, REFUTED, terminal};
use crate::experiment::{Experiment, load_smoke_in};
use crate::sweep::build_frames::build_frames;
use crate::sweep::session::RETRIES;
use crate::sweep::{schedule, session};
use crate::{note, say};

/// The number formats that a golden covers, whatever the experiment file says.
const GOLDEN_PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    common: Common,
    /// Also train everything again, and report how closely the numbers agree with the results.
    #[arg(long)]
    rerun: bool,
    /// Accept refuted claims: exit with code 4 only if a file does not follow from its frames or numbers are not reproduced.
    #[arg(long)]
    accept_refuted: bool,
    /// Accept results of an older version of the arithmetic, which are known to be stale; fail if they are not stale.
    #[arg(long)]
    accept_stale: bool,
    /// With --smoke: write the numbers of the smoke tier as the golden of this machine's CPU family, instead of comparing.
    #[arg(long, requires = "smoke", conflicts_with = "rerun")]
    write_golden: bool,
    /// The folder with the goldens of all experiments.
    #[arg(long, value_name = "DIR", default_value = "results/goldens")]
    goldens: PathBuf,
    /// Number of runs at a time when training [default: 1; with a golden, as many as leave each run the golden's thread count].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
}

impl Verify {
    pub fn verify(&self, output: Output) -> Result<ExitCode> {
        let (mut found, mut document) = artefacts(self, output)?;
        let interrupts = if self.rerun || self.common.smoke { count_interrupts()? } else { Arc::default() };
        if self.rerun && found != Finding::Nothing {
            let (again, numbers) = self.train_again(output, &interrupts)?;
            (found, document["rerun"]) = (found.max(again), numbers);
        }
        if self.common.smoke {
            let (golden, numbers) = self.golden(output, &interrupts)?;
            found = match (found, golden) {
                // It is enough if one of the two had something to verify.
                (Finding::Nothing, other) | (other, Finding::Nothing) => other,
                (one, other) => one.max(other),
            };
            document["golden"] = numbers;
        }
        if output == Output::Json {
            terminal::json(&document);
        }
        Ok(ExitCode::from(match found {
            Finding::Agreement => 0,
            Finding::Nothing => NOTHING,
            Finding::Refuted => REFUTED,
        }))
    }

    /// Trains the experiment in a separate folder and compares its numbers with the existing frames.
    fn train_again(&self, output: Output, interrupts: &Arc<AtomicUsize>) -> Result<(Finding, Value)> {
        let experiment = self.common.load()?;
        // Damaged frames have been reported already; there is nothing to compare with.
        let Ok(kept) = Frames::read(&self.common.results(&experiment)) else { return Ok((Finding::Refuted, Value::Null)) };
        let again = self.train(std::slice::from_ref(&experiment), self.jobs.unwrap_or(1), interrupts)?;
        let again = again.first().context("nothing was trained")?;
        let mut agreements = numerics::compare(&kept, again)?;
        let outcomes = decide(&experiment.claims, again)?;
        let known = decide(&experiment.claims, &kept)?.into_iter().map(|outcome| outcome.verdict == Verdict::Refuted);
        let new: Vec<Outcome> =
            outcomes.iter().zip(known).filter(|(_, known)| !(self.accept_refuted && *known)).map(|(o, _)| o.clone()).collect();
        numerics::apply_claims(&mut agreements, &new);
        let rung = numerics::rung(&agreements, &new);
        if output == Output::Human {
            agreements.iter().for_each(|agreement| say!("{agreement}"));
            outcomes.iter().for_each(|outcome| say!("trained again: {}", outcome.sentence));
            say!("{}: {}", experiment.name, rung.sentence());
        }
        let found = if rung == ReproLevel::Refuted { Finding::Refuted } else { Finding::Agreement };
        Ok((found, json!({ "rung": rung, "runs": agreements, "claims": outcomes })))
    }

    /// Trains the smoke tier in every precision and compares it with the golden of this machine's CPU family bit by bit, or with
    /// that of another family within a tolerance.
    fn golden(&self, output: Output, interrupts: &Arc<AtomicUsize>) -> Result<(Finding, Value)> {
        let experiment = self.common.load()?;
        let (name, file) = (&experiment.name, self.common.experiment.display());
        let folder = self.goldens.join(file_name(name));
        if let Some((setting, value)) = foreign_setting() {
            return Err(user_error!(
                "{setting} is set to {}, which changes the trained numbers in their last bits; unset it to compare with goldens",
                quoted(&value)
            ));
        }
        let kept = match golden::nearest(&folder) {
            _ if self.write_golden => None,
            Ok(None) => {
                note!(
                    "{} has no goldens, so the smoke tier of {name} was not trained; `hydrometer verify {file} --smoke \
                     --write-golden` writes one for this machine's family, {}",
                    folder.display(),
                    family()
                );
                return Ok((Finding::Nothing, Value::Null));
            }
            Ok(found) => found,
            Err(error) => {
                say_line(output, format_args!("{error:#}; restore the committed one with git"));
                return Ok((Finding::Refuted, json!({ "fault": format!("{error:#}") })));
            }
        };
        if let Some(kept) = kept.as_ref().filter(|kept| kept.golden.numerics != NUMERICS) {
            let (path, version) = (kept.path.display(), kept.golden.numerics);
            let fault = format!(
                "{path} is stale: it was made by numerics {version}, but the code has {NUMERICS}; --write-golden replaces it"
            );
            say_line(output, format_args!("{fault}"));
            return Ok((Finding::Refuted, json!({ "file": kept.path, "fault": fault })));
        }
        let ranks = i64::from(self.common.tp) * i64::from(self.common.dp);
        if self.write_golden && self.common.pass_tokens.is_some() {
            return Err(user_error!("goldens are written with the default pass size; leave out --pass-tokens"));
        }
        if self.write_golden && ranks > 1 {
            return Err(user_error!("goldens are written with one rank per run; leave out --tp and --dp"));
        }
        // Choose the number of concurrent runs such that each gets the golden's thread count.
        let threads = kept.as_ref().and_then(|kept| usize::try_from(kept.golden.threads).ok()).filter(|&n| n > 0 && ranks == 1);
        let jobs = self.jobs.unwrap_or(threads.map_or(1, |threads| (cores() / threads).max(1) as u32));
        let load = |precision| load_smoke_in(&self.common.experiment, precision, &self.common.options());
        let variants = GOLDEN_PRECISIONS.map(load).into_iter().collect::<Result<Vec<_>>>()?;
        let frames = self.train(&variants, jobs, interrupts)?;
        let Some(golden::Read { path, golden, whole }) = kept else {
            let path = Golden::of(name, &frames, &torch_version())?.write(&folder)?;
            say_line(output, format_args!("{}", path.display()));
            return Ok((Finding::Agreement, json!({ "file": path })));
        };
        let threads = golden::threads(&frames)?;
        let exact = ranks == 1 && self.common.pass_tokens.is_none() && golden.is_exact(threads, &torch_version());
        let mut agreements = golden.compare(&frames)?;
        if exact {
            agreements.iter_mut().filter(|one| one.rung != ReproLevel::Bitwise).for_each(|one| one.rung = ReproLevel::Refuted);
        }
        let rung = agreements.iter().map(|agreement| agreement.rung).max().unwrap_or(ReproLevel::Refuted);
        let held = whole && rung != ReproLevel::Refuted;
        if output == Output::Human {
            agreements.iter().for_each(|agreement| say!("{agreement}"));
            if !whole {
                say!("{} is not the text that was written: it was edited, or its checksum differs", path.display());
            }
            let Golden { cpu_family, threads: its, libtorch, .. } = &golden;
            let (path, tolerance) = (path.display(), 100.0 * TOLERANCE);
            match exact {
                true => say!("{path}: this machine's family, {its} threads per run, libtorch {libtorch}: compared bit by bit"),
                false => say!(
                    "{path}: made on {cpu_family}, {its} threads per run, libtorch {libtorch}; this is {}, {threads} threads{}, libtorch {}: \
                     evaluations are compared within {tolerance}%, not bit by bit",
                    family(),
                    if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() },
                    torch_version()
                ),
            }
            let (holds, how) =
                (if held { "holds" } else { "does not hold" }, if exact { "to the bit" } else { "within the tolerance" });
            say!("{name}: the golden of the smoke tier {holds} {how}");
        }
        let found = if held { Finding::Agreement } else { Finding::Refuted };
        Ok((found, json!({ "file": path, "whole": whole, "exact": exact, "rung": rung, "runs": agreements })))
    }

    /// Trains `experiments`, one after the other, in a temporary folder.
    fn train(&self, experiments: &[Experiment], jobs: u32, interrupts: &Arc<AtomicUsize>) -> Result<Vec<Frames>> {
        let name = experiments.first().map_or("", |experiment| &experiment.name);
        let runs = self.common.runs.join(file_name(&format!("rerun-{name}")));
        match std::fs::remove_dir_all(&runs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let settings = schedule::Settings {
            runs: runs.clone(),
            jobs: jobs as usize,
            only: None,
            rerun: None,
            device: "cpu".into(),
            tp: self.common.tp as usize,
            dp: self.common.dp as usize,
            recompute: false,
            sequence_parallel: false,
            pass_tokens: self.common.pass_tokens(),
            retries: RETRIES,
            fail_fast: false,
        };
        let mut all = Vec::new();
        for experiment in experiments {
            if session::run(experiment, &settings, interrupts)?.interrupted {
                return Err(anyhow!("interrupted; nothing was verified by training"));
            }
            all.push(build_frames(experiment, &runs, None)?.frames);
        }
        std::fs::remove_dir_all(&runs)?;
        Ok(all)
    }
}

/// Prints a line, unless the output is JSON.
fn say_line(output: Output, line: std::fmt::Arguments) {
    if output == Output::Human {
        say!("{line}");
    }
}

/// The outcome of a verification, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Agreement,
    Nothing,
    Refuted,
}

/// Compares the files of the results with those rebuilt from their frames.
fn artefacts(verify: &Verify, output: Output) -> Result<(Finding, Value)> {
    let Verify { common, accept_refuted, accept_stale, .. } = verify;
    let SavedExperiment { name, results, claims, runs } = common.known()?;
    let any = |file: &String| results.join(file).exists();
    if !NAMES.map(file_of).iter().chain([&provenance::FILE.to_string()]).any(any) {
        let (results, file) = (results.display(), common.experiment.display());
        // A smoke tier can still be verified against its goldens.
        if !common.smoke {
            note!("{results} has no frames, so nothing was verified; run `hydrometer run {file}` first");
        }
        return Ok((Finding::Nothing, json!({ "experiment": name, "same": [], "faults": [], "claims": [] })));
    }
    let Findings { same, faults, strangers, frames, numerics } = compare(&results, &claims)?;
    let outcomes = frames.as_ref().map_or(Ok(Vec::new()), |frames| decide(&claims, frames))?;
    let present = frames.as_ref().map_or(Ok(Vec::new()), |frames| RunRow::rows(&frames.runs))?;
    let has = |run: &str| present.iter().any(|row| row.run == run && row.status != RunStatus::New.in_frames());
    let lacking = runs.iter().filter(|run| frames.is_some() && !has(run)).count();
    let stale = numerics.is_some_and(|numerics| numerics < NUMERICS);
    let age = numerics.and_then(|numerics| age(numerics, *accept_stale));
    let current = if stale { *accept_stale } else { age.is_none() };
    let refuted = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Refuted).count();
    if output == Output::Human {
        for (file, fault) in &faults {
            sentence(&results.join(file).display().to_string(), fault).lines().for_each(|line| say!("{line}"));
        }
        for file in &strangers {
            say!("{} does not belong to the results", results.join(file).display());
        }
        outcomes.iter().for_each(|outcome| say!("{}", outcome.sentence));
        if let Some(sentence) = &age {
            say!("{}: {sentence}", results.display());
        }
        let all = same.len() + faults.len();
        if lacking > 0 {
            say!("{lacking} runs of the file are missing from the frames; `hydrometer run` trains them");
        }
        say!("{name}: {} of {all} files follow from the frames to the byte; {refuted} claims refuted", same.len());
    }
    let found =
        if faults.is_empty() && current && (refuted == 0 || *accept_refuted) { Finding::Agreement } else { Finding::Refuted };
    let faults: Vec<_> = faults.iter().map(|(file, fault)| json!({ "file": file, "fault": fault })).collect();
    Ok((
        found,
        json!({
            "experiment": name, "same": same, "faults": faults, "strangers": strangers, "lacking": lacking, "claims": outcomes,
            "numerics": { "result": numerics, "code": NUMERICS, "stale": stale },
        }),
    ))
}

/// A sentence on results made by another version of the arithmetic, or wrongly listed as stale; `None` if all is well.
fn age(version: u32, accept_stale: bool) -> Option<String> {
    match (version, accept_stale) {
        (NUMERICS, false) => None,
        (NUMERICS, true) => {
            Some("not stale; leave out --accept-stale, and remove the experiment from the list of stale ones".into())
        }
        (newer, _) if newer > NUMERICS => {
            Some(format!("made by numerics {newer}, but this program has the older version {NUMERICS}"))
        }
        (older, accepted) => {
            let changed: Vec<&str> = changes_since(older).map(|change| change.what).collect();
            let what = if accepted { "stale, as expected" } else { "stale" };
            let cure = if accepted { "" } else { "; `hydrometer run` with an empty runs folder, --runs DIR, makes them again" };
            Some(format!(
                "{what}: made by numerics {older}, but the code has {NUMERICS}, which changed {}{cure}",
                changed.join(" and ")
            ))
        }
    }
}

fn sentence(file: &str, fault: &Mismatch) -> String {
    match fault {
        Mismatch::Missing => format!("{file} is missing"),
        Mismatch::Changed { columns, .. } if columns.is_empty() => {
            format!("{file} is not the frame that was written: its checksum differs")
        }
        Mismatch::Changed { columns, runs } => {
            format!("{file} is not the frame that was written: {} of {} changed", columns.join(", "), runs.join(", "))
        }
        Mismatch::Unrecorded => {
            format!("{file} has no checksum in provenance.json, so changes to it cannot be detected")
        }
        Mismatch::Contradiction(why) => format!("{file}: {why}"),
        Mismatch::Damaged(why) if why.contains(file) => why.clone(),
        Mismatch::Damaged(why) => format!("{file} cannot be read: {why}"),
        Mismatch::Unexpected if file.ends_with(CLAIMS) => format!("{file} exists, but the experiment has no claims"),
        Mismatch::Unexpected => format!("{file} exists, but does not follow from the frames; delete it"),
        Mismatch::Differs { line, expected, found } => {
            let line = line.map_or(String::new(), |line| format!(":{line}"));
            format!("{file}{line} differs from what the frames give\n  frames: {expected}\n  file:   {found}")
        }
    }
}
