//! The schedule: which jobs are left to do, and which jobs they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use hydrometer_base::cores;
use hydrometer_base::run_id::RunId;
use hydrometer_data::batch::DataView;

use super::ending::Ending;
use super::job::{
    Job, Judge, Work, baselines, cache_place, data_folder, ending, fidelity_run, fidelity_teacher, recording_place, writers,
};
use crate::experiment::{Experiment, Student, TeacherRef};

/// The settings of a session of `run`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub runs: PathBuf,
    /// Number of jobs at a time; the machine's cores are divided among them.
    pub jobs: usize,
    /// Run only the students whose id begins with this, and the teachers they need.
    pub only: Option<String>,
    pub rerun: Option<Rerun>,
    pub device: String,
    pub tp: usize,
    pub dp: usize,
    /// Activation recomputation: recompute activations in the backward pass.
    pub recompute: bool,
    pub sequence_parallel: bool,
    /// Most input tokens of a pass; `None` for each recipe's default.
    pub pass_tokens: Option<usize>,
    /// How often a job that was killed or could not start is retried.
    pub retries: u32,
    /// Stop at the first run that fails or diverges.
    pub fail_fast: bool,
}

impl Settings {
    /// Whether the student `run` is selected by `only`.
    pub fn selects(&self, run: &str) -> bool {
        self.only.as_ref().is_none_or(|prefix| run.starts_with(prefix.as_str()))
    }
}

/// The distinct data views of `students`.
pub fn views<'a>(students: impl Iterator<Item = &'a Student>) -> Vec<DataView> {
    let all: BTreeSet<_> = students.map(|student| student.recipe.view()).collect();
    all.into_iter().collect()
}

/// Which ended runs to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rerun {
    Failed,
    All,
}

/// A job and its place in the sweep.
pub struct Planned {
    pub job: Job,
    /// Indices of the jobs that must be done first.
    pub needs: Vec<usize>,
    /// FLOPs and target tokens, for the estimate of the time left.
    pub flops: f64,
    pub tokens: u64,
}

