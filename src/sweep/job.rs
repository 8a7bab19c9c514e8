//! A unit of work, as handed to the processes that do it, and what its journal says of it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::identity::identity;
use hydrometer_base::run_id::RunId;
use hydrometer_data::batch::DataView;
use hydrometer_data::recipe::{DataFiles, DataRecipe};
use hydrometer_record::journal;
use serde::{Deserialize, Serialize};

use super::ending::Ending;
use crate::experiment::{Experiment, Student, Teacher};
use crate::teacher::manifest::CacheManifest;
use crate::teacher::recipe::EndpointRecipe;
use crate::teacher::recording::{Asked, Recording};
use crate::train::recipe::TrainRecipe;

/// A job, complete: written to `job.json` in its folder and read by every rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub run: RunId,
    /// Journal, log, checkpoints.
    pub folder: PathBuf,
    /// Tokenised splits.
    pub data: PathBuf,
    pub work: Work,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// CPU threads of each rank.
    pub threads: usize,
    pub tp: usize,
    pub dp: usize,
    /// Compute activations again on the way back.
    #[serde(default)]
    pub recompute: bool,
    /// Tensor-parallel ranks share out the tokens between their parts.
    #[serde(default)]
    pub sequence_parallel: bool,
    /// Most input tokens of a pass of one data-parallel rank, where training is not to use the recipe's default.
    #[serde(default)]
    pub pass_tokens: Option<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Train {
        recipe: Box<TrainRecipe>,
        /// The folder of the checkpoint that it starts from.
        #[serde(default)]
        start: Option<PathBuf>,
        cache: Option<CachePlace>,
    },
    /// The teacher whose run is `weights`, or that is the checkpoint `start`, answers for what students with these views of the data will see.
    Teach {
        recipe: Box<TrainRecipe>,
        weights: PathBuf,
        #[serde(default)]
        start: Option<PathBuf>,
        students: Vec<DataView>,
        cache: CachePlace,
    },
    /// How near the student whose run is `student` has come to its teacher, on held-out text.
    #[serde(rename = "compare")]
    Fidelity {
        recipe: Box<TrainRecipe>,
        student: PathBuf,
        teacher: Box<TrainRecipe>,
        /// The teacher's run, and the checkpoint that it is or started from.
        weights: PathBuf,
        #[serde(default)]
        start: Option<PathBuf>,
    },
    /// Unigram frequencies of the train split, evaluated as a student would be.
    Unigram { recipe: Box<TrainRecipe> },
}

impl Job {
    /// Most input tokens of a pass when it trains `recipe`.
    pub fn pass_tokens_of(&self, recipe: &TrainRecipe) -> usize {
        self.pass_tokens.unwrap_or_else(|| recipe.pass_tokens())
    }
}

impl Work {
    /// Whether done work may have to be done again for more.
    pub fn grows(&self) -> bool {
        matches!(self, Work::Teach { .. })
    }
}

/// Where a teacher's answers are and what they are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachePlace {
    pub folder: PathBuf,
    pub title: CacheManifest,
}

pub fn journal_path(folder: &Path) -> PathBuf {
    folder.join(journal::FILE)
}

/// How run `run` under `runs` has ended.
pub fn ending(runs: &Path, run: &str) -> Result<Ending> {
    ending_in(&runs.join(run))
}

/// How the job in `folder` has ended.
pub fn ending_in(folder: &Path) -> Result<Ending> {
    Ok(Ending::of_events(&journal::read(&journal_path(folder))?))
}

/// The folder of the tokenised data of `recipe`.
pub fn data_folder(runs: &Path, recipe: &DataRecipe) -> PathBuf {
    // Rows are packed when they are read.
    let mut data = recipe.unpacked();
    if data.examples.is_none() {
        // The context cuts sequences, not tokens; only examples are fitted into it.
        data.context = 0;
    }
    runs.join(RunId::new("data", &data))
}

