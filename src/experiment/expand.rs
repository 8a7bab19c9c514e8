//! The experiment file, read and expanded to runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use toml_edit::Item;

use super::recipe::{EvalRecipe, TeacherRecipe, TrainRecipe, identity};
use super::resolve::{RUN_KEYS, Settings, TEACHER_KEYS, applies, objective_name};
use super::source::{Place, Setting, Source, unknown, unknown_key};
use super::{Experiment, Method, Options, Student, Teacher};
use crate::objective::{Loss, Objective};
use crate::user_error;

const TOP_KEYS: [&str; 8] = ["question", "hypothesis", "revision", "base", "teacher", "method", "sweep", "smoke"];
const GRID: &str = "sweep.grid";
/// Combinations of a sweep's values, at most.
const COMBINATIONS_MAX: usize = 100_000;
/// Promised for later; said so rather than called unknown.
const LATER: [&str; 2] = ["fair", "claim"];

/// Reads `path` and expands it. Every mistake of the user is a [`crate::UserError`] that points at its line.
pub fn load(path: &Path, options: &Options) -> Result<Experiment> {
    let source = Source::read(path, "experiment file")?;
    let document = source.parse()?;
    let top = document.as_table();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = Place(path.display().to_string());

    for (key, item) in top.iter() {
        let at = source.place(top.key(key).and_then(|key| key.span()).or_else(|| item.span())).0;
        if LATER.contains(&key) {
            let header = if item.is_array_of_tables() { format!("[[{key}]]") } else { format!("[{key}]") };
            return Err(user_error!("{at}: {header} is not supported yet; remove it"));
        }
        if !TOP_KEYS.contains(&key) {
            return Err(user_error!("{at}: {}", unknown("key", key, &TOP_KEYS)));
        }
    }
    let text = |key: &str, default: &str| -> Result<String> {
        match top.get(key) {
            None => Ok(default.to_string()),
            Some(item) => item
                .as_str()
                .map(str::to_string)
                .ok_or_else(|| user_error!("{}: {key} must be a string", source.place(item.span()).0)),
        }
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (question, hypothesis, revision) = (text("question", &name)?, text("hypothesis", "")?, text("revision", "1")?);

    let base = table_settings(&source, top.get("base"), "[base]", &RUN_KEYS)?;
    let mut smoke_keys = RUN_KEYS.to_vec();
    smoke_keys.push("teacher_tokens");
    let mut smoke: BTreeMap<String, Setting> =
        table_settings(&source, top.get("smoke"), "[smoke]", &smoke_keys)?.into_iter().collect();
    if options.smoke && smoke.is_empty() {
        return Err(user_error!("{}: --smoke needs a [smoke] table, e.g. tokens = \"64k\"", whole.0));
    }
    let teacher_tokens = smoke.remove("teacher_tokens").or_else(|| smoke.get("tokens").cloned());
    if !options.smoke {
        smoke.clear();
    }

    let mut teacher_tables: BTreeMap<String, (Vec<(String, Setting)>, Place)> = BTreeMap::new();
    for (teacher, table, at) in source.tables(top.get("teacher"), "teacher")? {
        let settings = check_keys(source.settings(table)?, &format!("[teacher.{teacher}]"), &TEACHER_KEYS)?;
        teacher_tables.insert(teacher, (settings, at));
    }
    let axes = axes(&source, top.get("sweep"), &smoke)?;

    let mut experiment = Experiment {
        name,
        question,
        hypothesis,
        revision,
        toml: source.text.clone(),
        smoke: options.smoke,
        axes: axes.iter().map(|(key, _)| key.clone()).collect(),
        methods: Vec::new(),
        reference: String::new(),
        teachers: Vec::new(),
        students: Vec::new(),
        data_name: String::new(),
        student_name: String::new(),
    };
    for (method, table, at) in source.tables(top.get("method"), "method")? {
        let own = check_keys(source.settings(table)?, &format!("[method.{method}]"), &RUN_KEYS)?;
        let named = own.iter().find(|(key, _)| key == "objective").or_else(|| base.iter().find(|(key, _)| key == "objective"));
        let objective_name = named.map(|(_, setting)| objective_name(setting)).transpose()?.unwrap_or("").to_string();
        for (key, setting) in &own {
            if !objective_name.is_empty() && !applies(key, &objective_name) {
                return Err(user_error!("{}: {key} means nothing to {objective_name}; remove it", setting.at.0));
            }
        }
        let mine: Vec<&(String, Vec<Setting>)> = axes.iter().filter(|(key, _)| applies(key, &objective_name)).collect();
        for combination in combinations(&mine) {
            let mut settings = Settings::default();
            settings.overlay(base.iter().filter(|(key, _)| applies(key, &objective_name)).cloned());
            settings.overlay(own.clone());
            settings.overlay(combination.iter().cloned());
            settings.overlay(smoke.iter().filter(|(key, _)| applies(key, &objective_name)).map(|(k, v)| (k.clone(), v.clone())));
            let loss = settings.loss(&at)?;
            let (mut recipe, data, data_name, student_name) =
                settings.recipe("student", loss, 0, &experiment.revision, &at, folder)?;
            check(&recipe, &settings, &at, "student", options)?;
            let teacher = match loss.objective.needs_teacher() {
                false => None,
                true => Some(add_teacher(
                    &mut experiment,
                    &settings,
                    &base,
                    &smoke,
                    &teacher_tables,
                    teacher_tokens.as_ref(),
                    loss.objective.temperature(),
                    &at,
                    folder,
                    options,
                )?),
            };
            if let Some(index) = teacher {
                let trained = Box::new(experiment.teachers[index].recipe.clone());
                recipe.teacher = Some(TeacherRecipe { trained, top_k: settings.top_k()? });
            }
            if !experiment.methods.iter().any(|known| known.name == method) {
                let teacher_name = teacher.map_or("", |index| experiment.teachers[index].name.as_str());
                let words = describe(&recipe, teacher_name, &mine);
                experiment.methods.push(Method { name: method.clone(), objective: words });
                if experiment.reference.is_empty() && loss.objective == Objective::HardCe {
                    experiment.reference = method.clone();
                }
            }
            (experiment.data_name, experiment.student_name) = (data_name, student_name);
            let shown: Vec<(String, String)> = combination.iter().map(|(key, value)| (key.clone(), value.display())).collect();
            for seed in settings.seeds()? {
                let recipe = TrainRecipe { seed, ..recipe.clone() };
                let axes: String = shown.iter().map(|(key, value)| format!("-{key}{value}")).collect();
                let run = file_name(&format!("{method}{axes}-s{seed}-{}", identity(&recipe)));
                if let Some(same) = experiment.students.iter().find(|other| other.recipe == recipe) {
                    return Err(user_error!("{}: {run} would repeat {}; give the methods different settings", at.0, same.run));
                }
                let (method, data, axes) = (method.clone(), data.clone(), shown.clone());
                experiment.students.push(Student { run, method, seed, axes, recipe, data, teacher });
            }
        }
    }
    if experiment.methods.is_empty() {
        return Err(user_error!("{}: no methods; add e.g. [method.finetune] with objective = \"hard-ce\"", whole.0));
    }
    if experiment.reference.is_empty() {
        experiment.reference = experiment.methods[0].name.clone();
    }
    Ok(experiment)
}

/// Finds or adds the teacher of a student with `recipe`; its index.
fn add_teacher(
    experiment: &mut Experiment,
    settings: &Settings,
    base: &[(String, Setting)],
    smoke: &BTreeMap<String, Setting>,
    tables: &BTreeMap<String, (Vec<(String, Setting)>, Place)>,
    smoke_tokens: Option<&Setting>,
    temperature: f64,
    at: &Place,
    folder: &Path,
    options: &Options,
) -> Result<usize> {
    let known: Vec<&str> = tables.keys().map(String::as_str).collect();
    let name = match (settings.teacher()?, &known[..]) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, []) => return Err(user_error!("{}: this objective needs a teacher; add a [teacher.NAME]", at.0)),
        (None, _) => return Err(user_error!("{}: name this method's teacher: {}", at.0, known.join(" or "))),
    };
    let Some((own, teacher_at)) = tables.get(name) else {
        let place = settings.place("teacher", at);
        return Err(user_error!("{}: {}", place.0, unknown("teacher", name, &known)));
    };
    // From [base], not from the student: what students sweep must not train their teacher anew. Only what the teacher reads
    // with the student, data and context, follows the student.
    let mut merged = Settings::default();
    merged.overlay(base.iter().cloned());
    merged.overlay(
        ["data", "context"].iter().filter_map(|key| settings.0.get_key_value(*key)).map(|(k, v)| (k.clone(), v.clone())),
    );
    merged.overlay(
        smoke.iter().filter(|(key, _)| !["data", "context"].contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())),
    );
    merged.overlay(own.iter().cloned());
    if experiment.smoke
        && let Some(tokens) = smoke_tokens
    {
        merged.overlay([("tokens".to_string(), tokens.clone())]);
    }
    if !merged.0.contains_key("model") {
        return Err(user_error!("{}: [teacher.{name}] lacks a model", teacher_at.0));
    }
    let seed = merged.0.get("seed").map_or(Ok(0), |setting| setting.whole("seed", 0..=i64::MAX as u64))?;
    let (recipe, data, _, model) =
        merged.recipe("model", Loss::from(Objective::HardCe), seed, &experiment.revision, teacher_at, folder)?;
    let recipe = match own.iter().any(|(key, _)| key == "eval") {
        true => recipe,
        // How often students are evaluated is no business of the teacher's.
        false => TrainRecipe { eval: EvalRecipe { every: recipe.tokens.div_ceil(5), ..recipe.eval.clone() }, ..recipe },
    };
    check(&recipe, &merged, teacher_at, "model", options)?;
    let top_k = settings.top_k()?;
    if top_k > recipe.model.vocab_size {
        let place = settings.place("top_k", at);
        return Err(user_error!("{}: top_k {top_k} is larger than the vocabulary of {}", place.0, recipe.model.vocab_size));
    }
    let run = file_name(&format!("teacher-{name}-{}", identity(&recipe)));
    let index = experiment.teachers.iter().position(|teacher| teacher.run == run).unwrap_or_else(|| {
        let (name, temperatures) = (name.to_string(), vec![1.0]);
        experiment.teachers.push(Teacher { name, run, model, recipe, data, top_k, temperatures });
        experiment.teachers.len() - 1
    });
    let teacher = &mut experiment.teachers[index];
    teacher.top_k = teacher.top_k.max(top_k);
    if !teacher.temperatures.contains(&temperature) {
        teacher.temperatures.push(temperature);
        teacher.temperatures.sort_by(f64::total_cmp);
    }
    Ok(index)
}

