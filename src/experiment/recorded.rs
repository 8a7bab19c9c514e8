//! A teacher without a model here: `[teacher.NAME] recorded = "..."`, logprobs in a file, or `endpoint = "..."`, a model behind
//! an API.

use anyhow::Result;
use hydrometer_base::user_error;
use hydrometer_torch::objective::{Objective, Tail};

use super::file::Table;
use super::keys::{self, Place, Settings};
use super::preset::Presets;
use super::resolve::ResolvedData;
use super::source::{Setting, SourceSpan};
use super::{Experiment, endpoint};
use crate::teacher::recording::{AnswerFile, Asked, Origin, Recording};
use crate::teacher::target_spec::TargetSpec;

/// Whether `own` describes a recorded teacher.
pub fn is_recorded(own: &Table) -> bool {
    own.iter().any(|(key, _)| key == keys::RECORDED.name)
}

/// The index of the recording of teacher `name`, added if it is new, for a student with `settings` that minimises `objective` on
/// the data `read`.
#[expect(clippy::too_many_arguments, reason = "settings of the arm, settings of the teacher and their places are separate")]
pub fn find_or_add(
    experiment: &mut Experiment,
    presets: &Presets,
    settings: &Settings,
    name: &str,
    own: &Table,
    objective: Objective,
    read: &ResolvedData,
    at: &SourceSpan,
) -> Result<usize> {
    let ResolvedData { data, files, .. } = read.clone();
    // Logprobs belong to sequences, however a student packs them into batches.
    let data = data.unpacked();
    let asked = endpoint::is_endpoint(own);
    let origin = if asked {
        endpoint_origin(settings, name, own, &experiment.revision, objective, at)?
    } else {
        file(presets, name, own, read)?
    };
    if objective.tail() == Some(Tail::Sampled) {
        let place = &settings.place(&keys::TAIL, at).0;
        return Err(user_error!("{place}: a recorded teacher cannot be sampled from; use another tail, e.g. \"bucket\""));
    }
    if objective.temperature().is_some_and(|temperature| temperature != 1.0) {
        let place = &settings.place(&keys::TEMPERATURE, at).0;
        return Err(user_error!("{place}: recorded logprobs have temperature 1; remove temperature"));
    }
    let wanted = origin.identity(&data);
    let same = |known: &Recording| known.name == name && known.origin.identity(&known.data) == wanted;
    let index = experiment.recordings.iter().position(same).unwrap_or_else(|| {
        let (name, kept) = (name.to_string(), TargetSpec::default());
        experiment.recordings.push(Recording { name, origin, data, files, kept });
        experiment.recordings.len() - 1
    });
    experiment.recordings[index].kept.include(objective, settings.whole(&keys::TOP_K)? as usize);
    Ok(index)
}

fn file(presets: &Presets, name: &str, own: &Table, read: &ResolvedData) -> Result<Origin> {
    if let Some((key, found)) = own.iter().find(|(key, _)| keys::find(Place::Recorded, key).is_none()) {
        let (at, within) = (&found.at.0, format!("[teacher.{name}], a recorded teacher"));
        return Err(user_error!("{at}: {}", keys::unknown_in(Place::Recorded, key, &within)));
    }
    let setting = |key: &str| -> Option<&Setting> { own.iter().find(|(known, _)| known == key).map(|(_, found)| found) };
    let recorded = setting("recorded").expect("a recorded teacher");
    let (recipe, path) = presets.recording(recorded, setting("format"), &read.data)?;
    Ok(Origin::File(AnswerFile { recipe, path, on_bad_line: read.files.on_bad_line }))
}

fn endpoint_origin(
    settings: &Settings,
    name: &str,
    own: &Table,
    revision: &str,
    objective: Objective,
    at: &SourceSpan,
) -> Result<Origin> {
    let (recipe, service) = endpoint::read(name, own, revision)?;
    if let Some(why) = endpoint::unsupported_reason(objective) {
        return Err(user_error!("{}: {why}", settings.place(&keys::OBJECTIVE, at).0));
    }
    Ok(Origin::Endpoint(Asked { recipe, service }))
}
