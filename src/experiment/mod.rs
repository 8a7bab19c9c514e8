//! The experiment file, expanded into the runs that it describes.

mod axis;
pub mod budget;
pub mod claim;
pub mod endpoint;
mod expand;
pub mod fair;
mod file;
pub(crate) mod keys;
mod name;
mod preset;
pub mod recorded;
mod resolve;
mod resolve_teacher;
mod selector;
pub(crate) mod source;
mod sweep;
pub mod task;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;

use hydrometer_base::run_id::RunId;
use hydrometer_data::recipe::DataFiles;
use hydrometer_report::claim::Claim;

pub use expand::{load, load_smoke_in};
use fair::Fairness;
pub use keys::AMOUNT_MAX;
pub use name::experiment as name_of;
use task::Task;

use crate::teacher::recording::Recording;
use crate::teacher::target_spec::TargetSpec;
use crate::train::recipe::TrainRecipe;

/// Command-line options that affect how the file is expanded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Read the `[smoke]` tier.
    pub smoke: bool,
    pub tp: usize,
    pub dp: usize,
}

/// An expanded experiment.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The file's stem.
    pub name: String,
    pub question: String,
    pub hypothesis: String,
    pub revision: String,
    /// The file, verbatim.
    pub toml: String,
    pub smoke: bool,
    /// Swept keys in the order of the file.
    pub axes: Vec<String>,
    pub methods: Vec<Method>,
    /// The arm that others are compared with: the first that trains on hard labels.
    pub reference: String,
    pub teachers: Vec<Teacher>,
    /// Teachers without a model here: recorded logprobs, or a model behind an API.
    pub recordings: Vec<Recording>,
    /// Methods outermost, then axes (the first slowest), then seeds.
    pub students: Vec<Student>,
    /// Points of the sweep that are left out.
    pub skipped: Vec<Skipped>,
    /// In the order of the file; every student writes all of them.
    pub tasks: Vec<Task>,
    pub fairness: Fairness,
    pub claims: Vec<Claim>,
    pub data_name: String,
    pub student_name: String,
}

impl Experiment {
    /// The students that `recording` teaches.
    pub fn students_of<'a>(&'a self, recording: &Recording) -> impl Iterator<Item = &'a Student> {
        let index = self.recordings.iter().position(|known| std::ptr::eq(known, recording));
        self.students.iter().filter(move |student| index.is_some() && student.teacher == index.map(TeacherRef::Recorded))
    }
}

/// An arm.
#[derive(Clone, Debug)]
pub struct Method {
    pub name: String,
    /// The objective and its main settings, in a few words.
    pub objective: String,
}

/// A teacher that runs here, trained or a checkpoint, and the targets that its cache must hold.
#[derive(Clone, Debug)]
pub struct Teacher {
    pub name: String,
    pub run: RunId,
    pub model: String,
    pub recipe: TrainRecipe,
    pub data: DataFiles,
    /// The folder of its checkpoint, if it has one: used unmodified, or trained further.
    pub start: Option<PathBuf>,
    /// The targets that all arms together need.
    pub kept: TargetSpec,
    /// Number of ids that its targets cover: the smallest vocabulary among the teacher and its students.
    pub vocab_size: usize,
}

/// A student run.
#[derive(Clone, Debug)]
pub struct Student {
    pub run: RunId,
    pub method: String,
    pub seed: u64,
    /// Axis and value as written.
    pub axes: Vec<(String, String)>,
    pub recipe: TrainRecipe,
    pub data: DataFiles,
    /// The folder of the checkpoint that it starts from.
    pub start: Option<PathBuf>,
    pub teacher: Option<TeacherRef>,
}

/// Which teacher an arm has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeacherRef {
    /// Index into [`Experiment::teachers`].
    Trained(usize),
    /// Index into [`Experiment::recordings`].
    Recorded(usize),
}

impl Student {
    /// Index into [`Experiment::teachers`], if the teacher runs here.
    pub fn trained_teacher(&self) -> Option<usize> {
        match self.teacher {
            Some(TeacherRef::Trained(index)) => Some(index),
            _ => None,
        }
    }

    /// The arm and its values on the axes: `soft-ce tokens=100k`.
    pub fn name(&self) -> String {
        let values: String = self.axes.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        format!("{}{values}", self.method)
    }
}

/// A point of the sweep that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub name: String,
    pub because: String,
}
