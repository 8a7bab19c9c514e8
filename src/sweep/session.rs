//! A session of `run`: starts the jobs of a schedule, each under its lease, until all have ended. Sessions on one folder share
//! the work.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hydrometer_base::backoff::backoff;
use hydrometer_base::cores;
use hydrometer_base::fs::{is_storage, uncreated};
use hydrometer_record::journal::{self, Event};

use super::ending::{Cause, Ending, Interruption};
use super::job::{Job, Work, ending_in, journal_path};
use super::lease::{Lease, LeaseObserver, LeaseState, holder_name, record};
use super::local::{Processes, WorkerMessage, log_path};
use super::machine::Machine;
use super::memory::{self, fit, least};
use super::prepare::prepare;
use super::progress::Progress;
use super::requeue::{requeue, requeue_damaged_weights};
use super::schedule::{Planned, Settings, plan};
use crate::experiment::Experiment;
use crate::train::checkpoint;

/// Time between two checks of a lease that another session holds.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a message of a worker.
const TICK: Duration = Duration::from_millis(200);

/// Default number of retries of a job in one session.
pub const RETRIES: u32 = 2;
/// The pause before the first retry.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepSummary {
    /// Jobs that were started.
    pub started: usize,
    /// Jobs that another session has finished meanwhile.
    pub elsewhere: usize,
    /// Jobs that did not finish for an external reason.
    pub undone: usize,
    /// The jobs among them that ran out of memory.
    pub short: usize,
    /// Whether ctrl-C stopped the session.
    pub interrupted: bool,
}

/// Runs the unfinished jobs of `experiment`. `interrupts` counts ctrl-C: after the first, running jobs write a checkpoint and
/// exit; after the second, they are killed. A user error if a job cannot fit into memory.
pub fn run(experiment: &Experiment, settings: &Settings, interrupts: &Arc<AtomicUsize>) -> Result<SweepSummary> {
    std::fs::create_dir_all(&settings.runs).map_err(|error| uncreated(&settings.runs, error))?;
    let mut planned = plan(experiment, settings)?;
    let machine = Machine::here();
    fit(planned.iter().map(|planned| &planned.job), &machine)?;
    if settings.rerun.is_some() {
        requeue(&planned, settings.rerun)?;
    }
    // A run that is trained again may itself read damaged weights.
    while requeue_damaged_weights(&planned)? {
        planned = plan(experiment, settings)?;
    }
    if planned.is_empty() {
        return Ok(SweepSummary::default());
    }
    if !prepare(experiment, settings, interrupts)? {
        return Ok(SweepSummary { interrupted: true, ..SweepSummary::default() });
    }
    let (sender, messages) = mpsc::channel();
    let jobs = planned.iter().map(|planned| TrackedJob::new(&planned.job.folder)).collect();
    let progress = Progress::new(&planned);
    let mut session = Session {
        planned,
        settings,
        machine,
        jobs,
        progress,
        summary: SweepSummary::default(),
        sender,
        messages,
        stop: None,
        storage: None,
    };
    session.run(interrupts)?;
    session.progress.finish();
    match session.storage {
        Some(because) => Err(anyhow!("{because}; no finished work is lost: free some space, and the same command resumes")),
        None => Ok(session.summary),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// Another session holds its lease.
    Elsewhere,
    Ended {
        done: bool,
    },
}

/// What a session knows about a job.
struct TrackedJob {
    state: State,
    observer: LeaseObserver,
    lease: Option<Lease>,
    processes: Option<Processes>,
    /// Attempts so far that were interrupted.
    attempts: u32,
    /// The earliest time at which it is tried again.
    next: Instant,
    /// Whether another session has held its lease during this session.
    shared: bool,
    /// The worker's own sentence on why it was interrupted.
    because: Option<String>,
}

impl TrackedJob {
    fn new(folder: &Path) -> Self {
        let (state, observer, next) = (State::Waiting, LeaseObserver::new(folder), Instant::now());
        Self { state, observer, lease: None, processes: None, attempts: 0, next, shared: false, because: None }
    }
}

/// How a session that starts no more jobs ends the running ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Graceful,
    Now,
}

struct Session<'a> {
    planned: Vec<Planned>,
    settings: &'a Settings,
    machine: Machine,
    jobs: Vec<TrackedJob>,
    progress: Progress,
    summary: SweepSummary,
    sender: Sender<WorkerMessage>,
    messages: Receiver<WorkerMessage>,
    stop: Option<Stop>,
    /// Why nothing can be written any more, if the disk is full or not writable.
    storage: Option<String>,
}

