//! `hydrometer verify`: whether what is committed still follows from its frames.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::known::Known;
use super::run::count_interrupts;
use super::{Common, NOTHING, Output, REFUTED};
use crate::experiment::file_name;
use crate::record::frames::{Frames, NAMES, RunRow, file_of};
use crate::record::freeze::freeze;
use crate::record::provenance;
use crate::report::CLAIMS;
use crate::report::claims::{Outcome, decide};
use crate::stats::verdict::Verdict;
use crate::sweep::retry::RETRIES;
use crate::sweep::{schedule, session};
use crate::verify::artefacts::{Fault, Findings, compare};
use crate::verify::numerics::{self, Rung};
use crate::{note, say, terminal};

#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    common: Common,
    /// Train everything again as well, and say how far the numbers agree. --smoke does so too.
    #[arg(long)]
    rerun: bool,
    /// A claim that is refuted is a result: end with 4 only where a file is not what the frames give, or numbers do not come again.
    #[arg(long)]
    accept_refuted: bool,
    /// Runs at a time with --rerun; the same bits need the same number of threads a run.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
}

impl Verify {
    pub fn verify(&self, output: Output) -> Result<ExitCode> {
        let (mut found, mut told) = artefacts(&self.common, self.accept_refuted, output)?;
        if (self.rerun || self.common.smoke) && found != Found::Nothing {
            let (again, numbers) = self.train_again(output)?;
            (found, told["rerun"]) = (found.max(again), numbers);
        }
        if output == Output::Json {
            terminal::json(&told);
        }
        Ok(ExitCode::from(match found {
            Found::Agreement => 0,
            Found::Nothing => NOTHING,
            Found::Refuted => REFUTED,
        }))
    }

    /// Trains the experiment in a folder of its own and compares its numbers with the frames that are there.
    fn train_again(&self, output: Output) -> Result<(Found, Value)> {
        let experiment = self.common.load()?;
        // Damaged frames are named already; there is nothing to hold new numbers against.
        let Ok(kept) = Frames::read(&self.common.results(&experiment)) else { return Ok((Found::Refuted, Value::Null)) };
        let runs = self.common.runs.join(file_name(&format!("rerun-{}", experiment.name)));
        match std::fs::remove_dir_all(&runs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let settings = schedule::Settings {
            runs: runs.clone(),
            jobs: self.jobs as usize,
            only: None,
            rerun: None,
            device: "cpu".into(),
            tp: self.common.tp as usize,
            dp: self.common.dp as usize,
            recompute: false,
            sequence_parallel: false,
            retries: RETRIES,
            fail_fast: false,
        };
        if session::run(&experiment, &settings, &count_interrupts()?)?.interrupted {
            return Err(anyhow!("interrupted; nothing was verified by training"));
        }
        let again = freeze(&experiment, &runs, None)?.frames;
        let mut agreements = numerics::compare(&kept, &again)?;
        let outcomes = decide(&experiment.claims, &again)?;
        let known = decide(&experiment.claims, &kept)?.into_iter().map(|outcome| outcome.verdict == Verdict::Refuted);
        let news: Vec<Outcome> =
            outcomes.iter().zip(known).filter(|(_, known)| !(self.accept_refuted && *known)).map(|(o, _)| o.clone()).collect();
        numerics::hold(&mut agreements, &news);
        let rung = numerics::rung(&agreements, &news);
        if output == Output::Human {
            agreements.iter().for_each(|agreement| say!("{agreement}"));
            outcomes.iter().for_each(|outcome| say!("trained again: {}", outcome.sentence));
            say!("{}: {}", experiment.name, rung.sentence());
        }
        std::fs::remove_dir_all(&runs)?;
        let found = if rung == Rung::Refuted { Found::Refuted } else { Found::Agreement };
        Ok((found, json!({ "rung": rung, "runs": agreements, "claims": outcomes })))
    }
}

/// How a verification ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Agreement,
    Nothing,
    Refuted,
}

/// Compares the files of the results with what their frames give.
fn artefacts(common: &Common, accept_refuted: bool, output: Output) -> Result<(Found, Value)> {
    let Known { name, results, claims, runs } = common.known()?;
    let any = |file: &String| results.join(file).exists();
    if !NAMES.map(file_of).iter().chain([&provenance::FILE.to_string()]).any(any) {
        let (results, file) = (results.display(), common.experiment.display());
        note!("{results} has no frames, so nothing was verified; run `hydrometer run {file}` first");
        return Ok((Found::Nothing, json!({ "experiment": name, "same": [], "faults": [], "claims": [] })));
    }
    let Findings { same, faults, strangers, frames } = compare(&results, &claims)?;
    let outcomes = frames.as_ref().map_or(Ok(Vec::new()), |frames| decide(&claims, frames))?;
    let present = frames.as_ref().map_or(Ok(Vec::new()), |frames| RunRow::rows(&frames.runs))?;
    let has = |run: &str| present.iter().any(|row| row.run == run && row.status != "new");
    let lacking = runs.iter().filter(|run| frames.is_some() && !has(run)).count();
    let refuted = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Refuted).count();
    if output == Output::Human {
        for (file, fault) in &faults {
            sentence(&results.join(file).display().to_string(), fault).lines().for_each(|line| say!("{line}"));
        }
        for file in &strangers {
            say!("{} is no part of the results", results.join(file).display());
        }
        outcomes.iter().for_each(|outcome| say!("{}", outcome.sentence));
        let all = same.len() + faults.len();
        if lacking > 0 {
            say!("{lacking} runs of the file are not in the frames; `hydrometer run` trains them");
        }
        say!("{name}: {} of {all} files follow from the frames to the byte; {refuted} claims refuted", same.len());
    }
    let found = if faults.is_empty() && (refuted == 0 || accept_refuted) { Found::Agreement } else { Found::Refuted };
    let faults: Vec<_> = faults.iter().map(|(file, fault)| json!({ "file": file, "fault": fault })).collect();
    Ok((
        found,
        json!({
            "experiment": name, "same": same, "faults": faults, "strangers": strangers, "lacking": lacking, "claims": outcomes,
        }),
    ))
}

fn sentence(file: &str, fault: &Fault) -> String {
    match fault {
        Fault::Missing => format!("{file} is missing"),
        Fault::Changed { columns, .. } if columns.is_empty() => {
            format!("{file} is not the frame that was written: its checksum differs")
        }
        Fault::Changed { columns, runs } => {
            format!("{file} is not the frame that was written: {} of {} changed", columns.join(", "), runs.join(", "))
        }
        Fault::Unrecorded => format!("{file} has no checksum in provenance.json, so that nothing shows whether it was changed"),
        Fault::Contradiction(why) => format!("{file}: {why}"),
        Fault::Damaged(why) if why.contains(file) => why.clone(),
        Fault::Damaged(why) => format!("{file} cannot be read: {why}"),
        Fault::Unexpected if file.ends_with(CLAIMS) => format!("{file} is there, but the experiment claims nothing"),
        Fault::Unexpected => format!("{file} is there, but the frames do not give it; delete it"),
        Fault::Differs { line, expected, found } => {
            let line = line.map_or(String::new(), |line| format!(":{line}"));
            format!("{file}{line} is not what the frames give\n  frames: {expected}\n  file:   {found}")
        }
    }
}
