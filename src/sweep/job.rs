//! A job: a unit of work as it is given to worker processes, the folders it uses, and how it has ended.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::identity::identity;
use hydrometer_base::run_id::RunId;
use hydrometer_data::batch::DataView;
use hydrometer_data::recipe::{DataFiles, DataRecipe};
use hydrometer_record::journal;
use hydrometer_score::Score;
use serde::{Deserialize, Serialize};

use super::ending::Ending;
use crate::eval::task::{TaskPrompt, TaskRecipe};
use crate::experiment::task::Task;
use crate::experiment::{Experiment, Student, Teacher};
use crate::teacher::manifest::CacheManifest;
use crate::teacher::recipe::EndpointRecipe;
use crate::teacher::recording::{Asked, Recording};
use crate::train::recipe::TrainRecipe;

/// The complete description of a job: written to `job.json` in its folder and read by every rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub run: RunId,
    /// The folder of its journal, log and checkpoints.
    pub folder: PathBuf,
    /// The folder of the tokenised splits.
    pub data: PathBuf,
    pub work: Work,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// CPU threads of each rank.
    pub threads: usize,
    pub tp: usize,
    pub dp: usize,
    /// Activation recomputation: recompute activations in the backward pass.
    #[serde(default)]
    pub recompute: bool,
    /// Sequence parallelism: tensor-parallel ranks shard norms and residual sums over the tokens.
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
        /// The folder of the checkpoint that training starts from.
        #[serde(default)]
        start: Option<PathBuf>,
        cache: Option<CachePlace>,
    },
    /// A teacher pass: computes the teacher targets of all sequences that students with these views of the data will see. The
    /// teacher is the run in `weights`, or the checkpoint in `start`.
    Teach {
        recipe: Box<TrainRecipe>,
        weights: PathBuf,
        #[serde(default)]
        start: Option<PathBuf>,
        students: Vec<DataView>,
        cache: CachePlace,
    },
    /// Measures the fidelity of the student run in `student` to its teacher, on held-out text.
    #[serde(rename = "compare")]
    Fidelity {
        recipe: Box<TrainRecipe>,
        student: PathBuf,
        teacher: Box<TrainRecipe>,
        /// The folder of the teacher's run; `start` is the folder of the checkpoint that the teacher is or started from.
        weights: PathBuf,
        #[serde(default)]
        start: Option<PathBuf>,
    },
    /// Has the model of `recipe` write the texts of a task, and scores them.
    Write {
        recipe: Box<TrainRecipe>,
        /// The folder of the model's run; `start` is the folder of the checkpoint that it is or started from.
        weights: PathBuf,
        #[serde(default)]
        start: Option<PathBuf>,
        task: Box<TaskRecipe>,
        asked: Vec<TaskPrompt>,
        /// The teacher that judges the texts, if a score needs one.
        #[serde(default)]
        judge: Option<Judge>,
    },
    /// The unigram baseline: token frequencies of the train split, evaluated like a student.
    Unigram { recipe: Box<TrainRecipe> },
}

/// A teacher that judges what others wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judge {
    pub recipe: Box<TrainRecipe>,
    /// The folder of its run; `start` is the folder of the checkpoint that it is or started from.
    pub weights: PathBuf,
    #[serde(default)]
    pub start: Option<PathBuf>,
}

impl Job {
    /// Most input tokens of a pass when it trains `recipe`.
    pub fn pass_tokens_of(&self, recipe: &TrainRecipe) -> usize {
        self.pass_tokens.unwrap_or_else(|| recipe.pass_tokens())
    }
}

impl Work {
    /// Whether a finished job may have to continue because more is asked for: later students may need more teacher targets.
    pub fn grows(&self) -> bool {
        matches!(self, Work::Teach { .. })
    }
}

/// A teacher cache: its folder, and the manifest that it must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachePlace {
    pub folder: PathBuf,
    pub title: CacheManifest,
}

pub fn journal_path(folder: &Path) -> PathBuf {
    folder.join(journal::FILE)
}

/// How the run `run` under `runs` has ended.
pub fn ending(runs: &Path, run: &str) -> Result<Ending> {
    ending_in(&runs.join(run))
}

/// How the job in `folder` has ended.
pub fn ending_in(folder: &Path) -> Result<Ending> {
    Ok(Ending::of_events(&journal::read(&journal_path(folder))?))
}

/// The folder of the tokenised data of `recipe`.
pub fn data_folder(runs: &Path, recipe: &DataRecipe) -> PathBuf {
    // Packing happens when rows are read, so it does not change the tokenised data.
    let mut data = recipe.unpacked();
    if data.examples.is_none() {
        // Without examples, the context only cuts sequences and the tokens stay the same; examples are fitted into it.
        data.context = 0;
    }
    runs.join(RunId::new("data", &data))
}

