//! `hydrometer report`: tables, plots and pages from the frames, nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::known::Known;
use super::{Common, Output, place};
use crate::experiment::claim::Claim;
use crate::record::frames::Frames;
use crate::record::provenance::Provenance;
use crate::report::claims::decide;
use crate::report::{comparison, table, write};
use crate::{say, terminal, user_error};

pub fn report(common: &Common, output: Output) -> Result<ExitCode> {
    let Known { results, claims, .. } = common.known()?;
    if !results.join("runs.parquet").exists() {
        let (results, file) = (results.display(), common.experiment.display());
        return Err(user_error!("{results} has no frames yet; run `hydrometer run {file}` first"));
    }
    place::folder(&results, "results", "--results DIR")?;
    let files = write(&results, &claims)?;
    show(&results, &claims, &files, output)?;
    Ok(ExitCode::SUCCESS)
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
