//! `hydrometer export RUN`: exports the weights of a run to a Hugging Face folder.

use std::fs;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::{folders_in, read_if_there, writable};
use hydrometer_base::user_error;
use hydrometer_record::export::ANOTHER;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::hf;
use tch::{Device, Kind};

use crate::note;
use crate::sweep::ending::Ending;
use crate::sweep::job::{Job, Work, ending_in};
use crate::train::checkpoint;
use crate::train::run::final_weights;

/// Maximum size of a weights file in bytes.
const FILE_BYTES: u64 = 5_000_000_000;

/// Writes the weights and the tokenizer of the run under `runs` whose id begins with `run` to `out`. Returns the run's id.
pub fn export(run: &str, runs: &Path, out: &Path) -> Result<String> {
    let run = find(run, runs)?;
    let folder = runs.join(&run);
    let path = folder.join("job.json");
    let text = fs::read(&path).map_err(|error| user_error!("{}: {error}", path.display()))?;
    let job: Job = serde_json::from_slice(&text).map_err(|error| user_error!("{}: {error}", path.display()))?;
    let Work::Train { recipe, start, .. } = job.work else {
        return Err(user_error!("{run} has no weights: only students and teachers can be exported"));
    };
    if ending_in(&folder)? != Ending::Done {
        return Err(user_error!("{run} is not done; `hydrometer status` shows its progress"));
    }
    if let (true, Some(start)) = (recipe.is_untrained(), &start) {
        return Err(user_error!("{run} is an unmodified checkpoint; copy {}", start.display()));
    }
    let mesh = Mesh::single(Device::Cpu);
    let path = final_weights(&folder);
    if !checkpoint::verify_checksum(&path) {
        return Err(user_error!(
            "{} is damaged: its checksum does not match; `hydrometer run E.toml --only {run} --rerun all` trains it again",
            path.display()
        ));
    }
    writable(out, "the folder", ANOTHER)?;
    let weights = checkpoint::load_weights(&path, &recipe.model, Kind::Float, &mesh)?;
    let missing = start.as_ref().filter(|folder| !folder.join("config.json").exists());
    if let Some(folder) = missing {
        note!("{} is missing: its special tokens and chat template are not exported", folder.display());
    }
    let tokenizer = job.data.join("tokenizer.json");
    let special =
        hf::SpecialTokens::of(&tokenizer, start.as_deref().filter(|_| missing.is_none()), recipe.data.examples.as_ref())?;
    if let Some(warning) = special.warning(recipe.model.variant.family) {
        note!("{}: {warning}", out.display());
    }
    hf::export_with(out, &recipe.model, &weights, Some(&special), FILE_BYTES, &mesh)?;
    Ok(run)
}

/// The only run under `runs` whose id begins with `run`. A user error if there is none or more than one.
fn find(run: &str, runs: &Path) -> Result<String> {
    let mut names = Vec::new();
    for (name, folder) in folders_in(runs, true)? {
        if name.starts_with(run) && read_if_there(&folder.join("job.json"))?.is_some() {
            names.push(name);
        }
    }
    match &names[..] {
        [one] => Ok(one.clone()),
        _ if names.iter().any(|name| name == run) => Ok(run.to_string()),
        [] => Err(user_error!("{}: no run begins with {}; see `hydrometer plan`", runs.display(), run)),
        several => Err(user_error!("{} begin with {}: give more of the id", several.join(", "), run)),
    }
}
