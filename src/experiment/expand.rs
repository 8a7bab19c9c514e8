//! Expands an experiment file into its runs: every arm at every point of the sweep, once per seed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::run_id::RunId;
use hydrometer_base::user_error;
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::{Objective, Tail};

use super::axis::canonical;
use super::claim::Candidates;
use super::fair::{self, Fairness, Match};
use super::file::{File, Method as Arm};
use super::keys::{self, Settings, applies};
use super::preset::Presets;
use super::resolve::check;
use super::source::Setting;
use super::sweep::{self, UsedBlocks};
use super::{Experiment, Method, Options, Skipped, Student, TeacherRef, resolve_teacher, task};
use crate::teacher::recording::Origin;
use crate::train::recipe::{TeacherRecipe, TrainRecipe};

/// Maximum number of runs of an experiment.
const RUNS_MAX: usize = 100_000;

/// Reads `path` and expands it. Every mistake of the user is a [`hydrometer_base::UserError`] that points at its line.
pub fn load(path: &Path, options: &Options) -> Result<Experiment> {
    expand(File::read(path)?, options)
}

/// The `[smoke]` tier of `path` in `precision`, which overrides the file's.
pub fn load_smoke_in(path: &Path, precision: Precision, options: &Options) -> Result<Experiment> {
    let mut file = File::read(path)?;
    if !file.smoke.is_empty() {
        let setting = Setting { value: precision.name().into(), at: file.whole.clone() };
        file.smoke.insert(keys::PRECISION.name.into(), setting);
    }
    expand(file, &Options { smoke: true, ..*options })
}

fn expand(file: File, options: &Options) -> Result<Experiment> {
    if options.smoke && file.smoke.is_empty() {
        return Err(user_error!("{}: --smoke needs a [smoke] table, e.g. tokens = \"64k\"", file.whole.0));
    }
    let presets = Presets::new(&file.folder);
    let mut axes = file.sweep.keys();
    axes.retain(|key| !options.smoke || !file.smoke.contains_key(key));
    let mut experiment = Experiment {
        name: file.name.clone(),
        question: file.question.clone(),
        hypothesis: file.hypothesis.clone(),
        revision: file.revision.clone(),
        toml: file.text.clone(),
        smoke: options.smoke,
        axes,
        methods: Vec::new(),
        reference: String::new(),
        teachers: Vec::new(),
        recordings: Vec::new(),
        students: Vec::new(),
        skipped: Vec::new(),
        tasks: task::resolve(&file, &presets, options)?,
        fairness: Fairness::default(),
        claims: Vec::new(),
        data_name: String::new(),
        student_name: String::new(),
    };
    let (mut used, mut cells) = (UsedBlocks::default(), Vec::new());
    for arm in &file.methods {
        for cell in cells_of(arm, &file, &mut used, &mut experiment, options)? {
            add_runs(&mut experiment, &file, &presets, arm, &cell, options)?;
            cells.push(cell);
        }
    }
    let methods: Vec<&str> = file.methods.iter().map(|arm| arm.name.as_str()).collect();
    file.sweep.check_used(&used, &methods)?;
    if experiment.methods.is_empty() {
        return Err(match methods.is_empty() {
            true => user_error!("{}: no methods; add e.g. [method.finetune] with objective = \"hard-ce\"", file.whole.0),
            false => user_error!("{}: every run is skipped; skip fewer", file.whole.0),
        });
    }
    if experiment.reference.is_empty() {
        experiment.reference = experiment.methods[0].name.clone();
    }
    apply_fairness(&mut experiment, &file)?;
    name_runs(&mut experiment, &file.methods)?;
    let mut first = 0;
    let students = &experiment.students;
    let candidates: Vec<Candidates> = cells
        .iter()
        .map(|cell| {
            let mine = first..first + cell.seeds;
            first = mine.end;
            let runs: Vec<&str> = students[mine.clone()].iter().map(|student| student.run.as_str()).collect();
            Candidates { method: &cell.method, point: students[mine.start].name(), settings: &cell.settings, runs }
        })
        .collect();
    let tasks: Vec<_> = experiment.tasks.iter().map(|task| (task.name.as_str(), &task.recipe.score[..])).collect();
    let claims = file.claims.into_iter().map(|claim| claim.resolve(&candidates, &tasks)).collect::<Result<_>>()?;
    experiment.claims = claims;
    Ok(experiment)
}

/// An arm at one point of the sweep that is not skipped.
struct Cell {
    method: String,
    /// Values on the axes.
    values: Vec<(String, Setting)>,
    /// The settings, before `[smoke]`, of each point of the file that this one stands for: several if `[smoke]` merged points.
    settings: Vec<Settings>,
    seeds: usize,
}

