//! `hydrometer worker`: one rank of a job.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hydrometer_base::fs::{is_storage, remove_parts};
use hydrometer_base::guard::caught;
use hydrometer_base::numerics::NUMERICS;
use hydrometer_base::shortage::{SAID, first_words, shortage};
use hydrometer_base::user_error;
use hydrometer_data::batch::sequences_seen;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_record::journal::{Event, Journal, TakenOver};
use hydrometer_torch::dist::Mesh;
use tch::Device;

use super::ending::{Cause, Ending};
use super::job::{CachePlace, Job, Work, journal_path};
use super::lease::{Lease, LeaseObserver};
use crate::eval::fidelity::{Model, fidelity};
use crate::eval::perplexity::Evaluation;
use crate::eval::writing::Prompts;
use crate::teacher::build_cache::TeacherPass;
use crate::teacher::cache::Cache;
use crate::train::recipe::TrainRecipe;
use crate::train::run::{Outcome, RunInputs, evaluation_events, train, trained_decoder};

/// Texts between two reports of the progress of a task.
const PROGRESS_EVERY: u64 = 32;

/// Does the job in `job_file` as the rank that the environment names. The first rank adopts the lease with `token` and writes the
/// journal. When its standard input closes, because the scheduler asks it to stop or has died, it stops after the current step.
pub fn work(job_file: &Path, token: Option<&str>) -> Result<ExitCode> {
    let text = std::fs::read_to_string(job_file).with_context(|| format!("cannot read {}", job_file.display()))?;
    let job: Job = serde_json::from_str(&text).with_context(|| format!("{} is not a valid job file", job_file.display()))?;
    tch::set_num_threads(job.threads as i32);
    let first = std::env::var("RANK").map_or(true, |rank| rank == "0");
    let stop = Arc::new(AtomicBool::new(false));
    let mut lease = None;
    if first {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
        let taken = match token {
            Some(token) => Lease::adopt(&job.folder, token)?,
            None => LeaseObserver::new(&job.folder).take()?,
        };
        lease = Some(taken.ok_or(TakenOver)?);
        remove_parts(&job.folder, Duration::ZERO);
    }
    let open = |lease: &Lease| Journal::append(&journal_path(&job.folder), lease.fence(), true);
    let journal = lease.as_ref().map(open).transpose()?;
    let device = device(&job.device)?;
    let result = caught(|| match Mesh::from_env(job.tp, job.dp, device) {
        Ok(mesh) => {
            let mesh = Mesh { sequence_parallel: job.sequence_parallel, ..mesh };
            dispatch(&job, &mesh, journal.as_ref(), &stop)
        }
        Err(error) => Err(error.context(Cause::Rendezvous)),
    });
    let error = match result {
        Ok(Ok(())) => return Ok(ExitCode::SUCCESS),
        Ok(Err(error)) => match shortage(&format!("{error:#}")) {
            Some(shortage) => anyhow!(shortage).context(Cause::Memory),
            None => error,
        },
        // A panic is either tch running out of memory or a bug.
        Err(panic) => match shortage(&panic) {
            Some(shortage) => anyhow!(shortage).context(Cause::Memory),
            None => anyhow!(first_words(&panic)),
        },
    };
    let cause = cause_of(&error);
    let words = match cause {
        Some(Cause::Memory) => error.root_cause().to_string(),
        _ => format!("{error:#}"),
    };
    // Ignore errors: the log may be on the disk that is full.
    let _ = writeln!(std::io::stderr(), "{SAID}{words}");
    if error.is::<TakenOver>() {
        return Ok(ExitCode::FAILURE);
    }
    let ending = cause.map_or(Ending::Failed(words.clone()), |cause| Ending::interrupted(cause, words));
    // A failed rendezvous is recorded once, by the scheduler.
    let event = ending.event().filter(|_| cause != Some(Cause::Rendezvous));
    if let (Some(journal), Some(event)) = (&journal, event)
        && journal.write(&event).is_err()
    {
        let _ = journal.tell(&event);
    }
    Ok(ExitCode::from(ending.exit_code()))
}

/// The cause of the interruption, if `error` stands for one; `None` if it is a failure.
fn cause_of(error: &anyhow::Error) -> Option<Cause> {
    match error.downcast_ref::<Cause>() {
        Some(Cause::Memory) => Some(Cause::Memory),
        _ if is_storage(error) => Some(Cause::Storage),
        cause => cause.copied(),
    }
}

