//! `[task.NAME]`: what the students are asked to write, checked and resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use hydrometer_base::text::quoted;
use hydrometer_base::user_error;
use hydrometer_data::json::Json;
use hydrometer_data::prompts::{self, Prompt};
use hydrometer_data::template::Template;
use hydrometer_score::Score;

use super::Options;
use super::file::{File, TaskSpec};
use super::keys::{self, Key, Settings};
use super::preset::Presets;
use super::source::{Setting, Source, SourceSpan};
use crate::eval::task::{Decode, TaskPrompt, TaskRecipe};

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    pub name: String,
    /// For display.
    pub data_name: String,
    pub recipe: TaskRecipe,
    /// The prompts, after the template.
    pub asked: Vec<TaskPrompt>,
}

/// Context of the data of a task, which depends on none.
const ANY_CONTEXT: usize = 256;

/// Keys of data that say how examples are trained on. Prompts are encoded by the model that completes them.
const OF_TRAINING: [&Key; 6] =
    [&keys::TOKENIZER, &keys::TRUNCATION, &keys::TARGET_BUDGET, &keys::EOS, &keys::EOS_TOKEN, &keys::INPUT];

/// Resolves the tasks of `file` in its order.
pub fn resolve(file: &File, presets: &Presets, options: &Options) -> Result<Vec<Task>> {
    file.tasks.iter().map(|spec| Task::resolve(spec, file, presets, options)).collect()
}

impl Task {
    fn resolve(spec: &TaskSpec, file: &File, presets: &Presets, options: &Options) -> Result<Self> {
        let TaskSpec { name, own, at } = spec;
        let settings: Settings = own.iter().cloned().collect();
        let score = scores(&settings, name, file, at)?;
        let samples = settings.whole(&keys::TASK_SAMPLES)? as usize;
        let decode = decode(&settings, samples)?;
        check_samples(&score, samples, &settings)?;

        let inherited = file.smoke.get(keys::DATA.name).filter(|_| options.smoke);
        let inherited = inherited.or_else(|| file.base.iter().find(|(key, _)| key == keys::DATA.name).map(|(_, data)| data));
        let Some(data) = settings.get(&keys::TASK_DATA).or(inherited) else {
            return Err(user_error!("{}: this task has no data; add e.g. data = \"chain-sum\"", at.0));
        };
        check_table(data, settings.get(&keys::TASK_DATA).is_some())?;
        let (data_name, recipe, files) = presets.data(data, ANY_CONTEXT, None)?;
        let Some(examples) = recipe.examples else {
            let format = files.format.name();
            return Err(user_error!(
                "{}: data of format {format:?} are plain documents without prompts and references; name data with a source and a \
                 target, e.g. of format \"src-tgt-jsonl\"",
                data.at.0
            ));
        };
        let on = settings.held_out_split(&keys::TASK_ON)?.to_string();
        let shots = settings.whole(&keys::SHOTS)? as usize;
        for (split, key, wanted) in [(on.as_str(), &keys::TASK_ON, true), ("train", &keys::SHOTS, shots > 0)] {
            if wanted && !files.splits.contains_key(split) && !files.splits.contains_key("all") {
                let at = &settings.place(key, at).0;
                return Err(user_error!(
                    "{at}: the data of the task has no {split} split; add {split} to data, or change {}",
                    key.name
                ));
            }
        }
        let limit = settings.get(&keys::TASK_PROMPTS).map(|asked| keys::TASK_PROMPTS.whole(asked)).transpose()?;
        let limit = limit.map(|limit| limit as usize);
        let prompts = prompts::read(&files, &on, limit)?;
        enough(&prompts, limit.unwrap_or(1), &keys::TASK_PROMPTS, &on, settings.place(&keys::TASK_PROMPTS, &data.at))?;
        prompts.iter().try_for_each(|prompt| check_references(prompt, &score))?;
        let mut shown = Vec::new();
        if shots > 0 {
            shown = prompts::read(&files, "train", Some(shots))?;
            enough(&shown, shots, &keys::SHOTS, "train", settings.place(&keys::SHOTS, at))?;
        }
        let template = settings.get(&keys::TEMPLATE).map(|path| template(path, &file.folder)).transpose()?;
        let asked = asked(prompts, &shown, template.as_ref())?;
        let read = |split: &String| split == "all" || *split == on || (split == "train" && shots > 0);
        let content: BTreeMap<_, _> = recipe.content.into_iter().filter(|(split, _)| read(split)).collect();
        let stop = settings.get(&keys::STOP).map(|stop| keys::STOP.texts(stop)).transpose()?.unwrap_or_default();
        let recipe = TaskRecipe {
            content,
            format: files.format,
            keys: examples.keys,
            prompt_eos: examples.prompt_eos,
            on,
            prompts: asked.len(),
            samples,
            decode,
            max_new_tokens: settings.whole(&keys::MAX_NEW_TOKENS)? as usize,
            stop,
            shots,
            template: template.map(|(source, _)| source),
            score,
        };
        Ok(Self { name: name.clone(), data_name, recipe, asked })
    }

