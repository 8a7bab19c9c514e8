//! The sweep: which jobs there are, which must come first, and running them until none is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::job::{Job, Status, Work, baselines, cache_place, data_folder, data_sets, journal_path, status};
use super::local::{News, Processes, Trouble, log_path};
use super::progress::Progress;
use crate::data::tokens;
use crate::experiment::Experiment;
use crate::record::journal::{self, Event, Journal};

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub runs: PathBuf,
    /// Jobs at a time; the machine's cores are divided among them.
    pub jobs: usize,
    /// Students whose id begins so, and what they need.
    pub only: Option<String>,
    pub rerun: Option<Rerun>,
    pub device: String,
    pub tp: usize,
    pub dp: usize,
    /// Compute activations again on the way back.
    pub recompute: bool,
    pub sequence_parallel: bool,
}

/// What to run again though it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    Failed,
    All,
}

/// A job and its place in the sweep.
pub struct Planned {
    pub job: Job,
    /// Indices of jobs that must be done first.
    pub needs: Vec<usize>,
    /// For the estimate of time left.
    pub flops: f64,
    pub tokens: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
}

/// The jobs that are left to do, in an order that puts needs first.
pub fn plan(experiment: &Experiment, settings: &Settings) -> Vec<Planned> {
    let runs = &settings.runs;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = (cores / settings.jobs / (settings.tp * settings.dp)).max(1);
    let pending = |run: &str| match status(runs, run) {
        Status::New | Status::Interrupted => true,
        Status::Done => settings.rerun == Some(Rerun::All),
        Status::Failed(_) | Status::Diverged(_) => settings.rerun.is_some(),
    };
    let students: Vec<_> = experiment
        .students
        .iter()
        .filter(|student| settings.only.as_ref().is_none_or(|prefix| student.run.starts_with(prefix.as_str())))
        .filter(|student| pending(&student.run))
        .collect();
    let mut planned: Vec<Planned> = Vec::new();
    let mut add =
        |run: &str, recipe: &crate::experiment::recipe::TrainRecipe, work: Work, needs: Vec<usize>, cost: (f64, u64)| {
            let parallel = !matches!(work, Work::Unigram { .. });
            let job = Job {
                run: run.to_string(),
                folder: runs.join(run),
                data: data_folder(runs, recipe),
                work,
                device: if parallel { settings.device.clone() } else { "cpu".into() },
                threads,
                tp: if parallel { settings.tp } else { 1 },
                dp: if parallel { settings.dp } else { 1 },
                recompute: settings.recompute,
                sequence_parallel: settings.sequence_parallel,
            };
            planned.push(Planned { job, needs, flops: cost.0, tokens: cost.1, state: State::Waiting });
            planned.len() - 1
        };
    let mut caches = vec![None; experiment.teachers.len()];
    for (index, teacher) in experiment.teachers.iter().enumerate() {
        let mine: Vec<_> = students.iter().filter(|student| student.teacher == Some(index)).collect();
        let mut needs = Vec::new();
        if pending(&teacher.run) && (!mine.is_empty() || settings.only.is_none()) {
            let work = Work::Train { recipe: Box::new(teacher.recipe.clone()), cache: None };
            needs.push(add(&teacher.run, &teacher.recipe, work, vec![], (teacher.recipe.train_flops(), teacher.recipe.tokens)));
        }
        if mine.is_empty() {
            continue;
        }
        let place = cache_place(runs, teacher);
        let run = place.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut wanted: Vec<(u64, u64, u64)> =
            mine.iter().map(|student| (student.recipe.tokens, student.recipe.batch, student.recipe.seed)).collect();
        wanted.sort();
        wanted.dedup();
        let tokens = wanted.iter().map(|(tokens, ..)| tokens).max().copied().unwrap_or(0);
        let flops = tokens as f64 * teacher.recipe.model.forward_flops_per_token(teacher.recipe.data.context);
        let recipe = Box::new(teacher.recipe.clone());
        let work = Work::Teach { recipe, weights: runs.join(&teacher.run), students: wanted, cache: place };
        caches[index] = Some(add(&run, &teacher.recipe, work, needs, (flops, tokens)));
    }
    if settings.only.is_none() {
        for (run, student) in baselines(experiment) {
            if pending(&run) {
                add(&run, &student.recipe, Work::Unigram { recipe: Box::new(student.recipe.clone()) }, vec![], (0.0, 0));
            }
        }
    }
    for student in students {
        let cache = student.teacher.map(|index| cache_place(runs, &experiment.teachers[index]));
        let needs = student.teacher.and_then(|index| caches[index]).into_iter().collect();
        let recipe = Box::new(student.recipe.clone());
        let cost = (student.recipe.train_flops(), student.recipe.tokens);
        add(&student.run, &student.recipe, Work::Train { recipe, cache }, needs, cost);
    }
    planned
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Jobs that were started.
    pub started: usize,
    /// Jobs whose processes were killed from outside.
    pub killed: usize,
    pub interrupted: bool,
}

