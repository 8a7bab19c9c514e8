//! Estimates the cost of a sweep on this machine: time from the journals of finished runs, disk and memory by formula.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::{folders_in, read_if_there};
use hydrometer_base::mean::mean;
use hydrometer_base::run_id::RunId;
use hydrometer_data::recipe::Packing;
use hydrometer_record::journal::{self, Event};
use hydrometer_torch::model::{ModelConfig, Precision};
use serde::Serialize;

use super::ending::Ending;
use super::job::{Job, Work, ending, journal_path};
use super::memory::{Spread, peak_bytes};
use crate::experiment::Experiment;
use crate::experiment::budget::answers;
use crate::train::recipe::TrainRecipe;

/// Approximate size of a training step in a journal.
const STEP_BYTES: u64 = 300;

/// How fast a finished run was.
struct Speed {
    model: ModelConfig,
    context: usize,
    packing: Packing,
    precision: Precision,
    tokens_per_s: f64,
    flops_per_s: f64,
}

/// The speeds of the finished training runs under a runs folder.
pub struct History(Vec<Speed>);

impl History {
    pub fn read(runs: &Path) -> Result<Self> {
        let speeds = folders_in(runs, true)?.into_iter().map(|(_, folder)| speed(&folder));
        Ok(Self(speeds.filter_map(Result::transpose).collect::<Result<_>>()?))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Estimated training time of `recipe` in seconds: at the mean speed of finished runs of the same model, or else at the mean
    /// FLOPs per second of all finished runs. `None` if no run has finished.
    fn seconds(&self, recipe: &TrainRecipe) -> Option<f64> {
        let same = |speed: &&Speed| {
            speed.model == recipe.model
                && (speed.context, speed.packing) == (recipe.data.context, recipe.data.packing)
                && speed.precision == recipe.precision
        };
        match mean(self.0.iter().filter(same).map(|speed| speed.tokens_per_s)) {
            Some(tokens_per_s) => Some(recipe.tokens as f64 / tokens_per_s),
            None => mean(self.0.iter().map(|speed| speed.flops_per_s)).map(|flops| recipe.train_flops() / flops),
        }
    }
}

/// The speed of the run in `folder`, if it is a training run that has finished.
fn speed(folder: &Path) -> Result<Option<Speed>> {
    let text = read_if_there(&folder.join("job.json"))?.unwrap_or_default();
    let Ok(Job { work: Work::Train { recipe, .. }, .. }) = serde_json::from_slice(&text) else { return Ok(None) };
    let events = journal::read(&journal_path(folder))?;
    if Ending::of_events(&events) != Ending::Done {
        return Ok(None);
    }
    let seconds: f64 = events.iter().map(|event| if let Event::Step(step) = event { step.seconds } else { 0.0 }).sum();
    Ok((seconds > 0.0).then(|| Speed {
        model: recipe.model.clone(),
        context: recipe.data.context,
        packing: recipe.data.packing,
        precision: recipe.precision,
        tokens_per_s: recipe.tokens as f64 / seconds,
        flops_per_s: recipe.train_flops() / seconds,
    }))
}

/// The estimated cost of what is left to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    pub runs_left: usize,
    /// Training time of what is left, one run at a time; absent if no run has finished.
    pub seconds_left: Option<f64>,
    /// Upper bound of the disk space of all weights, journals and teacher caches, in bytes.
    pub disk_bytes: u64,
    /// Estimated peak memory of one rank of the largest run, in bytes.
    pub memory_bytes: u64,
}

/// Estimates what is left of `experiment` under `runs`, each run distributed as `spread` says.
pub fn estimate(experiment: &Experiment, runs: &Path, history: &History, spread: &Spread) -> Result<Estimate> {
    let trained =
        experiment.students.iter().map(|s| (&s.run, &s.recipe)).chain(experiment.teachers.iter().map(|t| (&t.run, &t.recipe)));
    let trained: Vec<(&RunId, &TrainRecipe)> = trained.collect();
    let mut left: Vec<&TrainRecipe> = Vec::new();
    for (run, recipe) in &trained {
        if ending(runs, run)?.is_left() {
            left.push(recipe);
        }
    }
    let seconds: Option<Vec<f64>> = left.iter().map(|recipe| history.seconds(recipe)).collect();
    // Final weights in f32. A run in progress also stores the optimizer's two moments in its checkpoints.
    let kept: u64 = trained.iter().map(|(_, r)| 4 * r.model.parameter_count() + STEP_BYTES * r.updates()).sum();
    let under_way = trained.iter().map(|(_, recipe)| 12 * recipe.model.parameter_count()).max().unwrap_or(0);
    let caches = experiment
        .teachers
        .iter()
        .enumerate()
        .map(|(index, teacher)| answers(experiment, index) * teacher.kept.bytes_per_token(teacher.recipe.model.vocab_size));
    Ok(Estimate {
        runs_left: left.len(),
        seconds_left: seconds.map(|seconds| seconds.iter().sum()).filter(|_| !left.is_empty() && !history.is_empty()),
        disk_bytes: kept + under_way + caches.sum::<u64>(),
        memory_bytes: trained.iter().map(|(_, recipe)| peak_bytes(recipe, spread)).max().unwrap_or(0),
    })
}
