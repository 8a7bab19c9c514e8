//! A session of `run`: the jobs of a schedule, each under its lease, until none is left. Sessions on one folder share the work.

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
use super::lease::{Lease, LeaseObserver, LeaseState, by, record};
use super::local::{Processes, WorkerMessage, log_path};
use super::machine::Machine;
use super::memory::{self, fit, least};
use super::prepare::prepare;
use super::progress::Progress;
use super::requeue::{mend_weights, requeue};
use super::schedule::{Planned, Settings, plan};
use crate::experiment::Experiment;
use crate::train::checkpoint;

/// Time between looks at what others do.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for news.
const TICK: Duration = Duration::from_millis(200);

/// Tries of a job in one session after the first, where nothing else is asked for.
pub const RETRIES: u32 = 2;
/// The pause before the first of them.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepSummary {
    /// Jobs that were started.
    pub started: usize,
    /// Jobs that another session did meanwhile.
    pub elsewhere: usize,
    /// Jobs that could not be done through no fault of theirs.
    pub undone: usize,
    /// Of these, jobs for which memory was too short.
    pub short: usize,
    /// By ctrl-C.
    pub interrupted: bool,
}

/// Runs what is left of `experiment`. `interrupts` counts ctrl-C: at one, running jobs checkpoint and end; at two they are killed.
pub fn run(experiment: &Experiment, settings: &Settings, interrupts: &Arc<AtomicUsize>) -> Result<SweepSummary> {
    std::fs::create_dir_all(&settings.runs).map_err(|error| uncreated(&settings.runs, error))?;
    let mut planned = plan(experiment, settings)?;
    let machine = Machine::here();
    fit(planned.iter().map(|planned| &planned.job), &machine)?;
    if settings.rerun.is_some() {
        requeue(&planned, settings.rerun)?;
    }
    // What is trained again may need what is not whole either.
    while mend_weights(&planned)? {
        planned = plan(experiment, settings)?;
    }
    if planned.is_empty() {
        return Ok(SweepSummary::default());
    }
    if !prepare(experiment, settings, interrupts)? {
        return Ok(SweepSummary { interrupted: true, ..SweepSummary::default() });
    }
    let (sender, news) = mpsc::channel();
    let desks = planned.iter().map(|planned| TrackedJob::new(&planned.job.folder)).collect();
    let progress = Progress::new(&planned);
    let mut session = Session {
        planned,
        settings,
        machine,
        desks,
        progress,
        ending: SweepSummary::default(),
        sender,
        news,
        stop: None,
        storage: None,
    };
    session.run(interrupts)?;
    session.progress.finish();
    match session.storage {
        Some(because) => Err(anyhow!("{because}; nothing that is done is lost: make room, and the same command goes on")),
        None => Ok(session.ending),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// Under another session's lease.
    Elsewhere,
    Ended {
        done: bool,
    },
}

/// What a session knows of a job.
struct TrackedJob {
    state: State,
    watch: LeaseObserver,
    lease: Option<Lease>,
    processes: Option<Processes>,
    /// Tries so far that did not come to an end of their own.
    attempts: u32,
    /// Not before this is it looked at again.
    next: Instant,
    /// Whether another session has had it in this one.
    shared: bool,
    /// Why it could not go on, in its own words.
    because: Option<String>,
}

impl TrackedJob {
    fn new(folder: &Path) -> Self {
        let (state, watch, next) = (State::Waiting, LeaseObserver::new(folder), Instant::now());
        Self { state, watch, lease: None, processes: None, attempts: 0, next, shared: false, because: None }
    }
}

/// Why no more jobs are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Graceful,
    Now,
}

