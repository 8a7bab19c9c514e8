//! `hydrometer export RUN`: exports the weights of a run to a Hugging Face folder.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::writable;
use hydrometer_base::user_error;
use hydrometer_record::export::ANOTHER;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::hf;
use tch::{Device, Kind};

use super::finished_run::FinishedRun;
use crate::note;
use crate::train::checkpoint;

/// Maximum size of a weights file in bytes.
const FILE_BYTES: u64 = 5_000_000_000;

/// Writes the weights and the tokenizer of the run under `runs` whose id begins with `run` to `out`. Returns the run's id.
pub fn export(run: &str, runs: &Path, out: &Path) -> Result<String> {
    let FinishedRun { run, recipe, start, data, weights } = FinishedRun::find(run, runs)?;
    let Some(path) = weights else {
        let start = start.unwrap_or_default();
        return Err(user_error!("{run} is an unmodified checkpoint; copy {}", start.display()));
    };
    let mesh = Mesh::single(Device::Cpu);
    writable(out, "the folder", ANOTHER)?;
    let weights = checkpoint::load_weights(&path, &recipe.model, Kind::Float, &mesh)?;
    let missing = start.as_ref().filter(|folder| !folder.join("config.json").exists());
    if let Some(folder) = missing {
        note!("{} is missing: its special tokens and chat template are not exported", folder.display());
    }
    let tokenizer = data.join("tokenizer.json");
    let special =
        hf::SpecialTokens::of(&tokenizer, start.as_deref().filter(|_| missing.is_none()), recipe.data.examples.as_ref())?;
    if let Some(warning) = special.warning(recipe.model.variant.family) {
        note!("{}: {warning}", out.display());
    }
    hf::export_with(out, &recipe.model, &weights, Some(&special), FILE_BYTES, &mesh)?;
    Ok(run)
}