/// What no single key shows to be wrong.
fn check(recipe: &TrainRecipe, settings: &Settings, at: &Place, model_key: &str, options: &Options) -> Result<()> {
    let Options { tp, dp, .. } = *options;
    if !recipe.batch.is_multiple_of(dp as u64) {
        let place = settings.place("batch", at);
        return Err(user_error!("{}: batch {} does not divide over dp = {dp}", place.0, recipe.batch));
    }
    recipe.model.check(tp).map_err(|why| user_error!("{}: {model_key}: {why}", settings.place(model_key, at).0))?;
    Ok(())
}

fn describe(recipe: &TrainRecipe, teacher: &str, axes: &[&(String, Vec<Setting>)]) -> String {
    let k = match &recipe.teacher {
        Some(_) if axes.iter().any(|(key, _)| key == "top_k") => "top-k".to_string(),
        Some(teacher) => format!("top-{}", teacher.top_k),
        None => String::new(),
    };
    let objective = recipe.loss.objective;
    if objective == Objective::HardCe {
        return "hard-ce".to_string();
    }
    let mut words = format!("{} on {k} of {teacher}", objective.name());
    if let Some(tail) = objective.tail() {
        words += &format!(", tail {}", tail.name());
    }
    match objective {
        Objective::LogitMse { centered: true, .. } => words += ", centered",
        Objective::Jsd { beta, .. } => words += &format!(", beta {beta}"),
        _ => {}
    }
    if objective.temperature() != 1.0 {
        words += &format!(", temperature {}", objective.temperature());
    }
    if recipe.loss.lambda > 0.0 {
        words += &format!(", mixed with {} hard-ce", recipe.loss.lambda);
    }
    words
}