impl Work {
    fn recipe(&self) -> &TrainRecipe {
        match self {
            Work::Train { recipe, .. }
            | Work::Teach { recipe, .. }
            | Work::Fidelity { recipe, .. }
            | Work::Write { recipe, .. }
            | Work::Unigram { recipe } => recipe,
        }
    }
}

/// Parses `cpu` or `cuda:N`. A user error if the name is unknown or CUDA is not available.
pub fn device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let index = index.ok_or_else(|| user_error!("unknown device {name:?}; use cpu or cuda:N"))?;
    if !tch::Cuda::is_available() {
        return Err(user_error!("{name} is not available: this build or this machine has no CUDA; use --device cpu"));
    }
    Ok(Device::Cuda(index))
}

fn dispatch(job: &Job, mesh: &Mesh, journal: Option<&Journal>, stop: &AtomicBool) -> Result<()> {
    let vocab_size = job.work.recipe().model.vocab_size;
    let split = |name: &str| -> Result<TokenizedSplit> {
        let path = job.data.join(format!("{name}.tokens"));
        let split = TokenizedSplit::read(&path).context(Cause::CorruptInput)?;
        let unknown = split.ids.iter().find(|&id| id as usize >= vocab_size);
        match unknown {
            Some(id) => {
                Err(user_error!("the {name} split contains token {id}, outside the model's vocabulary of {vocab_size} ids"))
            }
            None => Ok(split),
        }
    };
    let stopped = || stop.load(Ordering::Relaxed);
    match &job.work {
        Work::Train { recipe, start, cache } => {
            let open = |place: &CachePlace| Cache::open(&place.folder, &place.title).context(Cause::CorruptInput);
            let (train_split, held_out) = (split("train")?, split(&recipe.eval.on)?);
            let cache = cache.as_ref().map(open).transpose()?;
            if let Some(journal) = journal {
                journal.write(&started(job, recipe))?;
            }
            let recompute = job.recompute;
            let start = start.as_deref();
            let pass_tokens = job.pass_tokens_of(recipe);
            let (train_split, held_out) = (&train_split, &held_out);
            let place = RunInputs { folder: &job.folder, start, train: train_split, held_out, cache, recompute, pass_tokens };
            match train(recipe, &place, mesh, journal, stopped)? {
                Outcome::Done | Outcome::Diverged | Outcome::Stopped => Ok(()),
            }
        }
        Work::Teach { recipe, weights, start, students, cache } => {
            let train_split = split("train")?;
            let all = sequences(&train_split, recipe.data.context);
            let wanted = sequences_seen(&all, students);
            let decoder = trained_decoder(recipe, start.as_deref(), weights, mesh);
            // Damaged weights that were trained here can be trained again; a damaged checkpoint from elsewhere is an error.
            let decoder = if recipe.is_untrained() { decoder? } else { decoder.context(Cause::CorruptInput)? };
            if let Some(journal) = journal {
                journal.write(&started(job, recipe))?;
                journal.write(&Event::Resumed { step: 0 })?;
                for path in Cache::remove_corrupt(&cache.folder, &cache.title)? {
                    let what = format!("{} is damaged; its teacher targets are computed again", path.display());
                    journal.write(&Event::Notice { what })?;
                }
            }
            mesh.world.barrier(mesh.device)?;
            let teacher = TeacherPass { decoder: &decoder, title: &cache.title, context: recipe.data.context, mesh };
            let complete = teacher.teach(&train_split, &wanted, &cache.folder, |done, total| {
                let mut flag = [f64::from(mesh.is_first() && stopped())];
                mesh.world.sum(&mut flag, mesh.device)?;
                if let Some(journal) = journal {
                    journal.write(&Event::Progress { done, total })?;
                }
                Ok(flag[0] == 0.0)
            })?;
            match journal {
                Some(journal) if complete => journal.write(&Event::Done),
                _ => Ok(()),
            }
        }
        Work::Fidelity { recipe, student, teacher, weights, start } => {
            let held_out = split(&recipe.eval.on)?;
            if let Some(journal) = journal {
                journal.write(&started(job, recipe))?;
                journal.write(&Event::Resumed { step: 0 })?;
            }
            let student = trained_decoder(recipe, None, student, mesh)?;
            let decoder = trained_decoder(teacher, start.as_deref(), weights, mesh)?;
            let student = Model { decoder: &student, vocab_size };
            let teacher = Model { decoder: &decoder, vocab_size: teacher.model.vocab_size };
            let found = fidelity(&student, &teacher, &held_out, recipe.data.context, mesh)?;
            let Some(journal) = journal else { return Ok(()) };
            journal.write(&Event::FidelityMeasured {
                split: recipe.eval.on.clone(),
                tokens: found.tokens as i64,
                scores: found.scores,
            })?;
            journal.write(&Event::Done)
        }
        Work::Write { recipe, weights, start, task, asked, judge } => {
            if let Some(journal) = journal {
                journal.write(&started(job, recipe))?;
                journal.write(&Event::Resumed { step: 0 })?;
            }
            let prompts = Prompts::encode(task, asked, recipe.writing(), &job.data)?;
            let decoder = trained_decoder(recipe, start.as_deref(), weights, mesh)?;
            let total = (asked.len() * task.samples) as u64;
            let written = prompts.write(&decoder, mesh, |done| {
                let mut flag = [f64::from(mesh.is_first() && stopped())];
                mesh.world.sum(&mut flag, mesh.device)?;
                if let Some(journal) = journal.filter(|_| done % PROGRESS_EVERY == 0) {
                    journal.write(&Event::Progress { done, total })?;
                }
                Ok(flag[0] == 0.0)
            })?;
            let Some(written) = written else { return Ok(()) };
            let judge = match judge {
                Some(judge) => {
                    Some((trained_decoder(&judge.recipe, judge.start.as_deref(), &judge.weights, mesh)?, &judge.recipe))
                }
                None => None,
            };
            let judge = judge.as_ref().map(|(decoder, recipe)| (decoder, recipe.writing()));
            let scores = prompts.scores(&written, judge, mesh)?;
            let Some(journal) = journal else { return Ok(()) };
            for event in written.iter().map(|written| prompts.event(written)).chain(scores) {
                journal.write(&event)?;
            }
            journal.write(&Event::Done)
        }
        Work::Unigram { recipe } => {
            let Some(journal) = journal else { return Ok(()) };
            let (train_split, held_out) = (split("train")?, split(&recipe.eval.on)?);
            let all = sequences(&train_split, recipe.data.context);
            let mut counts = vec![1.0f64; recipe.model.vocab_size];
            for sequence in &all {
                sequence.labels(&train_split)[sequence.first..].iter().for_each(|&id| counts[id as usize] += 1.0);
            }
            let total: f64 = counts.iter().sum();
            let likeliest = counts.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id as u32);
            let mut found = Evaluation::new(held_out.len(), held_out.bytes.iter().sum());
            for sequence in sequences(&held_out, recipe.data.context) {
                for &id in &sequence.labels(&held_out)[sequence.first..] {
                    let nll = (total / counts[id as usize]).ln();
                    found.add(sequence.document, nll, counts[likeliest as usize] / total, id == likeliest);
                }
            }
            journal.write(&Event::Started {
                device: "cpu".into(),
                tp: 1,
                dp: 1,
                threads: 1,
                params: counts.len() as i64,
                updates: 0,
                numerics: NUMERICS,
                pass_tokens: None,
            })?;
            journal.write(&Event::Resumed { step: 0 })?;
            let tokens = all.iter().map(|s| s.counted() as i64).sum();
            for event in evaluation_events(&found, recipe, 0, tokens, Some(&held_out)) {
                journal.write(&event)?;
            }
            journal.write(&Event::Done)
        }
    }
}

fn started(job: &Job, recipe: &TrainRecipe) -> Event {
    let trains = matches!(job.work, Work::Train { .. }) && !recipe.is_untrained();
    Event::Started {
        device: job.device.clone(),
        tp: job.tp as i64,
        dp: job.dp as i64,
        threads: job.threads as i64,
        params: recipe.model.parameter_count() as i64,
        updates: recipe.updates() as i64,
        numerics: NUMERICS,
        pass_tokens: trains.then(|| job.pass_tokens_of(recipe) as i64),
    }
}