/// The cache of `teacher`.
pub fn cache_place(runs: &Path, teacher: &Teacher) -> CachePlace {
    let Teacher { name, recipe, kept, vocab_size, .. } = teacher;
    // A tokenizer that is trained here follows from the text.
    let tokenizer = identity(&(&recipe.data.content, &recipe.data.tokenizer));
    let title = CacheManifest::new(recipe.answers_identity(), tokenizer, *vocab_size, kept.clone());
    CachePlace { folder: cache_folder(runs, name, &title), title }
}

/// The teacher that `student` is held against: its own, or that of the others where they have only one for its data.
pub fn fidelity_teacher(experiment: &Experiment, student: &Student) -> Option<usize> {
    let data = &student.recipe.data;
    let same = |teacher: &Teacher| match teacher.recipe.is_untrained() {
        // It was packed for no training.
        true => teacher.recipe.data == data.unpacked(),
        false => teacher.recipe.data == *data,
    };
    let mut all = (0..experiment.teachers.len()).filter(|&index| same(&experiment.teachers[index]));
    student.trained_teacher().or(match (all.next(), all.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    })
}

/// The run that holds `student` against `teacher`.
pub fn fidelity_run(student: &Student, teacher: &Teacher) -> RunId {
    RunId::new("fidelity", &(&student.recipe, teacher.recipe.answers_identity()))
}

/// The cache of a recording.
pub fn recording_place(runs: &Path, recording: &Recording) -> CachePlace {
    let Recording { name, origin, data, kept, .. } = recording;
    let tokenizer = identity(&(&data.content, &data.tokenizer));
    let title = CacheManifest::new(origin.identity(data), tokenizer, data.tokenizer.vocab_size(), kept.clone());
    CachePlace { folder: cache_folder(runs, name, &title), title }
}

/// The folder of the cache of teacher `name` that `title` describes. The hash tells caches apart whose names are cleaned alike.
fn cache_folder(runs: &Path, name: &str, title: &CacheManifest) -> PathBuf {
    runs.join(RunId::hashed(&format!("cache-{name}-{}", title.kept.tag()), &title.hash()[..8]))
}

/// Where every answer that a model behind an endpoint gave is kept, for all experiments that ask it.
pub fn answers_folder(runs: &Path, asked: &Asked) -> PathBuf {
    let EndpointRecipe { model, revision, .. } = &asked.recipe;
    let shown: String =
        model.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).take(60).collect();
    runs.join(RunId::new(&format!("answers-{shown}"), &(model, revision)))
}

/// The baseline of each distinct (data, evaluation) among the students: its id and the student it goes by.
pub fn baselines(experiment: &Experiment) -> Vec<(RunId, &Student)> {
    let mut all: Vec<(RunId, &Student)> = Vec::new();
    for student in &experiment.students {
        let evaluated = (student.recipe.data.unpacked(), &student.recipe.eval.on, &student.recipe.revision);
        let run = RunId::new("unigram", &evaluated);
        if !all.iter().any(|(known, _)| *known == run) {
            all.push((run, student));
        }
    }
    all
}

/// The tokenised data an experiment needs: folder, recipe, files, splits.
pub fn data_sets(experiment: &Experiment, runs: &Path) -> Vec<(PathBuf, TrainRecipe, DataFiles, Vec<String>)> {
    let mut all: Vec<(PathBuf, TrainRecipe, DataFiles, Vec<String>)> = Vec::new();
    for student in &experiment.students {
        let folder = data_folder(runs, &student.recipe.data);
        let on = student.recipe.eval.on.clone();
        match all.iter_mut().find(|(known, ..)| *known == folder) {
            Some((.., splits)) if splits.contains(&on) => {}
            Some((.., splits)) => splits.push(on),
            None => all.push((folder, student.recipe.clone(), student.data.clone(), vec!["train".into(), on])),
        }
    }
    all
}