struct Session<'a> {
    planned: Vec<Planned>,
    settings: &'a Settings,
    machine: Machine,
    desks: Vec<TrackedJob>,
    progress: Progress,
    ending: SweepSummary,
    sender: Sender<WorkerMessage>,
    news: Receiver<WorkerMessage>,
    stop: Option<Stop>,
    /// Why nothing can be written any more.
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
                    self.or_storage(index, begun)?;
                }
            }
            let running = self.running() > 0;
            if !running && (self.stop.is_some() || self.desks.iter().all(|desk| matches!(desk.state, State::Ended { .. }))) {
                return Ok(());
            }
            match self.news.recv_timeout(TICK) {
                Ok(WorkerMessage::Event(index, event)) => {
                    if let Event::Deferred { because } = &event {
                        self.desks[index].because = Some(because.clone());
                    }
                    self.progress.event(index, &event);
                }
                Ok(WorkerMessage::Ended(index, trouble)) => {
                    let ended = self.end(index, trouble);
                    self.or_storage(index, ended)?;
                }
                Err(_) => {}
            }
            self.progress.tick();
        }
    }

    fn running(&self) -> usize {
        self.desks.iter().filter(|desk| desk.state == State::Running).count()
    }

    /// Ends running jobs and starts no more.
    fn stop(&mut self, how: Stop, why: &str, interrupted: bool) {
        if self.stop >= Some(how) {
            return;
        }
        for processes in self.desks.iter_mut().filter_map(|desk| desk.processes.as_mut()) {
            if how == Stop::Graceful { processes.stop() } else { processes.kill() }
        }
        let running = self.running();
        self.progress.say(&match how {
            Stop::Graceful => format!("{why}: {running} running jobs checkpoint first; ctrl-C again kills them"),
            Stop::Now => "killed".to_string(),
        });
        self.stop = Some(how);
        self.ending.interrupted |= interrupted;
    }

    /// A disk that takes no more ends the session, not the program's good manners.
    fn or_storage(&mut self, index: usize, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if is_storage(&error) => {
                self.full(index, &format!("{error:#}"));
                Ok(())
            }
            result => result,
        }
    }

    fn full(&mut self, index: usize, because: &str) {
        let desk = &mut self.desks[index];
        desk.state = State::Ended { done: false };
        let because = desk.because.take().unwrap_or_else(|| because.to_string());
        self.storage.get_or_insert(format!("{}: {because}", self.planned[index].job.run));
        self.stop(Stop::Graceful, "the disk takes no more", false);
    }

    /// Starts job `index` if its turn has come.
    fn begin(&mut self, index: usize) -> Result<()> {
        let now = Instant::now();
        let desk = &self.desks[index];
        if !matches!(desk.state, State::Waiting | State::Elsewhere) || desk.next > now {
            return Ok(());
        }
        let needs = &self.planned[index].needs;
        if !needs.iter().all(|&need| matches!(self.desks[need].state, State::Ended { .. })) {
            return Ok(());
        }
        let lacking = needs.iter().copied().find(|&need| self.desks[need].state == (State::Ended { done: false }));
        if self.running() >= self.settings.jobs && lacking.is_none() {
            return Ok(());
        }
        if lacking.is_none() && !self.has_memory_for(index) {
            return Ok(());
        }
        let job = &self.planned[index].job;
        let desk = &mut self.desks[index];
        let Some(lease) = desk.watch.take()? else {
            desk.next = now + POLL_INTERVAL;
            if let (State::Waiting, LeaseState::Held(holder)) = (desk.state, desk.watch.observe()?) {
                (desk.state, desk.shared) = (State::Elsewhere, true);
                self.progress.say(&format!("{}: {} works on it", job.run, by(holder.as_ref())));
            }
            return Ok(());
        };
        let events = journal::read(&journal_path(&job.folder))?;
        let ending = Ending::of_events(&events);
        let ended = match job.work.grows() {
            true => desk.shared && ending == Ending::Done && job.is_covered(),
            false => !ending.is_left(),
        };
        if ended {
            self.ending.elsewhere += 1;
            self.conclude(index, &ending, None);
            return Ok(());
        }
        if let Some(need) = lacking {
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
        desk.because = None;
        match Processes::start(index, &job, &lease.token(), &self.sender) {
            Ok(processes) => {
                (desk.lease, desk.processes, desk.state) = (Some(lease), Some(processes), State::Running);
                self.ending.started += 1;
                self.progress.started(index);
                Ok(())
            }
            Err(error) if is_storage(&error) => Err(error),
            Err(error) => self.again(index, &lease, format!("{error:#}")),
        }
    }

    /// Whether the machine has memory for job `index` beside those that run; one that is alone may try.
    fn has_memory_for(&self, index: usize) -> bool {
        let bytes = |job: &Job| if job.device == "cpu" { least(job.memory_bytes() * (job.tp * job.dp) as u64) } else { 0 };
        let jobs = self.planned.iter().zip(&self.desks);
        let held: Vec<u64> =
            jobs.filter(|(_, desk)| desk.state == State::Running).map(|(planned, _)| bytes(&planned.job)).collect();
        let wanted = held.iter().sum::<u64>() + bytes(&self.planned[index].job);
        held.is_empty() || self.machine.all.is_none_or(|all| wanted <= all)
    }

    /// All processes of job `index` have ended; `told` is how, unless all succeeded.
    fn end(&mut self, index: usize, told: Option<Ending>) -> Result<()> {
        let desk = &mut self.desks[index];
        desk.processes = None;
        let Some(mut lease) = desk.lease.take() else { return Ok(()) };
        let folder = self.planned[index].job.folder.clone();
        if !lease.reclaim()? {
            let ending = ending_in(&folder)?;
            if !ending.is_left() {
                // Another session came to look after it had ended.
                self.conclude(index, &ending, Some(&log_path(&folder)));
                return Ok(());
            }
            (desk.state, desk.shared, desk.next) = (State::Elsewhere, true, Instant::now() + POLL_INTERVAL);
            self.progress.retried(index, "another session has taken it over");
            return Ok(());
        }
        let ending = ending_in(&folder)?;
        match told {
            // What the journal says of these stands, whatever a process did afterwards.
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
            self.ending.undone += 1;
        }
        self.conclude(index, &ending, Some(&log));
        Ok(())
    }

    /// Job `index` was interrupted; its journal says `ending`. Whether that settles it: what the journal calls a failure stays one
    /// where the cause may only follow from it.
    fn interrupted(&mut self, index: usize, lease: &Lease, mut interruption: Interruption, ending: &Ending) -> Result<bool> {
        let folder = self.planned[index].job.folder.clone();
        // What the worker itself said of it is more than its exit code.
        let own_words = self.desks[index].because.take_if(|_| matches!(interruption.cause, Cause::CorruptInput | Cause::Memory));
        let written = own_words.is_some();
        interruption.because = own_words.unwrap_or(interruption.because);
        let because = interruption.because.clone();
        let cure = match interruption.cause {
            Cause::Storage => {
                self.full(index, &because);
                return Ok(true);
            }
            Cause::Rendezvous | Cause::CorruptInput if !(ending.is_left() || written) => return Ok(false),
            Cause::CorruptInput => {
                if !written {
                    record(&folder, lease, &interruption.event())?;
                }
                "the same command makes it again and goes on".to_string()
            }
            Cause::Memory => {
                record(&folder, lease, &interruption.event())?;
                // What others hold now, this one may have once they have ended.
                if self.running() > 1 {
                    self.again(index, lease, because)?;
                    return Ok(true);
                }
                self.ending.short += 1;
                format!("try {}", cure(self.settings))
            }
            Cause::Killed | Cause::Rendezvous => {
                record(&folder, lease, &interruption.event())?;
                self.again(index, lease, because)?;
                return Ok(true);
            }
            Cause::Terminated => {
                record(&folder, lease, &interruption.event())?;
                "the same command goes on from its last checkpoint".to_string()
            }
        };
        self.ending.undone += 1;
        self.settle(index, false, Some(&format!("{because}; {cure}")));
        Ok(true)
    }

    /// Tries job `index` again after a pause, unless it was tried often enough.
    fn again(&mut self, index: usize, lease: &Lease, because: String) -> Result<()> {
        let desk = &mut self.desks[index];
        desk.attempts += 1;
        if self.stop.is_some() || desk.attempts > self.settings.retries {
            self.ending.undone += 1;
            self.settle(index, false, Some(&format!("{because}; the same command goes on from its last checkpoint")));
            return Ok(());
        }
        let pause = backoff(FIRST_PAUSE, desk.attempts);
        (desk.state, desk.next) = (State::Waiting, Instant::now() + pause);
        let sentence = format!("{because}; tried again in {} s", pause.as_secs());
        self.progress.retried(index, &sentence);
        record(&self.planned[index].job.folder, lease, &Event::Retried { attempt: self.desks[index].attempts, because })
    }

    /// Job `index` has come to `ending`.
    fn conclude(&mut self, index: usize, ending: &Ending, log: Option<&Path>) {
        let log = log.map_or(String::new(), |log| format!(" (log: {})", log.display()));
        let problem = match ending {
            Ending::Failed(error) => Some(format!("{error}{log}")),
            Ending::Diverged(evidence) => Some(format!("diverged: {evidence}")),
            _ => None,
        };
        self.settle(index, *ending == Ending::Done, problem.as_deref());
        if self.settings.fail_fast && problem.is_some() {
            self.stop(Stop::Graceful, "a run failed, and --fail-fast", false);
        }
    }

    fn settle(&mut self, index: usize, done: bool, problem: Option<&str>) {
        self.desks[index].state = State::Ended { done };
        self.progress.ended(index, problem);
    }
}

/// What leaves more memory to a job under these settings.
pub fn cure(settings: &Settings) -> String {
    let fewer = if settings.jobs > 1 { "fewer --jobs, " } else { "" };
    format!("{fewer}{}", memory::cure(settings.recompute))
}

/// The threads with which a run that goes on from a checkpoint began: with others its numbers would not be the same to the bit.
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
    /// Whether what was done last in its folder includes all that it asks for.
    fn is_covered(&self) -> bool {
        let text = std::fs::read_to_string(self.folder.join("job.json")).unwrap_or_default();
        let Ok(Job { work: Work::Teach { students: taught, .. }, .. }) = serde_json::from_str(&text) else { return false };
        let Work::Teach { students, .. } = &self.work else { return false };
        students.iter().collect::<BTreeSet<_>>().is_subset(&taught.iter().collect())
    }
}