    /// In a sentence, for people.
    pub fn words(&self) -> String {
        let TaskRecipe { on, prompts, samples, decode, max_new_tokens, shots, score, .. } = &self.recipe;
        let shots = if *shots > 0 { format!(" after {shots} shots") } else { String::new() };
        let times = if *samples > 1 { format!(", {samples} samples of each") } else { String::new() };
        let scores: Vec<String> = score.iter().map(|score| score.name()).collect();
        let (data, decode, scores) = (&self.data_name, decode.words(), scores.join(", "));
        format!(
            "{prompts} prompts of {data} ({on}){shots}{times}, {decode}, at most {max_new_tokens} new tokens; scored by {scores}"
        )
    }
}

fn scores(settings: &Settings, name: &str, file: &File, at: &SourceSpan) -> Result<Vec<Score>> {
    let Some(setting) = settings.get(&keys::SCORE) else {
        return Err(user_error!("{}: task {name} has no score; add e.g. score = [\"exact-match\"]", at.0));
    };
    let scores = keys::SCORE.scores(setting)?;
    if scores.contains(&Score::ExposureBias) {
        let score = Score::ExposureBias.name();
        return Err(user_error!("{}: {score} is defined, but not measured by this version; remove the score", setting.at.0));
    }
    if scores.contains(&Score::TeacherNll) && file.teachers.is_empty() {
        let score = Score::TeacherNll.name();
        return Err(user_error!("{}: {score} needs a teacher; add a [teacher.NAME], or remove the score", setting.at.0));
    }
    Ok(scores)
}

fn decode(settings: &Settings, samples: usize) -> Result<Decode> {
    let given = settings.fields(&keys::TASK_DECODE)?;
    let temperature = given.number(&keys::DECODE_TEMPERATURE)?;
    let whole = |key: &Key| given.get(key).map(|setting| key.whole(setting)).transpose();
    let top_k = whole(&keys::DECODE_TOP_K)?.map(|k| k as usize);
    let top_p = given.get(&keys::DECODE_TOP_P).map(|setting| keys::DECODE_TOP_P.number(setting)).transpose()?;
    let limits = [&keys::DECODE_TOP_K, &keys::DECODE_TOP_P].into_iter().find_map(|key| Some((key.label(), given.get(key)?)));
    let several = settings.get(&keys::TASK_SAMPLES).filter(|_| samples > 1);
    if let (Some(beams), Some(setting)) = (whole(&keys::DECODE_BEAMS)?, given.get(&keys::DECODE_BEAMS)) {
        let at = &setting.at.0;
        let drawn = given.get(&keys::DECODE_TEMPERATURE).filter(|_| temperature > 0.0);
        let drawn = drawn.map(|_| keys::DECODE_TEMPERATURE.label()).or_else(|| limits.map(|(label, _)| label));
        if let Some(label) = drawn {
            return Err(user_error!("{at}: decode.beams searches and {label} samples; keep one of them"));
        }
        return match several {
            Some(several) => Err(user_error!(
                "{}: samples is {samples}, but beam search gives the same text each time; set samples = 1",
                several.at.0
            )),
            None => Ok(Decode::Beams(beams as usize)),
        };
    }
    if temperature > 0.0 {
        return Ok(Decode::Sample { temperature, top_k, top_p });
    }
    match (limits, several) {
        (Some((label, setting)), _) => Err(user_error!(
            "{}: {label} has no effect at temperature 0, which is greedy; set a temperature, e.g. temperature = 1.0, or remove {label}",
            setting.at.0
        )),
        (None, Some(several)) => Err(user_error!(
            "{}: samples is {samples}, but greedy decoding gives the same text each time; set e.g. decode = {{ temperature = 0.8 }}",
            several.at.0
        )),
        (None, None) => Ok(Decode::Greedy),
    }
}