/// Swept keys with their values, less those that `[smoke]` fixes.
fn axes(source: &Source, sweep: Option<&Item>, smoke: &BTreeMap<String, Setting>) -> Result<Vec<(String, Vec<Setting>)>> {
    let Some(item) = sweep else { return Ok(Vec::new()) };
    let place = || source.place(item.span()).0;
    let table = item.as_table_like().ok_or_else(|| user_error!("{}: [sweep] must be a table", place()))?;
    let mut axes = Vec::new();
    for (key, inner) in table.iter() {
        let at = source.place(table.key(key).and_then(|key| key.span()).or_else(|| inner.span())).0;
        match key {
            "grid" => {}
            "zip" | "when" | "skip" => return Err(user_error!("{at}: sweep.{key} is not supported yet; remove it")),
            _ => return Err(user_error!("{at}: {}", unknown_key(key, "[sweep]", &["grid"]))),
        }
        let grid = inner.as_table_like().ok_or_else(|| user_error!("{at}: grid must be a table {{ key = [values] }}"))?;
        for (axis, setting) in check_keys(source.settings(grid)?, GRID, &RUN_KEYS)? {
            let at = &setting.at.0;
            let values = setting.value.as_array().filter(|array| !array.is_empty());
            let values =
                values.ok_or_else(|| user_error!("{at}: {axis} must be a list of values, e.g. {axis} = [1e-3, 2e-3]"))?;
            if axis == "seeds" || axis == "objective" {
                return Err(user_error!("{at}: {axis} cannot be swept in the grid; set it in [base] or in a method"));
            }
            let values: Vec<Setting> =
                values.iter().map(|value| Setting { value: value.clone(), at: setting.at.clone() }).collect();
            let mut seen = BTreeSet::new();
            for value in &values {
                Settings([(axis.clone(), value.clone())].into()).check()?;
                let read = match axis.as_str() {
                    "tokens" | "batch" => value.tokens(&axis)?.to_string(),
                    _ => value.value.as_float().map_or_else(|| value.display(), |number| number.to_string()),
                };
                if !seen.insert(read) {
                    return Err(user_error!("{at}: {axis} lists {} twice", value.display()));
                }
            }
            if !smoke.contains_key(&axis) {
                axes.push((axis, values));
            }
        }
        let count = axes.iter().try_fold(1usize, |count, (_, values)| count.checked_mul(values.len()));
        if count.is_none_or(|count| count > COMBINATIONS_MAX) {
            return Err(user_error!("{at}: the grid has more than {COMBINATIONS_MAX} combinations; sweep less"));
        }
    }
    Ok(axes)
}

