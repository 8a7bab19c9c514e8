//! `hydrometer verify`: whether what is committed still follows from its frames.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{Common, NOTHING, Output, REFUTED};
use crate::record::frames::Frames;
use crate::report::claims::decide;
use crate::stats::verdict::Verdict;
use crate::verify::artefacts::{Fault, compare};

pub fn verify(common: &Common, output: Output) -> Result<ExitCode> {
    let experiment = common.load()?;
    let results = common.results(&experiment);
    if !results.join("runs.parquet").exists() {
        let (results, file) = (results.display(), common.experiment.display());
        eprintln!("{results} has no frames, so nothing was verified; run `hydrometer run {file}` first");
        return Ok(ExitCode::from(NOTHING));
    }
    let (same, faults) = compare(&results, &experiment.claims)?;
    let damaged = faults.iter().any(|(_, fault)| matches!(fault, Fault::Damaged(_)));
    let outcomes = if damaged { Vec::new() } else { decide(&experiment.claims, &Frames::read(&results)?)? };
    let refuted = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Refuted).count();
    match output {
        Output::Json => {
            let faults: Vec<_> = faults.iter().map(|(file, fault)| json!({ "file": file, "fault": fault })).collect();
            println!("{:#}", json!({ "experiment": experiment.name, "same": same, "faults": faults, "claims": outcomes }));
        }
        Output::Human => {
            for (file, fault) in &faults {
                let file = results.join(file);
                match fault {
                    Fault::Missing => println!("{} is missing", file.display()),
                    Fault::Changed => println!("{} is not the frame that was written: its checksum differs", file.display()),
                    Fault::Damaged(why) => println!("{} cannot be read: {why}", file.display()),
                    Fault::Unexpected => println!("{} is there, but the experiment claims nothing", file.display()),
                    Fault::Differs { line, expected, found } => {
                        let line = line.map_or(String::new(), |line| format!(":{line}"));
                        println!("{}{line} is not what the frames give\n  frames: {expected}\n  file:   {found}", file.display());
                    }
                }
            }
            outcomes.iter().for_each(|outcome| println!("{}", outcome.sentence));
            let (name, all) = (&experiment.name, same.len() + faults.len());
            println!("{name}: {} of {all} files follow from the frames to the byte; {refuted} claims refuted", same.len());
        }
    }
    Ok(if faults.is_empty() && refuted == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUTED) })
}