fn check_samples(scores: &[Score], samples: usize, settings: &Settings) -> Result<()> {
    match (scores.iter().find(|score| score.samples() > samples), settings.get(&keys::SCORE)) {
        (Some(score), Some(setting)) => {
            let (name, needed) = (score.name(), score.samples());
            Err(user_error!(
                "{}: {name} needs at least {needed} samples of a prompt, but samples is {samples}; raise it",
                setting.at.0
            ))
        }
        _ => Ok(()),
    }
}

/// An error if the inline table of a task's own data has keys without effect. A preset and the data of a run may have them.
fn check_table(data: &Setting, own: bool) -> Result<()> {
    let table = data.value.as_inline_table().filter(|_| own);
    match table.and_then(|table| OF_TRAINING.into_iter().find(|key| table.contains_key(key.name))) {
        Some(key) => Err(user_error!("{}: {} does not apply to a task, which trains on nothing; remove it", data.at.0, key.name)),
        None => Ok(()),
    }
}

/// An error if fewer than `wanted` prompts were found.
fn enough(found: &[Prompt], wanted: usize, key: &Key, split: &str, at: &SourceSpan) -> Result<()> {
    match found.len() {
        0 => Err(user_error!("{}: the {split} split of the task's data has no prompts; add lines to it", at.0)),
        count if count < wanted => Err(user_error!(
            "{}: {} is {wanted}, but the {split} split of the task's data has only {count} prompts; lower it",
            at.0,
            key.name
        )),
        _ => Ok(()),
    }
}

/// An error if `prompt` lacks a reference that one of `scores` needs.
fn check_references(prompt: &Prompt, scores: &[Score]) -> Result<()> {
    let place = &prompt.place;
    for score in scores.iter().filter(|score| score.needs_references()) {
        if prompt.references.is_empty() {
            let name = score.name();
            return Err(user_error!(
                "{place}: the prompt has no reference, which {name} needs; add a target, or remove the score"
            ));
        }
        for reference in &prompt.references {
            score
                .check_reference(reference)
                .map_err(|why| user_error!("{place}: {why}; use exact-match, or correct the line"))?;
        }
    }
    Ok(())
}

/// The content of the template file, and the template.
fn template(setting: &Setting, folder: &Path) -> Result<(String, Template)> {
    let path = folder.join(keys::TEMPLATE.text(setting)?);
    if !path.is_file() {
        return Err(user_error!("{}: no template file at {}; check template", setting.at.0, path.display()));
    }
    Ok((Source::read(&path, "template")?.text, Template::of_file(&path)?))
}

/// What a model reads of each prompt: after the template, or after the shots, each with a line break.
fn asked(prompts: Vec<Prompt>, shots: &[Prompt], template: Option<&(String, Template)>) -> Result<Vec<TaskPrompt>> {
    let text = |text: &str| Json::Text(text.to_string());
    let completion = |shot: &Prompt| shot.references.first().cloned().unwrap_or_default();
    let shown = |shot: &Prompt| {
        let fields = [("prompt", text(&shot.text)), ("completion", text(&completion(shot)))];
        Json::Object(fields.map(|(name, value)| (name.to_string(), value)).into())
    };
    let before: String = shots.iter().map(|shot| format!("{}{}\n", shot.text, completion(shot))).collect();
    let shots = Json::List(shots.iter().map(shown).collect());
    let mut known = BTreeSet::new();
    let render = |prompt: Prompt| {
        let Prompt { id, place, text: own, references } = prompt;
        if !known.insert(id.clone()) {
            let id = quoted(&id);
            return Err(user_error!(
                "{place}: another prompt has the id {id}, which lines without one take from their number; rename one"
            ));
        }
        let input = match template {
            None => format!("{before}{own}"),
            Some((_, template)) => {
                let fields = [("prompt", text(&own)), ("shots", shots.clone())];
                let fields = Json::Object(fields.map(|(name, value)| (name.to_string(), value)).into());
                template.render(&fields).map_err(|why| user_error!("{place}: {why}; correct the template"))?
            }
        };
        Ok(TaskPrompt { id, place: place.to_string(), input, references })
    };
    prompts.into_iter().map(render).collect()
}
