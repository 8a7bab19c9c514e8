//! `hydrometer report`: tables, plots and pages from the frames, nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Common, Output};
use crate::record::frames::Frames;
use crate::record::provenance::Provenance;
use crate::report::{comparison, table, write};
use crate::user_error;

pub fn report(common: &Common, output: Output) -> Result<ExitCode> {
    let results = common.results(&common.load()?);
    if !results.join("runs.parquet").exists() {
        let (results, experiment) = (results.display(), common.experiment.display());
        return Err(user_error!("{results} has no frames yet; run `hydrometer run {experiment}` first"));
    }
    let files = write(&results)?;
    show(&results, &files, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the comparison and names the files.
pub fn show(results: &Path, files: &[PathBuf], output: Output) -> Result<()> {
    let path = results.join("provenance.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let provenance: Provenance = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let comparison = comparison(&Frames::read(results)?, &provenance)?;
    match output {
        Output::Json => {
            println!("{:#}", json!({ "experiment": provenance.experiment, "comparison": comparison, "files": files }));
        }
        Output::Human => {
            println!("{}", table::terminal(&comparison));
            for file in files {
                println!("{}", file.display());
            }
        }
    }
    Ok(())
}