/// The jobs that are left to do; every job comes after the jobs it needs.
pub fn plan(experiment: &Experiment, settings: &Settings) -> Result<Vec<Planned>> {
    let runs = &settings.runs;
    let threads = (cores() / settings.jobs / (settings.tp * settings.dp)).max(1);
    let pending = |run: &str| -> Result<bool> {
        Ok(match ending(runs, run)? {
            Ending::New | Ending::Interrupted(_) => true,
            Ending::Done => settings.rerun == Some(Rerun::All),
            Ending::Failed(_) | Ending::Diverged(_) => settings.rerun.is_some(),
        })
    };
    let mut students = Vec::new();
    for student in experiment.students.iter().filter(|student| settings.selects(&student.run)) {
        if pending(&student.run)? {
            students.push(student);
        }
    }
    let mut planned: Vec<Planned> = Vec::new();
    let mut add = |run: &RunId, recipe: &crate::train::recipe::TrainRecipe, work: Work, needs: Vec<usize>, cost: (f64, u64)| {
        let parallel = !matches!(work, Work::Unigram { .. });
        // A text does not depend on the others, and there are few.
        let divided = parallel && !matches!(work, Work::Write { .. });
        let job = Job {
            run: run.clone(),
            folder: runs.join(run),
            data: data_folder(runs, &recipe.data),
            work,
            device: if parallel { settings.device.clone() } else { "cpu".into() },
            threads,
            tp: if parallel { settings.tp } else { 1 },
            dp: if divided { settings.dp } else { 1 },
            recompute: settings.recompute,
            sequence_parallel: settings.sequence_parallel,
            pass_tokens: settings.pass_tokens,
        };
        planned.push(Planned { job, needs, flops: cost.0, tokens: cost.1 });
        planned.len() - 1
    };
    let mut caches = vec![None; experiment.teachers.len()];
    let mut trained = vec![None; experiment.teachers.len()];
    for (index, teacher) in experiment.teachers.iter().enumerate() {
        let mine: Vec<_> = students.iter().filter(|student| student.trained_teacher() == Some(index)).collect();
        let mut needs = Vec::new();
        if pending(&teacher.run)? && (!mine.is_empty() || settings.only.is_none()) {
            let work = Work::Train { recipe: Box::new(teacher.recipe.clone()), start: teacher.start.clone(), cache: None };
            let index_of_job =
                add(&teacher.run, &teacher.recipe, work, vec![], (teacher.recipe.train_flops(), teacher.recipe.tokens));
            trained[index] = Some(index_of_job);
            needs.push(index_of_job);
        }
        if mine.is_empty() {
            continue;
        }
        let place = cache_place(runs, teacher);
        let run = RunId::of_folder(&place.folder);
        let wanted = views(mine.iter().map(|student| **student));
        let tokens = wanted.iter().map(|view| view.tokens).max().unwrap_or(0);
        let flops = tokens as f64 * teacher.recipe.model.forward_flops_per_token(teacher.recipe.data.context);
        let recipe = Box::new(teacher.recipe.clone());
        let (weights, start) = (runs.join(&teacher.run), teacher.start.clone());
        let work = Work::Teach { recipe, weights, start, students: wanted, cache: place };
        caches[index] = Some(add(&run, &teacher.recipe, work, needs, (flops, tokens)));
    }
    if settings.only.is_none() {
        for (run, student) in baselines(experiment) {
            if pending(&run)? {
                add(&run, &student.recipe, Work::Unigram { recipe: Box::new(student.recipe.clone()) }, vec![], (0.0, 0));
            }
        }
    }
    let mut jobs: BTreeMap<&str, usize> = BTreeMap::new();
    for student in students {
        let cache = student.teacher.map(|teacher| match teacher {
            TeacherRef::Trained(index) => cache_place(runs, &experiment.teachers[index]),
            TeacherRef::Recorded(index) => recording_place(runs, &experiment.recordings[index]),
        });
        let needs = student.trained_teacher().and_then(|index| caches[index]).into_iter().collect();
        let recipe = Box::new(student.recipe.clone());
        let cost = (student.recipe.train_flops(), student.recipe.tokens);
        let work = Work::Train { recipe, start: student.start.clone(), cache };
        jobs.insert(student.run.as_str(), add(&student.run, &student.recipe, work, needs, cost));
    }
    for student in &experiment.students {
        let own = jobs.get(student.run.as_str()).copied();
        let Some(index) = fidelity_teacher(experiment, student) else { continue };
        let teacher = &experiment.teachers[index];
        let there = |run: &str| -> Result<bool> { Ok(ending(runs, run)? == Ending::Done) };
        let run = fidelity_run(student, teacher);
        // Fidelity is measured for students that this session trains and for those trained before.
        let wanted = own.is_some() || (settings.selects(&student.run) && there(&student.run)?);
        if !wanted || !pending(&run)? || !(trained[index].is_some() || there(&teacher.run)?) {
            continue;
        }
        let work = Work::Fidelity {
            recipe: Box::new(student.recipe.clone()),
            student: runs.join(&student.run),
            teacher: Box::new(teacher.recipe.clone()),
            weights: runs.join(&teacher.run),
            start: teacher.start.clone(),
        };
        add(&run, &student.recipe, work, own.into_iter().chain(trained[index]).collect(), (0.0, 0));
    }
    for writer in writers(experiment) {
        let own = jobs.get(writer.model.as_str()).copied().or_else(|| trained_by(experiment, &trained, writer.model));
        let judge = writer.judge.map(|index| &experiment.teachers[index]);
        let of_judge = writer.judge.and_then(|index| trained[index]);
        let there = |run: &str| -> Result<bool> { Ok(ending(runs, run)? == Ending::Done) };
        let wanted = own.is_some() || (settings.selects(writer.model) && there(writer.model)?);
        let judged = judge.map_or(Ok(true), |judge| Ok::<bool, anyhow::Error>(of_judge.is_some() || there(&judge.run)?))?;
        if !wanted || !judged || !pending(&writer.run)? {
            continue;
        }
        let work = Work::Write {
            recipe: Box::new(writer.recipe.clone()),
            weights: runs.join(writer.model),
            start: writer.start.cloned(),
            task: Box::new(writer.task.recipe.clone()),
            asked: writer.task.asked.clone(),
            judge: judge.map(|judge| Judge {
                recipe: Box::new(judge.recipe.clone()),
                weights: runs.join(&judge.run),
                start: judge.start.clone(),
            }),
        };
        add(&writer.run, writer.recipe, work, own.into_iter().chain(of_judge).collect(), (0.0, 0));
    }
    Ok(planned)
}

/// The job that trains the teacher whose run is `run`.
fn trained_by(experiment: &Experiment, trained: &[Option<usize>], run: &RunId) -> Option<usize> {
    let index = experiment.teachers.iter().position(|teacher| teacher.run == *run)?;
    trained[index]
}
