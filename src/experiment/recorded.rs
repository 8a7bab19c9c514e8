//! A teacher of which there are only answers: `[teacher.NAME] recorded = "..."`, in a file, or `endpoint = "..."`, on request.

use std::path::PathBuf;

use anyhow::Result;

use super::Experiment;
use super::endpoint;
use super::file::Table;
use super::preset::Presets;
use super::recipe::{DataRecipe, EndpointRecipe, RecordedRecipe, identity};
use super::resolve::{Reading, Settings};
use super::source::{Place, Setting, unknown_key};
use super::{DataFiles, Student};
use crate::data::damage::OnBadLine;
use crate::data::format::Format;
use crate::objective::{Objective, Tail};
use crate::teacher::endpoint::service::Service;
use crate::teacher::kept::Kept;
use crate::user_error;

/// Keys of a teacher whose answers are recorded.
pub const RECORDED_KEYS: [&str; 2] = ["recorded", "format"];

/// A teacher's answers, and what its cache must hold for which data.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The teacher's.
    pub name: String,
    pub origin: Origin,
    pub data: DataRecipe,
    pub files: DataFiles,
    /// Of its answers, for all arms.
    pub kept: Kept,
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(AnswerFile),
    Endpoint(Asked),
}

/// A file of answers.
#[derive(Clone, Debug)]
pub struct AnswerFile {
    pub recipe: RecordedRecipe,
    pub path: PathBuf,
    pub on_bad_line: OnBadLine,
}

/// A model that is asked for its answers.
#[derive(Clone, Debug)]
pub struct Asked {
    pub recipe: EndpointRecipe,
    pub service: Service,
}

impl Origin {
    /// What the answers for `data` are known by.
    pub fn identity(&self, data: &DataRecipe) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => identity(&(recipe, data)),
            Self::Endpoint(Asked { recipe, .. }) => identity(&(recipe, data)),
        }
    }

    /// For people: the format of a file, or the model that is asked.
    pub fn words(&self) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => format!("recorded, {}", recipe.format.name()),
            Self::Endpoint(Asked { recipe, .. }) => format!("endpoint, {}", recipe.model),
        }
    }

    /// The format of the answers.
    pub fn format(&self) -> &'static str {
        match self {
            Self::File(AnswerFile { recipe, .. }) => recipe.format.name(),
            Self::Endpoint(_) => Format::OpenAi.name(),
        }
    }
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
    let Reading { data, files, .. } = read.clone();
    // Answers are to sequences, however a student's batches lay them out.
    let data = data.unpacked();
    let asked = endpoint::is_endpoint(own);
    let origin =
        if asked { asked_at(settings, name, own, &experiment.revision, objective, at)? } else { file(presets, name, own, read)? };
    if objective.tail() == Some(Tail::Sampled) {
        let place = &settings.place("tail", at).0;
        return Err(user_error!("{place}: a recorded teacher cannot be drawn from; use another tail, e.g. \"bucket\""));
    }
    if objective.temperature() != 1.0 {
        let place = &settings.place("temperature", at).0;
        return Err(user_error!("{place}: recorded answers are those at temperature 1; remove temperature"));
    }
    let wanted = origin.identity(&data);
    let same = |known: &Recording| known.name == name && known.origin.identity(&known.data) == wanted;
    let index = experiment.recordings.iter().position(same).unwrap_or_else(|| {
        let (name, kept) = (name.to_string(), Kept::default());
        experiment.recordings.push(Recording { name, origin, data, files, kept });
        experiment.recordings.len() - 1
    });
    experiment.recordings[index].kept.include(objective, settings.top_k()?);
    Ok(index)
}

fn file(presets: &Presets, name: &str, own: &Table, read: &Reading) -> Result<Origin> {
    if let Some((key, found)) = own.iter().find(|(key, _)| !RECORDED_KEYS.contains(&key.as_str())) {
        let (at, within) = (&found.at.0, format!("[teacher.{name}], whose answers are recorded"));
        return Err(user_error!("{at}: {}", unknown_key(key, &within, &RECORDED_KEYS)));
    }
    let setting = |key: &str| -> Option<&Setting> { own.iter().find(|(known, _)| known == key).map(|(_, found)| found) };
    let recorded = setting("recorded").expect("a recorded teacher");
    let (recipe, path) = presets.recording(recorded, setting("format"), &read.data)?;
    Ok(Origin::File(AnswerFile { recipe, path, on_bad_line: read.files.on_bad_line }))
}

fn asked_at(settings: &Settings, name: &str, own: &Table, revision: &str, objective: Objective, at: &Place) -> Result<Origin> {
    let (recipe, service) = endpoint::read(name, own, revision)?;
    if let Some(why) = endpoint::unfit(objective) {
        return Err(user_error!("{}: {why}", settings.place("objective", at).0));
    }
    Ok(Origin::Endpoint(Asked { recipe, service }))
}

impl Recording {
    /// The arms that it teaches.
    pub fn students<'a>(&self, experiment: &'a Experiment) -> impl Iterator<Item = &'a Student> {
        let index = experiment.recordings.iter().position(|known| std::ptr::eq(known, self));
        experiment.students.iter().filter(move |student| index.is_some() && student.recording == index)
    }
}
