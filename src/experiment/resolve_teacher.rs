//! The teachers that the arms need: one for each distinct recipe.

use anyhow::Result;
use hydrometer_base::run_id::RunId;
use hydrometer_base::suggest::unknown;
use hydrometer_base::user_error;
use hydrometer_torch::objective::{Loss, Objective, Tail};
use toml_edit::InlineTable;

use super::file::{File, Table};
use super::keys::{self, Place, Settings};
use super::preset::Presets;
use super::resolve::{ResolvedData, check};
use super::source::{Setting, SourceSpan};
use super::{Experiment, Options, Teacher, TeacherRef, endpoint, recorded};
use crate::teacher::target_spec::TargetSpec;
use crate::train::recipe::{EvalRecipe, TrainRecipe};

/// The keys that a teacher takes from its student.
const SHARED_KEYS: [&str; 3] = ["data", "context", "packing"];

/// The teacher, added if it is new, of a student with `settings` and the recipe `student` on the data `read`.
#[expect(clippy::too_many_arguments, reason = "settings of the arm, settings of the file and their places are separate")]
pub fn find_or_add(
    experiment: &mut Experiment,
    file: &File,
    presets: &Presets,
    settings: &Settings,
    student: &TrainRecipe,
    read: &ResolvedData,
    at: &SourceSpan,
    options: &Options,
) -> Result<TeacherRef> {
    let objective = student.loss.objective;
    let known: Vec<&str> = file.teachers.keys().map(String::as_str).collect();
    let name = match (settings.text(&keys::TEACHER)?, &known[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, []) => return Err(user_error!("{}: this objective needs a teacher; add a [teacher.NAME]", at.0)),
        (None, _) => return Err(user_error!("{}: name this method's teacher: {}", at.0, known.join(" or "))),
    };
    let Some((own, teacher_at)) = file.teachers.get(name) else {
        let place = settings.place(&keys::TEACHER, at);
        return Err(user_error!("{}: {}", place.0, unknown("teacher", name, &known)));
    };
    if recorded::is_recorded(own) || endpoint::is_endpoint(own) {
        let index = recorded::find_or_add(experiment, presets, settings, name, own, objective, read, at)?;
        return Ok(TeacherRef::Recorded(index));
    }
    // Settings come from [base], not from the student: a key that students sweep must not train their teacher again. Only the
    // shared keys follow the student.
    let mut merged = Settings::default();
    merged.overlay(file.base.iter().cloned());
    merged.overlay(SHARED_KEYS.iter().filter_map(|key| settings.0.get_key_value(*key)).map(|(k, v)| (k.clone(), v.clone())));
    if options.smoke {
        let student_only = |key: &String| SHARED_KEYS.contains(&key.as_str());
        merged.overlay(file.smoke.iter().filter(|(key, _)| !student_only(key)).map(|(k, v)| (k.clone(), v.clone())));
    }
    merged.overlay(own.iter().cloned());
    let trained = checkpoint(&mut merged, own, name)?;
    if let (true, Some(tokens)) = (options.smoke, &file.smoke_teacher_tokens) {
        merged.overlay([("tokens".to_string(), tokens.clone())]);
    }
    if merged.get(&keys::MODEL).is_none() {
        return Err(user_error!("{}: [teacher.{name}] lacks a model; add model or hf", teacher_at.0));
    }
    if let Some((_, format)) = own.iter().find(|(key, _)| key == "format") {
        return Err(user_error!("{}: format applies to recorded logprobs; add recorded = \"FILE\", or remove it", format.at.0));
    }
    let asking = |key: &str| keys::find(Place::Endpoint, key).is_some() && key != keys::MODEL.name;
    if let Some((key, found)) = own.iter().find(|(key, _)| asking(key)) {
        return Err(user_error!("{}: {key} is for a teacher behind an API; add endpoint = \"URL\", or remove it", found.at.0));
    }
    let seed = merged.whole(&keys::SEED)?;
    let hard = Loss::from(Objective::HARD_CE);
    let (mut recipe, model) =
        merged.recipe(&keys::MODEL, hard, seed, &experiment.revision, teacher_at, presets, read, trained)?;
    if !trained {
        if recipe.start.is_none() {
            let place = merged.place(&keys::MODEL, teacher_at);
            return Err(user_error!("{}: [teacher.{name}] is not trained, but is not a checkpoint either", place.0));
        }
        // Settings of training do not affect an unmodified checkpoint.
        (recipe.data, recipe.batch, recipe.optimizer) = (recipe.data.unpacked(), 1, Settings::default().optimizer()?);
    }
    let recipe = match own.iter().any(|(key, _)| key == "eval") {
        true => recipe,
        // The students' evaluation interval does not apply to the teacher.
        false => TrainRecipe { eval: EvalRecipe { every: recipe.tokens.div_ceil(5).max(1), ..recipe.eval.clone() }, ..recipe },
    };
    check(&recipe, &merged, teacher_at, &keys::MODEL, options)?;
    let top_k = settings.whole(&keys::TOP_K)? as usize;
    if objective.tail() != Some(Tail::Sampled) && top_k > recipe.model.vocab_size {
        let place = settings.place(&keys::TOP_K, at);
        return Err(user_error!("{}: top_k {top_k} is larger than the vocabulary of {}", place.0, recipe.model.vocab_size));
    }
    let run = RunId::new(&format!("teacher-{name}"), &recipe);
    let index = experiment.teachers.iter().position(|teacher| teacher.run == run).unwrap_or_else(|| {
        let (name, vocab_size) = (name.to_string(), recipe.model.vocab_size);
        let (model, start, data) = (model.name, model.start.map(|(_, folder)| folder), read.files.clone());
        experiment.teachers.push(Teacher { name, run, model, recipe, data, start, kept: TargetSpec::default(), vocab_size });
        experiment.teachers.len() - 1
    });
    let teacher = &mut experiment.teachers[index];
    teacher.kept.include(objective, top_k);
    teacher.vocab_size = teacher.vocab_size.min(student.model.vocab_size);
    Ok(TeacherRef::Trained(index))
}

/// If the table of teacher `name` has `hf`, makes that checkpoint the model and `adapt` its training. Returns whether the teacher
/// is trained here.
fn checkpoint(merged: &mut Settings, own: &Table, name: &str) -> Result<bool> {
    let Some((_, hf)) = own.iter().find(|(key, _)| key == "hf") else {
        return match own.iter().find(|(key, _)| key == "adapt") {
            Some((_, adapt)) => {
                Err(user_error!("{}: adapt trains a checkpoint further; add hf, or set tokens instead", adapt.at.0))
            }
            None => Ok(true),
        };
    };
    let other = own.iter().find(|(key, _)| key == keys::MODEL.name || keys::find(Place::Adapt, key).is_some());
    if let Some((key, found)) = other {
        return Err(user_error!("{}: [teacher.{name}] is a checkpoint: {key} applies only inside adapt = {{ ... }}", found.at.0));
    }
    let mut table = InlineTable::new();
    table.insert("hf", hf.value.clone());
    merged.overlay([("model".to_string(), Setting { value: table.into(), at: hf.at.clone() })]);
    let Some((_, adapt)) = own.iter().find(|(key, _)| key == "adapt") else { return Ok(false) };
    let fields = adapt.fields("adapt")?;
    if !fields.iter().any(|(key, _)| key == "tokens") {
        return Err(user_error!("{}: adapt lacks tokens, e.g. adapt = {{ tokens = \"1M\" }}", adapt.at.0));
    }
    merged.overlay(fields);
    Ok(true)
}
