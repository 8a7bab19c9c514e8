//! `hydrometer report`: writes tables, plots and pages from the frames alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use hydrometer_base::fs::writable;
use hydrometer_base::user_error;
use hydrometer_record::checked::{changed, warning};
use hydrometer_record::frames::{Frames, NAMES, file_of};
use hydrometer_record::provenance::{self, Provenance};
use hydrometer_report::claim::Claim;
use hydrometer_report::claims::decide;
use hydrometer_report::{CLAIMS, comparison, table, write};
use serde_json::json;

use super::saved_experiment::SavedExperiment;
use super::{Common, Output, REFUTED, terminal};
use crate::{note, say};

pub fn report(common: &Common, output: Output) -> Result<ExitCode> {
    let SavedExperiment { results, claims, .. } = common.known()?;
    if !results.join("runs.parquet").exists() {
        let (results, file) = (results.display(), common.experiment.display());
        return Err(user_error!("{results} has no frames yet; run `hydrometer run {file}` first"));
    }
    let provenance = Provenance::read(&results)?;
    if let Some(warning) = warning(&results, &changed(&results, &provenance)) {
        note!("{warning}; no page was written");
        return Ok(ExitCode::from(REFUTED));
    }
    writable_results(&results)?;
    let files = write(&results, &claims)?;
    show(&results, &claims, &files, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that the pages of `results` can be written, before any work starts.
pub fn writable_results(results: &Path) -> Result<()> {
    let cure = "choose another with --results DIR";
    writable(results, "the results folder", cure)?;
    if results.join("plots").exists() {
        writable(&results.join("plots"), "the folder of plots", cure)?;
    }
    let pages = [CLAIMS, "report.md", "report.html", provenance::FILE].map(String::from);
    match pages.into_iter().chain(NAMES.map(file_of)).map(|name| results.join(name)).find(|path| path.is_dir()) {
        Some(path) => Err(user_error!("{} is a folder where a file is to be written; move it away, or {cure}", path.display())),
        None => Ok(()),
    }
}

/// Prints the claims and the comparison, and names the files.
pub fn show(results: &Path, claims: &[Claim], files: &[PathBuf], output: Output) -> Result<()> {
    let provenance = Provenance::read(results)?;
    let frames = Frames::read(results)?;
    let (comparison, claims) = (comparison(&frames, &provenance)?, decide(claims, &frames)?);
    match output {
        Output::Json => {
            let experiment = provenance.experiment;
            terminal::json(&json!({ "experiment": experiment, "claims": claims, "comparison": comparison, "files": files }));
        }
        Output::Human => {
            claims.iter().for_each(|claim| say!("{}", claim.sentence));
            terminal::block(&table::terminal(&comparison));
            for file in files {
                say!("{}", file.display());
            }
        }
    }
    Ok(())
}
