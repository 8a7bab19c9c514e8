//! Prepares what jobs read: tokenised data, and the caches of teachers that come from a file or an endpoint.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use hydrometer_base::fs::remove_parts;
use hydrometer_data::batch::sequences_seen;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::{self, TokenizedSplit};
use hydrometer_torch::model::hf;

use super::ending::Ending;
use super::job::{answers_folder, data_folder, data_sets, ending, recording_place, writers};
use super::lease::{Lease, LeaseObserver};
use super::schedule::{Settings, views};
use crate::eval::writing::Prompts;
use crate::experiment::Experiment;
use crate::teacher::cache::Cache;
use crate::teacher::endpoint::prompt_scorer::PromptScorer;
use crate::teacher::recorded;
use crate::teacher::recording::Origin;

/// Prepares `experiment`; `interrupts` counts ctrl-C. Returns false if interrupted before everything was ready.
pub fn prepare(experiment: &Experiment, settings: &Settings, interrupts: &AtomicUsize) -> Result<bool> {
    let interrupts = || interrupts.load(Ordering::Relaxed);
    let lease = |folder: &Path| -> Result<Option<Lease>> {
        LeaseObserver::new(folder).wait(|sentence| tracing::info!("{sentence}"), || interrupts() > 0)
    };
    check_checkpoints(experiment, &settings.runs)?;
    for (folder, recipe, files, splits) in data_sets(experiment, &settings.runs) {
        let splits: Vec<&str> = splits.iter().map(String::as_str).collect();
        let Some(_lease) = lease(&folder)? else { return Ok(false) };
        remove_parts(&folder, Duration::ZERO);
        tokens::prepare(&recipe.data, &files, &splits, &folder)?;
    }
    for writer in writers(experiment) {
        let data = data_folder(&settings.runs, &writer.recipe.data);
        Prompts::encode(&writer.task.recipe, &writer.task.asked, writer.recipe.writing(), &data)?;
    }
    for recording in &experiment.recordings {
        let place = recording_place(&settings.runs, recording);
        let data = data_folder(&settings.runs, &recording.data);
        let Some(_lease) = lease(&place.folder)? else { return Ok(false) };
        match &recording.origin {
            Origin::File(file) => {
                for path in Cache::remove_corrupt(&place.folder, &place.title)? {
                    tracing::warn!("{} is damaged; its contents are imported again", path.display());
                }
                let arms =
                    experiment.students_of(recording).map(|student| (student.method.as_str(), student.recipe.loss.objective));
                recorded::prepare(recording, file, &data, &place.folder, &place.title, &arms.collect::<Vec<_>>())?;
            }
            Origin::Endpoint(asked) => {
                let responses = answers_folder(&settings.runs, asked);
                let Some(lease) = lease(&responses)? else { return Ok(false) };
                let train = TokenizedSplit::read(&data.join("train.tokens"))?;
                let mine = experiment.students_of(recording).filter(|student| settings.selects(&student.run));
                let wanted = sequences_seen(&sequences(&train, recording.data.context), &views(mine));
                let tokenizer = tokens::tokenizer_of(&recording.data, &recording.files, &data)?;
                let scorer = PromptScorer {
                    name: &recording.name,
                    recipe: &asked.recipe,
                    service: &asked.service,
                    tokenizer: &tokenizer,
                    examples: recording.data.examples.as_ref(),
                    split: &train,
                    context: recording.data.context,
                    title: &place.title,
                };
                if scorer.prepare(&wanted, (&responses, lease.fence()), &place.folder, interrupts)?.is_none() {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Refuses checkpoints that contain non-finite numbers, before any run starts from them. Checkpoints that only finished runs have
/// used are not checked.
fn check_checkpoints(experiment: &Experiment, runs: &Path) -> Result<()> {
    let students = experiment.students.iter().map(|student| (&student.run, &student.start));
    let teachers = experiment.teachers.iter().map(|teacher| (&teacher.run, &teacher.start));
    let mut folders = BTreeSet::new();
    for (run, start) in students.chain(teachers) {
        if let Some(folder) = start
            && ending(runs, run)? != Ending::Done
        {
            folders.insert(folder);
        }
    }
    folders.into_iter().try_for_each(|folder| hf::open(folder)?.check_numbers())
}