/// The teacher cache of `teacher`.
pub fn cache_place(runs: &Path, teacher: &Teacher) -> CachePlace {
    let Teacher { name, recipe, kept, vocab_size, .. } = teacher;
    // A tokenizer trained in this experiment is determined by the text.
    let tokenizer = identity(&(&recipe.data.content, &recipe.data.tokenizer));
    let title = CacheManifest::new(recipe.answers_identity(), tokenizer, *vocab_size, kept.clone());
    CachePlace { folder: cache_folder(runs, name, &title), title }
}

/// Index of the teacher that `student`'s fidelity is measured against: its own teacher, or else the only teacher with the same
/// data. `None` if there is none or more than one.
pub fn fidelity_teacher(experiment: &Experiment, student: &Student) -> Option<usize> {
    let data = &student.recipe.data;
    let same = |teacher: &Teacher| match teacher.recipe.is_untrained() {
        // An untrained teacher's recipe has no packing.
        true => teacher.recipe.data == data.unpacked(),
        false => teacher.recipe.data == *data,
    };
    let mut all = (0..experiment.teachers.len()).filter(|&index| same(&experiment.teachers[index]));
    student.trained_teacher().or(match (all.next(), all.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    })
}

/// The id of the job that measures the fidelity of `student` to `teacher`.
pub fn fidelity_run(student: &Student, teacher: &Teacher) -> RunId {
    RunId::new("fidelity", &(&student.recipe, teacher.recipe.answers_identity()))
}

/// A model that is asked to write, and the job in which it does.
pub struct Writer<'a> {
    pub run: RunId,
    /// The run of the model, its recipe, and the folder of the checkpoint that it is or started from.
    pub model: &'a RunId,
    pub recipe: &'a TrainRecipe,
    pub start: Option<&'a PathBuf>,
    pub task: &'a Task,
    /// Index of the teacher that judges the texts, if a score needs one.
    pub judge: Option<usize>,
}

/// The writers of all tasks: students in the order of the plan, then teachers.
pub fn writers(experiment: &Experiment) -> Vec<Writer<'_>> {
    let students = experiment
        .students
        .iter()
        .map(|student| (&student.run, &student.recipe, student.start.as_ref(), fidelity_teacher(experiment, student)));
    let teachers = experiment
        .teachers
        .iter()
        .enumerate()
        .map(|(index, teacher)| (&teacher.run, &teacher.recipe, teacher.start.as_ref(), Some(index)));
    let models: Vec<_> = students.chain(teachers).collect();
    let of_task = |task| {
        let writer = move |(model, recipe, start, judge): (_, _, _, Option<usize>)| {
            writer(experiment, task, (model, recipe, start), judge)
        };
        models.clone().into_iter().map(writer)
    };
    experiment.tasks.iter().flat_map(of_task).collect()
}

fn writer<'a>(
    experiment: &'a Experiment,
    task: &'a Task,
    (model, recipe, start): (&'a RunId, &'a TrainRecipe, Option<&'a PathBuf>),
    judge: Option<usize>,
) -> Writer<'a> {
    let judge = judge.filter(|_| task.recipe.score.contains(&Score::TeacherNll));
    let by = judge.map(|index| experiment.teachers[index].recipe.answers_identity());
    let run = RunId::new("task", &(recipe, &task.recipe, by));
    Writer { run, model, recipe, start, task, judge }
}

/// The teacher cache of a recording.
pub fn recording_place(runs: &Path, recording: &Recording) -> CachePlace {
    let Recording { name, origin, data, kept, .. } = recording;
    let tokenizer = identity(&(&data.content, &data.tokenizer));
    let title = CacheManifest::new(origin.identity(data), tokenizer, data.tokenizer.vocab_size(), kept.clone());
    CachePlace { folder: cache_folder(runs, name, &title), title }
}

/// The folder of the cache of teacher `name` with the manifest `title`. The hash distinguishes caches whose names become equal
/// when they are made safe for a path.
fn cache_folder(runs: &Path, name: &str, title: &CacheManifest) -> PathBuf {
    runs.join(RunId::hashed(&format!("cache-{name}-{}", title.kept.tag()), &title.hash()[..8]))
}

/// The folder with every response of a model behind an endpoint, shared by all experiments that query it.
pub fn answers_folder(runs: &Path, asked: &Asked) -> PathBuf {
    let EndpointRecipe { model, revision, .. } = &asked.recipe;
    let shown: String =
        model.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).take(60).collect();
    runs.join(RunId::new(&format!("answers-{shown}"), &(model, revision)))
}

/// The unigram baselines, one for each distinct pair of data and evaluation split: its id, and a student that uses them.
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

/// The tokenised data sets that an experiment needs: folder, recipe, files and splits of each.
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
