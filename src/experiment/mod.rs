//! What is asked: the experiment file, resolved into the runs it means.

mod axis;
pub mod budget;
pub mod claim;
pub mod endpoint;
mod expand;
pub mod expectation;
pub mod fair;
mod file;
mod name;
mod preset;
pub mod recipe;
pub mod recorded;
mod resolve;
mod selector;
mod source;
mod sweep;
mod taught;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::damage::OnBadLine;
use crate::data::ends::Ends;
use crate::data::format::{Format, Keys};
use claim::Claim;
pub use expand::{load, load_smoke_in};
use fair::Fairness;
pub use name::{experiment as name_of, file_name};
use recipe::TrainRecipe;
use recorded::Recording;
pub(crate) use resolve::applies;
pub use source::AMOUNT_MAX;

use crate::teacher::kept::Kept;

/// What the command line says about reading the file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Read the `[smoke]` tier.
    pub smoke: bool,
    pub tp: usize,
    pub dp: usize,
}

/// An experiment as resolved.
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
    /// Teachers of which there are only answers, recorded or asked for.
    pub recordings: Vec<Recording>,
    /// Methods outermost, then axes (the first slowest), then seeds.
    pub students: Vec<Student>,
    /// Points of the sweep that are left out.
    pub skipped: Vec<Skipped>,
    pub fairness: Fairness,
    pub claims: Vec<Claim>,
    pub data_name: String,
    pub student_name: String,
}

/// An arm.
#[derive(Clone, Debug)]
pub struct Method {
    pub name: String,
    /// In a few words.
    pub objective: String,
}

/// A teacher, trained here or a checkpoint, and what its cache must hold.
#[derive(Clone, Debug)]
pub struct Teacher {
    pub name: String,
    pub run: String,
    pub model: String,
    pub recipe: TrainRecipe,
    pub data: DataFiles,
    /// The folder of the checkpoint that it starts from, or is.
    pub start: Option<PathBuf>,
    /// Of its answers, for all arms.
    pub kept: Kept,
    /// Ids that its answers are over: what its students know of its own.
    pub vocab_size: usize,
}

/// A student run.
#[derive(Clone, Debug)]
pub struct Student {
    pub run: String,
    pub method: String,
    pub seed: u64,
    /// Axis and value as written.
    pub axes: Vec<(String, String)>,
    pub recipe: TrainRecipe,
    pub data: DataFiles,
    /// The folder of the checkpoint that it starts from.
    pub start: Option<PathBuf>,
    /// Index into [`Experiment::teachers`].
    pub teacher: Option<usize>,
    /// Index into [`Experiment::recordings`].
    pub recording: Option<usize>,
}

impl Student {
    /// Arm and axes, as a person would say them.
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

/// Where the data lies and how it is read; not part of any identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFiles {
    /// `train`, `valid`, `test`; or `all`, from which they are derived.
    pub splits: BTreeMap<String, PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub format: Format,
    pub keys: Keys,
    pub on_bad_line: OnBadLine,
    /// Of examples, what ends a text.
    #[serde(default)]
    pub ends: Option<Ends>,
}
