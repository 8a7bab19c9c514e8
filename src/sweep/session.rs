//! A session of `run`: the jobs of a schedule, each under its lease, until none is left. Sessions on one folder share the work.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hydrometer_base::cores;
use hydrometer_base::fs::{is_storage, uncreated};
use hydrometer_record::journal::{self, Event, Journal};

use super::job::{Job, Status, Work, journal_path, status_in};
use super::lease::{Lease, Sight, Watch, by};
use super::local::{News, Processes, Trouble, log_path};
use super::machine::Machine;
use super::memory::{self, fit, least};
use super::prepare::prepare;
use super::progress::Progress;
use super::requeue::{mend_weights, requeue};
use super::retry::pause;
use super::schedule::{Planned, Settings, plan};
use crate::experiment::Experiment;
use crate::train::checkpoint;

/// Time between looks at what others do.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for news.
const TICK: Duration = Duration::from_millis(200);

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
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
pub fn run(experiment: &Experiment, settings: &Settings, interrupts: &Arc<AtomicUsize>) -> Result<Ending> {
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
        return Ok(Ending::default());
    }
    if !prepare(experiment, settings, interrupts)? {
        return Ok(Ending { interrupted: true, ..Ending::default() });
    }
    let (sender, news) = mpsc::channel();
    let desks = planned.iter().map(|planned| Desk::new(&planned.job.folder)).collect();
    let progress = Progress::new(&planned);
    let mut session = Session {
        planned,
        settings,
        machine,
        desks,
        progress,
        ending: Ending::default(),
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
struct Desk {
    state: State,
    watch: Watch,
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

impl Desk {
    fn new(folder: &Path) -> Self {
        let (state, watch, next) = (State::Waiting, Watch::new(folder), Instant::now());
        Self { state, watch, lease: None, processes: None, attempts: 0, next, shared: false, because: None }
    }
}

/// Why no more jobs are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Politely,
    Now,
}

struct Session<'a> {
    planned: Vec<Planned>,
    settings: &'a Settings,
    machine: Machine,
    desks: Vec<Desk>,
    progress: Progress,
    ending: Ending,
    sender: Sender<News>,
    news: Receiver<News>,
    stop: Option<Stop>,
    /// Why nothing can be written any more.
    storage: Option<String>,
}

