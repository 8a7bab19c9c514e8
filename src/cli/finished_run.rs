//! The weights of a finished run, found by its id.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{folders_in, read_if_there};
use hydrometer_base::user_error;

use crate::sweep::ending::Ending;
use crate::sweep::job::{Job, Work, ending_in};
use crate::train::checkpoint;
use crate::train::recipe::TrainRecipe;
use crate::train::run::final_weights;

/// A student or teacher that is done.
pub struct FinishedRun {
    pub run: String,
    pub recipe: Box<TrainRecipe>,
    /// The folder of the checkpoint that it started from.
    pub start: Option<PathBuf>,
    /// The folder of the tokenised data, with `tokenizer.json`.
    pub data: PathBuf,
    /// Its final weights; an unmodified checkpoint has none.
    pub weights: Option<PathBuf>,
}

impl FinishedRun {
    /// The run under `runs` whose id begins with `run`. A user error unless it is done and its weights are intact.
    pub fn find(run: &str, runs: &Path) -> Result<Self> {
        let run = find(run, runs)?;
        let folder = runs.join(&run);
        let path = folder.join("job.json");
        let text = fs::read(&path).map_err(|error| user_error!("{}: {error}", path.display()))?;
        let job: Job = serde_json::from_slice(&text).map_err(|error| user_error!("{}: {error}", path.display()))?;
        let Work::Train { recipe, start, .. } = job.work else {
            return Err(user_error!("{run} has no weights: only students and teachers have them"));
        };
        if ending_in(&folder)? != Ending::Done {
            return Err(user_error!("{run} is not done; `hydrometer status` shows its progress"));
        }
        let weights = match recipe.is_untrained() && start.is_some() {
            true => None,
            false => Some(final_weights(&folder)),
        };
        if let Some(path) = weights.as_ref().filter(|path| !checkpoint::verify_checksum(path)) {
            return Err(user_error!(
                "{} is damaged: its checksum does not match; `hydrometer run E.toml --only {run} --rerun all` trains it again",
                path.display()
            ));
        }
        Ok(Self { run, recipe, start, data: job.data, weights })
    }
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
