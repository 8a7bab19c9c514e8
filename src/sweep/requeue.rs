//! Puts finished jobs back in the queue: because `--rerun` asks for it, or because their weights are damaged.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hydrometer_record::journal::{self, Event};

use super::ending::Ending;
use super::job::{Work, ending_in, journal_path};
use super::lease::{Lease, LeaseObserver, record};
use super::schedule::{Planned, Rerun};
use crate::train::checkpoint;
use crate::train::run::final_weights;

/// Puts the ended jobs of `planned` back in the queue, as `rerun` asks. Jobs that another session is working on are skipped.
pub fn requeue(planned: &[Planned], rerun: Option<Rerun>) -> Result<()> {
    let from_scratch = rerun == Some(Rerun::All);
    for Planned { job, .. } in planned {
        let ended = || -> Result<bool> {
            Ok(match ending_in(&job.folder)? {
                Ending::Done => from_scratch,
                ending => !ending.is_left(),
            })
        };
        // With `--rerun all`, interrupted runs start from scratch too.
        if !(ended()? || from_scratch && journal_path(&job.folder).exists()) {
            continue;
        }
        let Some(lease) = LeaseObserver::new(&job.folder).take()? else { continue };
        if ended()? || from_scratch {
            put_back(&job.folder, &lease, from_scratch)?;
        }
        if let (true, Work::Teach { cache, .. }) = (from_scratch, &job.work) {
            for block in fs::read_dir(&cache.folder)?.flatten().map(|entry| entry.path()) {
                if block.extension().is_some_and(|extension| extension == "block") {
                    fs::remove_file(&block).with_context(|| format!("cannot delete {}", block.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Checks the weights that the jobs of `planned` will read: those of teachers, and of students whose fidelity is measured. Puts a
/// finished run whose weights are damaged back in the queue. Returns whether there was any.
pub fn requeue_damaged_weights(planned: &[Planned]) -> Result<bool> {
    let mut any = false;
    for Planned { job, .. } in planned {
        let read: Vec<(&Path, &str, bool)> = match &job.work {
            Work::Teach { weights, recipe, .. } => vec![(weights, "teacher", recipe.is_untrained())],
            Work::Fidelity { student, recipe, weights, teacher, .. } => {
                vec![(student, "student", recipe.is_untrained()), (weights, "teacher", teacher.is_untrained())]
            }
            Work::Write { weights, recipe, judge, .. } => {
                let mut read: Vec<(&Path, &str, bool)> = vec![(weights, "model", recipe.is_untrained())];
                read.extend(judge.iter().map(|judge| (judge.weights.as_path(), "teacher", judge.recipe.is_untrained())));
                read
            }
            _ => continue,
        };
        for (folder, what, untrained) in read {
            let weights = final_weights(folder);
            // Runs that are not done will be trained by this session.
            if untrained || ending_in(folder)? != Ending::Done || checkpoint::verify_checksum(&weights) {
                continue;
            }
            let Some(lease) = LeaseObserver::new(folder).take()? else { continue };
            if ending_in(folder)? == Ending::Done {
                tracing::warn!("{} is damaged; this {what} is trained again", weights.display());
                put_back(folder, &lease, true)?;
                any = true;
            }
        }
    }
    Ok(any)
}

/// Puts the run in `folder` back in the queue. The journal is written first, because checkpoints beyond its steps are ignored.
fn put_back(folder: &Path, lease: &Lease, from_scratch: bool) -> Result<()> {
    if !journal::read(&journal_path(folder))?.is_empty() {
        record(folder, lease, &Event::Requeued { anew: from_scratch })?;
    }
    if from_scratch { checkpoint::prune(folder, 0) } else { Ok(()) }
}