impl Session<'_> {
    fn run(&mut self, interrupts: &AtomicUsize) -> Result<()> {
        loop {
            match interrupts.load(Ordering::Relaxed) {
                0 => {}
                1 => self.stop(Stop::Graceful, "stopping", true),
                _ => self.stop(Stop::Now, "stopping", true),
            }
            if self.stop.is_none() {
                for index in 0..self.planned.len() {
                    let begun = self.begin(index);
                    self.catch_storage_error(index, begun)?;
                }
            }
            let running = self.running() > 0;
            if !running && (self.stop.is_some() || self.jobs.iter().all(|tracked| matches!(tracked.state, State::Ended { .. }))) {
                return Ok(());
            }
            match self.messages.recv_timeout(TICK) {
                Ok(WorkerMessage::Event(index, event)) => {
                    if let Event::Deferred { because } = &event {
                        self.jobs[index].because = Some(because.clone());
                    }
                    self.progress.event(index, &event);
                }
                Ok(WorkerMessage::Ended(index, ending)) => {
                    let ended = self.end(index, ending);
                    self.catch_storage_error(index, ended)?;
                }
                Err(_) => {}
            }
            self.progress.tick();
        }
    }

    fn running(&self) -> usize {
        self.jobs.iter().filter(|tracked| tracked.state == State::Running).count()
    }

    /// Ends the running jobs and starts no more.
    fn stop(&mut self, how: Stop, why: &str, interrupted: bool) {
        if self.stop >= Some(how) {
            return;
        }
        for processes in self.jobs.iter_mut().filter_map(|tracked| tracked.processes.as_mut()) {
            if how == Stop::Graceful { processes.stop() } else { processes.kill() }
        }
        let running = self.running();
        self.progress.say(&match how {
            Stop::Graceful => format!("{why}: {running} running jobs checkpoint first; ctrl-C again kills them"),
            Stop::Now => "killed".to_string(),
        });
        self.stop = Some(how);
        self.summary.interrupted |= interrupted;
    }

    /// If `result` is a storage error, ends the session in an orderly way; passes on any other error.
    fn catch_storage_error(&mut self, index: usize, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if is_storage(&error) => {
                self.storage_failed(index, &format!("{error:#}"));
                Ok(())
            }
            result => result,
        }
    }

    fn storage_failed(&mut self, index: usize, because: &str) {
        let tracked = &mut self.jobs[index];
        tracked.state = State::Ended { done: false };
        let because = tracked.because.take().unwrap_or_else(|| because.to_string());
        self.storage.get_or_insert(format!("{}: {because}", self.planned[index].job.run));
        self.stop(Stop::Graceful, "the disk is full or not writable", false);
    }

    /// Starts job `index` if it is waiting, its dependencies have ended, and a slot and enough memory are free.
    fn begin(&mut self, index: usize) -> Result<()> {
        let now = Instant::now();
        let tracked = &self.jobs[index];
        if !matches!(tracked.state, State::Waiting | State::Elsewhere) || tracked.next > now {
            return Ok(());
        }
        let needs = &self.planned[index].needs;
        if !needs.iter().all(|&need| matches!(self.jobs[need].state, State::Ended { .. })) {
            return Ok(());
        }
        let unmet = needs.iter().copied().find(|&need| self.jobs[need].state == (State::Ended { done: false }));
        if self.running() >= self.settings.jobs && unmet.is_none() {
            return Ok(());
        }
        if unmet.is_none() && !self.has_memory_for(index) {
            return Ok(());
        }
        let job = &self.planned[index].job;
        let tracked = &mut self.jobs[index];
        let Some(lease) = tracked.observer.take()? else {
            tracked.next = now + POLL_INTERVAL;
            if let (State::Waiting, LeaseState::Held(holder)) = (tracked.state, tracked.observer.observe()?) {
                (tracked.state, tracked.shared) = (State::Elsewhere, true);
                self.progress.say(&format!("{}: {} is working on it", job.run, holder_name(holder.as_ref())));
            }
            return Ok(());
        };
        let events = journal::read(&journal_path(&job.folder))?;
        let ending = Ending::of_events(&events);
        let ended = match job.work.grows() {
            true => tracked.shared && ending == Ending::Done && job.is_covered(),
            false => !ending.is_left(),
        };
        if ended {
            self.summary.elsewhere += 1;
            self.conclude(index, &ending, None);
            return Ok(());
        }
        if let Some(need) = unmet {
            let need = &self.planned[need].job;
            let mut error = format!("it needs {}, which is not done", need.run);
            if ending_in(&need.folder)?.error().is_some() {
                error = format!("it needs {}, which failed", need.run);
                record(&job.folder, &lease, &Event::Failed { error: error.clone() })?;
            }
            self.settle(index, false, Some(&error));
            return Ok(());
        }
        let mut job = job.clone();
        job.threads = threads(&job, &events).unwrap_or(job.threads);
        if let Some(kept) = pass_tokens(&job, &events) {
            if job.pass_tokens.is_some_and(|asked| asked != kept) {
                let how = "as it started; --rerun all would start it anew";
                self.progress.say(&format!("{}: resumes with passes of {kept} tokens, {how}", job.run));
            }
            job.pass_tokens = Some(kept);
        }
        tracked.because = None;
        match Processes::start(index, &job, &lease.token(), &self.sender) {
            Ok(processes) => {
                (tracked.lease, tracked.processes, tracked.state) = (Some(lease), Some(processes), State::Running);
                self.summary.started += 1;
                self.progress.started(index);
                Ok(())
            }
            Err(error) if is_storage(&error) => Err(error),
            Err(error) => self.retry(index, &lease, format!("{error:#}")),
        }
    }

    /// Whether the machine has enough memory for job `index` in addition to the running ones. A job may always run alone.
    fn has_memory_for(&self, index: usize) -> bool {
        let bytes = |job: &Job| if job.device == "cpu" { least(job.memory_bytes() * (job.tp * job.dp) as u64) } else { 0 };
        let jobs = self.planned.iter().zip(&self.jobs);
        let held: Vec<u64> =
            jobs.filter(|(_, tracked)| tracked.state == State::Running).map(|(planned, _)| bytes(&planned.job)).collect();
        let wanted = held.iter().sum::<u64>() + bytes(&self.planned[index].job);
        held.is_empty() || self.machine.all.is_none_or(|all| wanted <= all)
    }

    /// Handles the end of all processes of job `index`; `reported` is `None` if all succeeded.
    fn end(&mut self, index: usize, reported: Option<Ending>) -> Result<()> {
        let tracked = &mut self.jobs[index];
        tracked.processes = None;
        let Some(mut lease) = tracked.lease.take() else { return Ok(()) };
        let folder = self.planned[index].job.folder.clone();
        if !lease.reclaim()? {
            let ending = ending_in(&folder)?;
            if !ending.is_left() {
                // Another session took the lease after the job had ended.
                self.conclude(index, &ending, Some(&log_path(&folder)));
                return Ok(());
            }
            (tracked.state, tracked.shared, tracked.next) = (State::Elsewhere, true, Instant::now() + POLL_INTERVAL);
            self.progress.retried(index, "another session has taken it over");
            return Ok(());
        }
        let ending = ending_in(&folder)?;
        match reported {
            // The journal has the last word on these, whatever a process did afterwards.
            _ if matches!(ending, Ending::Done | Ending::Diverged(_)) => {}
            Some(Ending::Interrupted(Some(ref interruption)))
                if self.interrupted(index, &lease, interruption.clone(), &ending)? =>
            {
                return Ok(());
            }
            Some(failed @ Ending::Failed(_)) if ending.is_left() && self.stop.is_none() => {
                failed.event().map_or(Ok(()), |event| record(&folder, &lease, &event))?;
            }
            _ => {}
        }
        let ending = ending_in(&folder)?;
        let log = log_path(&folder);
        if ending.is_left() && self.stop.is_none() {
            self.summary.undone += 1;
        }
        self.conclude(index, &ending, Some(&log));
        Ok(())
    }

    /// Handles the interruption of job `index`, whose journal says `ending`. Returns false if the journal records a failure that
    /// may have caused the interruption: then the failure counts.
    fn interrupted(&mut self, index: usize, lease: &Lease, mut interruption: Interruption, ending: &Ending) -> Result<bool> {
        let folder = self.planned[index].job.folder.clone();
        // The worker's own sentence says more than its exit code.
        let own_words = self.jobs[index].because.take_if(|_| matches!(interruption.cause, Cause::CorruptInput | Cause::Memory));
        let written = own_words.is_some();
        interruption.because = own_words.unwrap_or(interruption.because);
        let because = interruption.because.clone();
        let cure = match interruption.cause {
            Cause::Storage => {
                self.storage_failed(index, &because);
                return Ok(true);
            }
            Cause::Rendezvous | Cause::CorruptInput if !(ending.is_left() || written) => return Ok(false),
            Cause::CorruptInput => {
                if !written {
                    record(&folder, lease, &interruption.event())?;
                }
                "the same command rebuilds it and resumes".to_string()
            }
            Cause::Memory => {
                record(&folder, lease, &interruption.event())?;
                // Memory that other jobs use now becomes free when they end.
                if self.running() > 1 {
                    self.retry(index, lease, because)?;
                    return Ok(true);
                }
                self.summary.short += 1;
                format!("try {}", cure(self.settings))
            }
            Cause::Killed | Cause::Rendezvous => {
                record(&folder, lease, &interruption.event())?;
                self.retry(index, lease, because)?;
                return Ok(true);
            }
            Cause::Terminated => {
                record(&folder, lease, &interruption.event())?;
                "the same command resumes from its last checkpoint".to_string()
            }
        };
        self.summary.undone += 1;
        self.settle(index, false, Some(&format!("{because}; {cure}")));
        Ok(true)
    }

    /// Retries job `index` after a pause, unless it has been retried often enough.
    fn retry(&mut self, index: usize, lease: &Lease, because: String) -> Result<()> {
        let tracked = &mut self.jobs[index];
        tracked.attempts += 1;
        if self.stop.is_some() || tracked.attempts > self.settings.retries {
            self.summary.undone += 1;
            self.settle(index, false, Some(&format!("{because}; the same command resumes from its last checkpoint")));
            return Ok(());
        }
        let pause = backoff(FIRST_PAUSE, tracked.attempts);
        (tracked.state, tracked.next) = (State::Waiting, Instant::now() + pause);
        let sentence = format!("{because}; retrying in {} s", pause.as_secs());
        self.progress.retried(index, &sentence);
        record(&self.planned[index].job.folder, lease, &Event::Retried { attempt: self.jobs[index].attempts, because })
    }

    /// Reports that job `index` has ended with `ending`.
    fn conclude(&mut self, index: usize, ending: &Ending, log: Option<&Path>) {
        let log = log.map_or(String::new(), |log| format!(" (log: {})", log.display()));
        let problem = match ending {
            Ending::Failed(error) => Some(format!("{error}{log}")),
            Ending::Diverged(evidence) => Some(format!("diverged: {evidence}")),
            _ => None,
        };
        self.settle(index, *ending == Ending::Done, problem.as_deref());
        if self.settings.fail_fast && problem.is_some() {
            self.stop(Stop::Graceful, "a run failed, and --fail-fast is set", false);
        }
    }

    /// Marks job `index` as ended; `problem` is shown to the user.
    fn settle(&mut self, index: usize, done: bool, problem: Option<&str>) {
        self.jobs[index].state = State::Ended { done };
        self.progress.ended(index, problem);
    }
}