impl Session<'_> {
    fn run(&mut self, interrupts: &AtomicUsize) -> Result<()> {
        loop {
            match interrupts.load(Ordering::Relaxed) {
                0 => {}
                1 => self.stop(Stop::Politely, "stopping", true),
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
                Ok(News::Event(index, event)) => {
                    if let Event::Postponed { because } = &event {
                        self.desks[index].because = Some(because.clone());
                    }
                    self.progress.event(index, &event);
                }
                Ok(News::Ended(index, trouble)) => {
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
            if how == Stop::Politely { processes.stop() } else { processes.kill() }
        }
        let running = self.running();
        self.progress.say(&match how {
            Stop::Politely => format!("{why}: {running} running jobs checkpoint first; ctrl-C again kills them"),
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
        self.stop(Stop::Politely, "the disk takes no more", false);
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
            desk.next = now + LOOK;
            if let (State::Waiting, Sight::Held(holder)) = (desk.state, desk.watch.look()?) {
                (desk.state, desk.shared) = (State::Elsewhere, true);
                self.progress.say(&format!("{}: {} works on it", job.run, by(holder.as_ref())));
            }
            return Ok(());
        };
        let events = journal::read(&journal_path(&job.folder))?;
        let status = Status::of(&events);
        let ended = match job.work.grows() {
            true => desk.shared && status == Status::Done && job.is_covered(),
            false => !status.is_left(),
        };
        if ended {
            self.ending.elsewhere += 1;
            self.conclude(index, &status, None);
            return Ok(());
        }
        if let Some(need) = lacking {
            let need = &self.planned[need].job;
            let mut error = format!("it needs {}, which is not done", need.run);
            if matches!(status_in(&need.folder)?, Status::Failed(_) | Status::Diverged(_)) {
                error = format!("it needs {}, which failed", need.run);
                record(&job.folder, &lease, &Event::Failed { error: error.clone() })?;
            }
            self.settle(index, false, Some(&error));
            return Ok(());
        }
        let mut job = job.clone();
        job.threads = threads(&job, &events).unwrap_or(job.threads);
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

    /// All processes of job `index` have ended.
    fn end(&mut self, index: usize, trouble: Option<Trouble>) -> Result<()> {
        let desk = &mut self.desks[index];
        desk.processes = None;
        let Some(mut lease) = desk.lease.take() else { return Ok(()) };
        let folder = self.planned[index].job.folder.clone();
        if !lease.reclaim()? {
            let status = status_in(&folder)?;
            if !status.is_left() {
                // Another session came to look after it had ended.
                self.conclude(index, &status, Some(&log_path(&folder)));
                return Ok(());
            }
            (desk.state, desk.shared, desk.next) = (State::Elsewhere, true, Instant::now() + LOOK);
            self.progress.retried(index, "another session has taken it over");
            return Ok(());
        }
        let status = status_in(&folder)?;
        match (trouble, &status) {
            (_, Status::Done | Status::Diverged(_)) | (None, _) => {}
            (Some(Trouble::Storage(what)), _) => {
                self.full(index, &what);
                return Ok(());
            }
            (Some(Trouble::Memory(what)), _) => {
                let because = desk.because.take().unwrap_or(what);
                record(&folder, &lease, &Event::Postponed { because: because.clone() })?;
                // What others hold now, this one may have once they have ended.
                if self.running() > 1 {
                    return self.again(index, &lease, because);
                }
                (self.ending.undone, self.ending.short) = (self.ending.undone + 1, self.ending.short + 1);
                self.settle(index, false, Some(&format!("{because}; try {}", cure(self.settings))));
                return Ok(());
            }
            (Some(Trouble::Killed(by)), _) | (Some(Trouble::Scattered(by)), Status::New | Status::Interrupted) => {
                record(&folder, &lease, &Event::Killed { by: by.clone() })?;
                return self.again(index, &lease, by);
            }
            (Some(Trouble::Stopped(by)), _) => {
                record(&folder, &lease, &Event::Killed { by: by.clone() })?;
                self.ending.undone += 1;
                self.settle(index, false, Some(&format!("{by}; the same command goes on from its last checkpoint")));
                return Ok(());
            }
            (Some(_), _) if desk.because.is_some() => {
                let because = desk.because.take().unwrap_or_default();
                self.ending.undone += 1;
                self.settle(index, false, Some(&format!("{because}; the same command makes it again and goes on")));
                return Ok(());
            }
            (Some(Trouble::Failed(error)), Status::New | Status::Interrupted) if self.stop.is_none() => {
                record(&folder, &lease, &Event::Failed { error })?;
            }
            (Some(_), _) => {}
        }
        let status = status_in(&folder)?;
        let log = log_path(&folder);
        if status.is_left() && self.stop.is_none() {
            self.ending.undone += 1;
        }
        self.conclude(index, &status, Some(&log));
        Ok(())
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
        let pause = pause(desk.attempts);
        (desk.state, desk.next) = (State::Waiting, Instant::now() + pause);
        let sentence = format!("{because}; tried again in {} s", pause.as_secs());
        self.progress.retried(index, &sentence);
        record(&self.planned[index].job.folder, lease, &Event::Retried { attempt: self.desks[index].attempts, because })
    }

    /// Job `index` has come to `status`.
    fn conclude(&mut self, index: usize, status: &Status, log: Option<&Path>) {
        let log = log.map_or(String::new(), |log| format!(" (log: {})", log.display()));
        let problem = match status {
            Status::Failed(error) => Some(format!("{error}{log}")),
            Status::Diverged(evidence) => Some(format!("diverged: {evidence}")),
            _ => None,
        };
        self.settle(index, *status == Status::Done, problem.as_deref());
        if self.settings.fail_fast && problem.is_some() {
            self.stop(Stop::Politely, "a run failed, and --fail-fast", false);
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

/// Writes what happened to a job that could not write it itself.
pub fn record(folder: &Path, lease: &Lease, event: &Event) -> Result<()> {
    Journal::append(&journal_path(folder), lease.fence(), false)?.write(event)
}

/// The threads with which a run that goes on from a checkpoint began: with others its numbers would not be the same to the bit.
fn threads(job: &Job, events: &[Event]) -> Option<usize> {
    let begun = events.iter().rev().find_map(|event| match event {
        Event::Started { threads, device, tp, dp, .. } if device == "cpu" && (*tp, *dp) == (job.tp as i64, job.dp as i64) => {
            usize::try_from(*threads).ok()
        }
        _ => None,
    })?;
    let goes_on = job.device == "cpu" && journal::whole_steps(events) > 0 && !checkpoint::steps(&job.folder).is_empty();
    (goes_on && begun * job.tp * job.dp <= cores()).then_some(begun)
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