/// The cells of `arm` in order. Points that differ only on axes that `[smoke]` fixes become one cell.
fn cells_of(arm: &Arm, file: &File, used: &mut UsedBlocks, experiment: &mut Experiment, options: &Options) -> Result<Vec<Cell>> {
    let relevant = |key: &str| applies(key, &arm.objective);
    let mut fixed = Settings::default();
    fixed.overlay(file.base.iter().filter(|(key, _)| relevant(key)).cloned());
    fixed.overlay(arm.own.clone());
    let (mut cells, mut places): (Vec<Cell>, BTreeMap<Vec<String>, usize>) = Default::default();
    let swept = sweep::Arm { name: &arm.name, setting: &|key| fixed.0.get(key), applies: &relevant };
    for point in file.sweep.points(&swept, used)? {
        if let Some(because) = point.skipped {
            let shown = point.values.iter().map(|(key, value)| format!(" {key}={}", value.display()));
            experiment.skipped.push(Skipped { name: format!("{}{}", arm.name, shown.collect::<String>()), because });
            continue;
        }
        let mut settings = fixed.clone();
        settings.overlay(point.values.iter().cloned());
        let mut values = point.values;
        values.retain(|(key, _)| !options.smoke || !file.smoke.contains_key(key));
        match places.get(&canonical(&values)) {
            Some(&index) => cells[index].settings.push(settings),
            None => {
                places.insert(canonical(&values), cells.len());
                cells.push(Cell { method: arm.name.clone(), values, settings: vec![settings], seeds: 0 });
            }
        }
    }
    for cell in &mut cells {
        let mut seeds = cell.settings[0].clone();
        seeds.overlay(smoke(file, arm, options));
        cell.seeds = seeds.seeds(&keys::SEEDS)?.len();
    }
    Ok(cells)
}