/// Runs what is left of `experiment`. `interrupts` counts ctrl-C: at one, running jobs checkpoint and end; at two they are
/// killed.
pub fn run(experiment: &Experiment, settings: &Settings, interrupts: &Arc<AtomicUsize>) -> Result<Ending> {
    fs::create_dir_all(&settings.runs).with_context(|| format!("cannot create {}", settings.runs.display()))?;
    let mut planned = plan(experiment, settings);
    if planned.is_empty() {
        return Ok(Ending::default());
    }
    for (folder, recipe, files, splits) in data_sets(experiment, &settings.runs) {
        let splits: Vec<&str> = splits.iter().map(String::as_str).collect();
        tokens::prepare(&recipe.data, &files, &splits, &folder)?;
    }
    if settings.rerun == Some(Rerun::All) {
        for planned in &planned {
            match fs::remove_dir_all(&planned.job.folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    let (sender, news) = mpsc::channel();
    let mut processes: Vec<Option<Processes>> = planned.iter().map(|_| None).collect();
    let mut progress = Progress::new(&planned);
    let mut ending = Ending::default();
    let mut asked = 0;
    loop {
        let interrupted = interrupts.load(Ordering::Relaxed);
        if interrupted > asked {
            ending.interrupted = true;
            for process in processes.iter_mut().flatten() {
                if interrupted == 1 { process.stop() } else { process.kill() }
            }
            let running = processes.iter().flatten().count();
            progress.say(&match interrupted {
                1 => format!("stopping: {running} running jobs checkpoint first; ctrl-C again kills them"),
                _ => "killed".to_string(),
            });
            asked = interrupted;
        }
        if !ending.interrupted {
            for index in 0..planned.len() {
                let running = planned.iter().filter(|job| job.state == State::Running).count();
                let ready = planned[index].needs.iter().all(|&need| planned[need].state == State::Ended);
                if planned[index].state != State::Waiting || !ready || running >= settings.jobs {
                    continue;
                }
                let lacking =
                    planned[index].needs.iter().find(|&&need| status(&settings.runs, &planned[need].job.run) != Status::Done);
                if let Some(&need) = lacking {
                    let need = &planned[need].job.run;
                    let mut error = format!("it needs {need}, which is not done");
                    if matches!(status(&settings.runs, need), Status::Failed(_) | Status::Diverged(_)) {
                        error = format!("it needs {need}, which failed");
                        record(&planned[index].job.folder, Event::Failed { error: error.clone() })?;
                    }
                    planned[index].state = State::Ended;
                    progress.ended(index, Some(&error));
                    continue;
                }
                processes[index] = Some(Processes::start(index, &planned[index].job, &sender)?);
                planned[index].state = State::Running;
                ending.started += 1;
                progress.started(index);
            }
        }
        if planned.iter().all(|job| job.state != State::Running) {
            if ending.interrupted || planned.iter().all(|job| job.state == State::Ended) {
                break;
            }
            continue;
        }
        match news.recv_timeout(Duration::from_millis(200)) {
            Ok(News::Event(index, event)) => progress.event(index, &event),
            Ok(News::Ended(index, trouble)) => {
                processes[index] = None;
                planned[index].state = State::Ended;
                let folder = &planned[index].job.folder;
                let now = || Status::of(&journal::read(&journal_path(folder)));
                let mut problem = None;
                match (trouble, now()) {
                    (_, Status::Done | Status::Diverged(_)) | (None, _) => {}
                    (Some(Trouble::Killed(by)), _) => {
                        record(folder, Event::Killed { by: by.clone() })?;
                        problem = Some(format!("{by}; the same command goes on from its last checkpoint"));
                        ending.killed += 1;
                    }
                    (Some(Trouble::Failed(error)), Status::New | Status::Interrupted) if !ending.interrupted => {
                        record(folder, Event::Failed { error })?;
                    }
                    (Some(Trouble::Failed(_)), _) => {}
                }
                match now() {
                    Status::Failed(error) => problem = Some(format!("{error} (log: {})", log_path(folder).display())),
                    Status::Diverged(evidence) => problem = Some(format!("diverged: {evidence}")),
                    _ => {}
                }
                progress.ended(index, problem.as_deref());
            }
            Err(_) => {}
        }
        progress.tick();
    }
    progress.finish();
    Ok(ending)
}

/// Writes what happened to a job that could not write it itself.
fn record(folder: &Path, event: Event) -> Result<()> {
    fs::create_dir_all(folder)?;
    Journal::append(&journal_path(folder), false)?.write(&event)
}
