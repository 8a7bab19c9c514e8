//! `[teacher.NAME] recorded = "..."`: a teacher of which there are only answers, in a file.

use std::path::PathBuf;

use anyhow::Result;

use super::Experiment;
use super::file::Table;
use super::preset::Presets;
use super::recipe::{DataRecipe, RecordedRecipe, identity};
use super::resolve::{Reading, Settings};
use super::source::{Place, Setting, unknown_key};
use super::{DataFiles, Student};
use crate::data::damage::OnBadLine;
use crate::objective::{Objective, Tail};
use crate::teacher::kept::Kept;
use crate::user_error;

/// Keys of a teacher whose answers are recorded.
pub const RECORDED_KEYS: [&str; 2] = ["recorded", "format"];

/// A file of answers, and what its cache must hold for which data.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The teacher's.
    pub name: String,
    pub recipe: RecordedRecipe,
    pub path: PathBuf,
    pub on_bad_line: OnBadLine,
    pub data: DataRecipe,
    pub files: DataFiles,
    /// Of its answers, for all arms.
    pub kept: Kept,
}

/// Whether `own` describes a recorded teacher.
pub fn is_recorded(own: &Table) -> bool {
    own.iter().any(|(key, _)| key == "recorded")
}

/// Finds or adds the recording of teacher `name` for a student with `settings`, whose arm minimises `objective` on what it
/// reads; its index.
pub fn find_or_add(
    experiment: &mut Experiment,
    presets: &Presets,
    settings: &Settings,
    name: &str,
    own: &Table,
    objective: Objective,
    read: &Reading,
    at: &Place,
) -> Result<usize> {
    if let Some((key, found)) = own.iter().find(|(key, _)| !RECORDED_KEYS.contains(&key.as_str())) {
        let (at, within) = (&found.at.0, format!("[teacher.{name}], whose answers are recorded"));
        return Err(user_error!("{at}: {}", unknown_key(key, &within, &RECORDED_KEYS)));
    }
    let setting = |key: &str| -> Option<&Setting> { own.iter().find(|(known, _)| known == key).map(|(_, found)| found) };
    let recorded = setting("recorded").expect("a recorded teacher");
    let Reading { data, files, .. } = read.clone();
    // Answers are to sequences, however a student's batches lay them out.
    let data = data.unpacked();
    let (recipe, path) = presets.recording(recorded, setting("format"), &data)?;
    if objective.tail() == Some(Tail::Sampled) {
        let place = &settings.place("tail", at).0;
        return Err(user_error!("{place}: a recorded teacher cannot be drawn from; use another tail, e.g. \"bucket\""));
    }
    if objective.temperature() != 1.0 {
        let place = &settings.place("temperature", at).0;
        return Err(user_error!("{place}: recorded answers are those at temperature 1; remove temperature"));
    }
    let wanted = identity(&(&recipe, &data));
    let index =
        experiment.recordings.iter().position(|known| known.name == name && identity(&(&known.recipe, &known.data)) == wanted);
    let index = index.unwrap_or_else(|| {
        let (name, on_bad_line, kept) = (name.to_string(), files.on_bad_line, Kept::default());
        experiment.recordings.push(Recording { name, recipe, path, on_bad_line, data, files, kept });
        experiment.recordings.len() - 1
    });
    experiment.recordings[index].kept.include(objective, settings.top_k()?);
    Ok(index)
}

impl Recording {
    /// The arms that it teaches.
    pub fn students<'a>(&self, experiment: &'a Experiment) -> impl Iterator<Item = &'a Student> {
        let index = experiment.recordings.iter().position(|known| std::ptr::eq(known, self));
        experiment.students.iter().filter(move |student| index.is_some() && student.recording == index)
    }
}