/// The settings that `[smoke]` overrides for `arm`; none without `--smoke`.
fn smoke(file: &File, arm: &Arm, options: &Options) -> Vec<(String, Setting)> {
    let mine = file.smoke.iter().filter(|(key, _)| options.smoke && applies(key, &arm.objective));
    mine.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Adds the runs of `cell`, one per seed, still without ids.
fn add_runs(
    experiment: &mut Experiment,
    file: &File,
    presets: &Presets,
    arm: &Arm,
    cell: &Cell,
    options: &Options,
) -> Result<()> {
    let at = &arm.at;
    let mut settings = cell.settings[0].clone();
    settings.overlay(smoke(file, arm, options));
    settings.check_writer()?;
    let loss = settings.loss(at)?;
    let read = settings.resolve_data(&keys::STUDENT, at, presets)?;
    let (mut recipe, model) = settings.recipe(&keys::STUDENT, loss, 0, &experiment.revision, at, presets, &read, true)?;
    check(&recipe, &settings, at, &keys::STUDENT, options)?;
    let teacher = match loss.objective.needs_teacher() {
        false => None,
        true => Some(resolve_teacher::find_or_add(experiment, file, presets, &settings, &recipe, &read, at, options)?),
    };
    let top_k = settings.whole(&keys::TOP_K)? as usize;
    recipe.teacher = teacher.map(|teacher| match teacher {
        TeacherRef::Trained(index) => {
            let trained = Some(Box::new(experiment.teachers[index].recipe.clone()));
            TeacherRecipe { trained, recorded: None, endpoint: None, top_k }
        }
        TeacherRef::Recorded(index) => {
            let (recorded, endpoint) = match &experiment.recordings[index].origin {
                Origin::File(file) => (Some(file.recipe.clone()), None),
                Origin::Endpoint(asked) => (None, Some(asked.recipe.clone())),
            };
            TeacherRecipe { trained: None, recorded, endpoint, top_k }
        }
    });
    if !experiment.methods.iter().any(|known| known.name == arm.name) {
        let teacher_name = match teacher {
            Some(TeacherRef::Trained(index)) => experiment.teachers[index].name.as_str(),
            Some(TeacherRef::Recorded(index)) => experiment.recordings[index].name.as_str(),
            None => "",
        };
        let swept: Vec<&str> = cell.values.iter().map(|(key, _)| key.as_str()).collect();
        let words = describe(&recipe, teacher_name, &swept);
        experiment.methods.push(Method { name: arm.name.clone(), objective: words });
        if experiment.reference.is_empty() && loss.objective == Objective::HARD_CE {
            experiment.reference = arm.name.clone();
        }
    }
    (experiment.data_name, experiment.student_name) = (read.name, model.name);
    let start = model.start.map(|(_, folder)| folder);
    let axes: Vec<(String, String)> = cell.values.iter().map(|(key, value)| (key.clone(), value.display())).collect();
    for seed in settings.seeds(&keys::SEEDS)? {
        let recipe = TrainRecipe { seed, ..recipe.clone() };
        let (method, data, axes, start) = (arm.name.clone(), read.files.clone(), axes.clone(), start.clone());
        experiment.students.push(Student { run: RunId::default(), method, seed, axes, recipe, data, start, teacher });
    }
    if experiment.students.len() > RUNS_MAX {
        let at = &settings.place(&keys::SEEDS, at).0;
        return Err(user_error!("{at}: the experiment has more than {RUNS_MAX} runs here; use fewer values or fewer seeds"));
    }
    Ok(())
}

/// Applies `[fair]`, which may change the runs' tokens. An error if the arms violate it.
fn apply_fairness(experiment: &mut Experiment, file: &File) -> Result<()> {
    let rule = file.fair.as_ref();
    if let Some(rule) = rule.filter(|rule| rule.by == Match::TotalFlops) {
        experiment.fairness.balanced = fair::balance(experiment, rule)?;
    }
    let partners = fair::partners(experiment);
    let alone = experiment.students.iter().zip(&partners).filter(|(s, p)| p.is_none() && s.method != experiment.reference);
    experiment.fairness.alone = alone.count();
    experiment.fairness.rule = rule.map(|rule| rule.by);
    experiment.fairness.unfair = fair::unfair(experiment, rule.map_or(Match::Tokens, |rule| rule.by));
    match (rule, experiment.fairness.unfair.first()) {
        (Some(rule), Some(first)) => {
            let by = rule.by.name();
            Err(user_error!("{}: not fair by {by}: {first}; set it once in [base], or remove [fair]", rule.at.0))
        }
        _ => Ok(()),
    }
}

/// Gives every student its id. An error if two students have the same recipe.
fn name_runs(experiment: &mut Experiment, methods: &[Arm]) -> Result<()> {
    let mut known: BTreeMap<String, RunId> = BTreeMap::new();
    for student in &mut experiment.students {
        let axes: String = student.axes.iter().map(|(key, value)| format!("-{key}{value}")).collect();
        student.run = RunId::new(&format!("{}{axes}-s{}", student.method, student.seed), &student.recipe);
        let recipe = serde_json::to_string(&student.recipe)?;
        if let Some(same) = known.get(&recipe) {
            let at = methods.iter().find(|arm| arm.name == student.method).map_or("", |arm| &arm.at.0);
            return Err(user_error!("{at}: {} would repeat {same}; give the methods different settings", student.run));
        }
        known.insert(recipe, student.run.clone());
    }
    Ok(())
}

fn describe(recipe: &TrainRecipe, teacher: &str, swept: &[&str]) -> String {
    let objective = recipe.loss.objective;
    let drawn = objective.tail() == Some(Tail::Sampled);
    let k = match &recipe.teacher {
        Some(_) if swept.contains(&"top_k") => if drawn { "draws" } else { "top-k" }.to_string(),
        Some(teacher) if drawn => format!("{} draws", teacher.top_k),
        Some(teacher) => format!("top-{}", teacher.top_k),
        None => String::new(),
    };
    match objective {
        Objective::HARD_CE => return "hard-ce".to_string(),
        Objective::HardCe { label_smoothing } => return format!("hard-ce, label smoothing {label_smoothing}"),
        _ => {}
    }
    let mut words = format!("{} on {k} of {teacher}", objective.name());
    // Without skew, kl-reverse had no other tail than `bucket` once, and reports name it as they did.
    if let Some(tail) = objective.tail().filter(|tail| !matches!((objective, tail), (Objective::KlReverse { .. }, Tail::Bucket)))
    {
        words += &format!(", tail {}", tail.name());
    }
    match objective {
        Objective::LogitMse { centered: true, .. } => words += ", centered",
        Objective::Jsd { beta, .. } => words += &format!(", beta {beta}"),
        Objective::SampledKl { estimator, .. } => words += &format!(", estimator {}", estimator.name()),
        _ if objective.skew() > 0.0 => words += &format!(", skew {}", objective.skew()),
        _ => {}
    }
    if let Some(temperature) = objective.temperature().filter(|&temperature| temperature != 1.0) {
        words += &format!(", temperature {temperature}");
    }
    if recipe.loss.lambda > 0.0 {
        words += &format!(", mixed with {} hard-ce", recipe.loss.lambda);
    }
    words
}