/// Suggestions that leave more memory to a job under these settings.
pub fn cure(settings: &Settings) -> String {
    let fewer = if settings.jobs > 1 { "fewer --jobs, " } else { "" };
    format!("{fewer}{}", memory::cure(settings.recompute))
}

/// The thread count that a run started with, if it resumes from a checkpoint: with another count its numbers would differ in the
/// last bits.
fn threads(job: &Job, events: &[Event]) -> Option<usize> {
    let begun = events.iter().rev().find_map(|event| match event {
        Event::Started { threads, device, tp, dp, .. } if device == "cpu" && (*tp, *dp) == (job.tp as i64, job.dp as i64) => {
            usize::try_from(*threads).ok()
        }
        _ => None,
    })?;
    let goes_on = job.device == "cpu" && resumes(job, events);
    (goes_on && begun * job.tp * job.dp <= cores()).then_some(begun)
}

/// The pass size that a run started with, if it resumes from a checkpoint: no run has steps of two sizes.
fn pass_tokens(job: &Job, events: &[Event]) -> Option<usize> {
    let started = events.iter().rev().find_map(|event| match event {
        Event::Started { pass_tokens, .. } => pass_tokens.and_then(|tokens| usize::try_from(tokens).ok()),
        _ => None,
    });
    started.filter(|&tokens| tokens > 0 && resumes(job, events))
}

fn resumes(job: &Job, events: &[Event]) -> bool {
    journal::whole_steps(events) > 0 && !checkpoint::steps(&job.folder).is_empty()
}

impl Job {
    /// Whether the last job in its folder already covered all the data views that this job asks for.
    fn is_covered(&self) -> bool {
        let text = std::fs::read_to_string(self.folder.join("job.json")).unwrap_or_default();
        let Ok(Job { work: Work::Teach { students: taught, .. }, .. }) = serde_json::from_str(&text) else { return false };
        let Work::Teach { students, .. } = &self.work else { return false };
        students.iter().collect::<BTreeSet<_>>().is_subset(&taught.iter().collect())
    }
}