/// Every combination of the axes' values, the first axis slowest; one empty combination for no axes.
fn combinations(axes: &[&(String, Vec<Setting>)]) -> Vec<Vec<(String, Setting)>> {
    axes.iter().fold(vec![Vec::new()], |sofar, (axis, values)| {
        sofar
            .iter()
            .flat_map(|prefix| {
                values.iter().map(move |value| {
                    let mut combination = prefix.clone();
                    combination.push((axis.clone(), value.clone()));
                    combination
                })
            })
            .collect()
    })
}

fn table_settings(source: &Source, item: Option<&Item>, what: &str, known: &[&str]) -> Result<Vec<(String, Setting)>> {
    let Some(item) = item else { return Ok(Vec::new()) };
    let table = item.as_table_like().ok_or_else(|| user_error!("{}: {what} must be a table", source.place(item.span()).0))?;
    check_keys(source.settings(table)?, what, known)
}

fn check_keys(settings: Vec<(String, Setting)>, what: &str, known: &[&str]) -> Result<Vec<(String, Setting)>> {
    for (key, setting) in &settings {
        if !known.contains(&key.as_str()) {
            return Err(user_error!("{}: {}", setting.at.0, unknown_key(key, what, known)));
        }
    }
    for (key, setting) in &settings {
        // The values of an axis are checked one by one.
        if what != GRID {
            Settings([(key.clone(), setting.clone())].into()).check()?;
        }
    }
    Ok(settings)
}

/// `name` as a folder: what a file system might not like becomes `_`.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._=+-".contains(c) { c } else { '_' }).collect()
}
