//! The teachers that the arms need: one for each way of training it that they ask for.

use anyhow::Result;

use super::expand::{check, file_name};
use super::file::File;
use super::preset::Presets;
use super::recipe::{EvalRecipe, TrainRecipe, identity};
use super::resolve::Settings;
use super::source::{Place, unknown};
use super::{Experiment, Options, Teacher};
use crate::objective::{Loss, Objective, Tail};
use crate::teacher::kept::Kept;
use crate::user_error;

/// Finds or adds the teacher of a student with `settings`, whose arm minimises `objective`; its index.
pub fn find_or_add(
    experiment: &mut Experiment,
    file: &File,
    presets: &Presets,
    settings: &Settings,
    objective: Objective,
    at: &Place,
    options: &Options,
) -> Result<usize> {
    let known: Vec<&str> = file.teachers.keys().map(String::as_str).collect();
    let name = match (settings.teacher()?, &known[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, []) => return Err(user_error!("{}: this objective needs a teacher; add a [teacher.NAME]", at.0)),
        (None, _) => return Err(user_error!("{}: name this method's teacher: {}", at.0, known.join(" or "))),
    };
    let Some((own, teacher_at)) = file.teachers.get(name) else {
        let place = settings.place("teacher", at);
        return Err(user_error!("{}: {}", place.0, unknown("teacher", name, &known)));
    };
    // From [base], not from the student: what students sweep must not train their teacher anew. Only what the teacher reads
    // with the student, data and context, follows the student.
    let mut merged = Settings::default();
    merged.overlay(file.base.iter().cloned());
    merged.overlay(
        ["data", "context"].iter().filter_map(|key| settings.0.get_key_value(*key)).map(|(k, v)| (k.clone(), v.clone())),
    );
    if options.smoke {
        let student_only = |key: &String| ["data", "context"].contains(&key.as_str());
        merged.overlay(file.smoke.iter().filter(|(key, _)| !student_only(key)).map(|(k, v)| (k.clone(), v.clone())));
    }
    merged.overlay(own.iter().cloned());
    if let (true, Some(tokens)) = (options.smoke, &file.smoke_teacher_tokens) {
        merged.overlay([("tokens".to_string(), tokens.clone())]);
    }
    if !merged.0.contains_key("model") {
        return Err(user_error!("{}: [teacher.{name}] lacks a model", teacher_at.0));
    }
    let seed = merged.0.get("seed").map_or(Ok(0), |setting| setting.whole("seed", 0..=i64::MAX as u64))?;
    let (recipe, data, _, model) =
        merged.recipe("model", Loss::from(Objective::HardCe), seed, &experiment.revision, teacher_at, presets)?;
    let recipe = match own.iter().any(|(key, _)| key == "eval") {
        true => recipe,
        // How often students are evaluated is no business of the teacher's.
        false => TrainRecipe { eval: EvalRecipe { every: recipe.tokens.div_ceil(5), ..recipe.eval.clone() }, ..recipe },
    };
    check(&recipe, &merged, teacher_at, "model", options)?;
    let top_k = settings.top_k()?;
    if objective.tail() != Some(Tail::Sampled) && top_k > recipe.model.vocab_size {
        let place = settings.place("top_k", at);
        return Err(user_error!("{}: top_k {top_k} is larger than the vocabulary of {}", place.0, recipe.model.vocab_size));
    }
    let run = file_name(&format!("teacher-{name}-{}", identity(&recipe)));
    let index = experiment.teachers.iter().position(|teacher| teacher.run == run).unwrap_or_else(|| {
        let (name, vocab_size) = (name.to_string(), recipe.model.vocab_size);
        experiment.teachers.push(Teacher { name, run, model, recipe, data, kept: Kept::default(), vocab_size });
        experiment.teachers.len() - 1
    });
    experiment.teachers[index].kept.include(objective, top_k);
    Ok(index)
}
