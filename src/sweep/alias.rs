//! Aliases of run folders: after an arm, an axis or a teacher has been renamed, a run's folder is found by its recipe.
//!
//! The folder keeps the name under which it was created; a symbolic link beside it has the new name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::unreadable;
use hydrometer_base::run_id::{RunId, hash_of};
use serde_json::Value;

use super::job::cache_place;
use crate::experiment::Experiment;
use crate::train::recipe::TrainRecipe;

/// For every student, teacher and cache of `experiment` without a folder of its name under `runs`, links to the folder with the
/// same recipe, if there is one. A link that cannot be created costs only time: the work is repeated.
pub fn link(experiment: &Experiment, runs: &Path) -> Result<()> {
    let (mut names, mut by_hash): (BTreeSet<String>, BTreeMap<String, Vec<String>>) = Default::default();
    let entries = match fs::read_dir(runs) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| unreadable(runs, error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(runs, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type() {
            // A link whose folder was deleted.
            Ok(kind) if kind.is_symlink() && !entry.path().exists() => drop(fs::remove_file(entry.path())),
            Ok(kind) => {
                if let (true, Some(hash)) = (kind.is_dir(), hash_of(&name)) {
                    by_hash.entry(hash.to_string()).or_default().push(name.clone());
                }
                names.insert(name);
            }
            Err(_) => {}
        }
    }
    if by_hash.is_empty() {
        return Ok(());
    }
    let students = experiment.students.iter().map(|student| (student.run.clone(), "train", &student.recipe));
    let teachers = experiment.teachers.iter().map(|teacher| (teacher.run.clone(), "train", &teacher.recipe));
    let caches = experiment
        .teachers
        .iter()
        .map(|teacher| (RunId::of_folder(&cache_place(runs, teacher).folder), "teach", &teacher.recipe));
    for (run, work, recipe) in students.chain(teachers).chain(caches).filter(|(run, ..)| !names.contains(run.as_str())) {
        let candidates = run.hash().and_then(|hash| by_hash.get(hash)).into_iter().flatten();
        if let Some(known) = candidates.into_iter().find(|known| holds(&runs.join(known), work, recipe)) {
            let _ = symlink(known, runs.join(&run));
        }
    }
    Ok(())
}

/// Whether the job in `folder` does `work` with exactly `recipe`. The hash in a folder's name is too short to prove it.
fn holds(folder: &Path, work: &str, recipe: &TrainRecipe) -> bool {
    let job = fs::read(folder.join("job.json")).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let stored = job.as_ref().and_then(|job| job.pointer(&format!("/work/{work}/recipe")));
    stored.is_some() && stored == serde_json::to_value(recipe).ok().as_ref()
}
