//! What was done and must be done again: because it was asked for, or because it is not whole any more.

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

/// Puts every job of `planned` that has ended back in the queue, as `rerun` asks; one that another session works on is left to it.
pub fn requeue(planned: &[Planned], rerun: Option<Rerun>) -> Result<()> {
    let anew = rerun == Some(Rerun::All);
    for Planned { job, .. } in planned {
        let ended = || -> Result<bool> {
            Ok(match ending_in(&job.folder)? {
                Ending::Done => anew,
                ending => !ending.is_left(),
            })
        };
        // A run that was interrupted starts anew too where all do.
        if !(ended()? || anew && journal_path(&job.folder).exists()) {
            continue;
        }
        let Some(lease) = LeaseObserver::new(&job.folder).take()? else { continue };
        if ended()? || anew {
            put_back(&job.folder, &lease, anew)?;
        }
        if let (true, Work::Teach { cache, .. }) = (anew, &job.work) {
            for block in fs::read_dir(&cache.folder)?.flatten().map(|entry| entry.path()) {
                if block.extension().is_some_and(|extension| extension == "block") {
                    fs::remove_file(&block).with_context(|| format!("cannot delete {}", block.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Before weights are read: a run that is done but whose weights are not whole is put back in the queue, be it a teacher or a
/// student that is held against it. Whether any was.
pub fn mend_weights(planned: &[Planned]) -> Result<bool> {
    let mut any = false;
    for Planned { job, .. } in planned {
        let read: Vec<(&Path, &str, bool)> = match &job.work {
            Work::Teach { weights, recipe, .. } => vec![(weights, "teacher", recipe.is_untrained())],
            Work::Fidelity { student, recipe, weights, teacher, .. } => {
                vec![(student, "student", recipe.is_untrained()), (weights, "teacher", teacher.is_untrained())]
            }
            _ => continue,
        };
        for (folder, what, untrained) in read {
            let weights = final_weights(folder);
            // What this session trains is not done.
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

/// The journal first: a checkpoint beyond its steps counts for nothing.
fn put_back(folder: &Path, lease: &Lease, anew: bool) -> Result<()> {
    if !journal::read(&journal_path(folder))?.is_empty() {
        record(folder, lease, &Event::Requeued { anew })?;
    }
    if anew { checkpoint::prune(folder, 0) } else { Ok(()) }
}
