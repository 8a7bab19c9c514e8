//! Processes of a job on this machine: started as torchrun would, each rank in a process group that ctrl-C does not reach.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::shortage::{last_words, shortage};
use hydrometer_record::journal::{Event, parse_line};
use hydrometer_torch::dist::c10d::Store;
use hydrometer_torch::dist::launch;

use super::job::Job;
use super::worker::{MEMORY, RENDEZVOUS_FAILED, STORAGE};

/// What a running job tells.
pub enum WorkerMessage {
    Event(usize, Event),
    /// All its processes have ended; what went wrong with them, if anything.
    Ended(usize, Option<WorkerFailure>),
}

/// Why a job ended before its work was done, the weightier last: where ranks differ, it tells for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerFailure {
    /// A process failed: its last words.
    Failed(String),
    /// The ranks did not find each other.
    RendezvousFailed(String),
    /// The disk is full or cannot be written.
    Storage(String),
    /// A process could not get the memory that it asked for.
    Memory(String),
    /// A process was killed by a person.
    Stopped(String),
    /// A process was killed as a machine short of memory kills.
    Killed(String),
}

/// The processes of a job.
pub struct Processes {
    stdin: Vec<ChildStdin>,
    pids: Vec<u32>,
    /// Where ranks meet; it must outlive them.
    _store: Option<Store>,
}

impl Processes {
    /// Starts every rank of `job`, number `index` of the sweep, on the lease that `token` names; their news goes to `news`.
    pub fn start(index: usize, job: &Job, token: &str, news: &Sender<WorkerMessage>) -> Result<Self> {
        let file = job.folder.join("job.json");
        replace_bytes(&file, serde_json::to_string_pretty(job)?.as_bytes())?;
        let world = job.tp * job.dp;
        let store = if world > 1 { Some(Store::serve()?) } else { None };
        let log = log_path(&job.folder);
        // What earlier tries have said is no reason of this one's.
        let begun = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let (mut stdin, mut children) = (Vec::new(), Vec::<Child>::new());
        for rank in 0..world {
            let start = || -> Result<Child> {
                let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
                let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
                command.arg("worker").arg(&file).args(["--lease", token]);
                launch::rank_of(&mut command, rank, world, job.threads, store.as_ref())?;
                let stdout = if rank == 0 { Stdio::piped() } else { Stdio::null() };
                let command = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).process_group(0);
                command.spawn().context("cannot start a worker process")
            };
            let mut child = start().inspect_err(|_| {
                // Ranks that wait for this one would wait long.
                children.iter_mut().for_each(|child| drop(child.kill().and_then(|()| child.wait())));
            })?;
            stdin.extend(child.stdin.take());
            children.push(child);
        }
        let pids = children.iter().map(Child::id).collect();
        let (news, mut stdout) = (news.clone(), children[0].stdout.take());
        thread::spawn(move || {
            let trouble = thread::scope(|scope| {
                scope.spawn(|| {
                    for line in BufReader::new(stdout.take()?).lines().map_while(Result::ok) {
                        if let Some((_, event)) = parse_line(&line) {
                            news.send(WorkerMessage::Event(index, event)).ok()?;
                        }
                    }
                    Some(())
                });
                wait(children, &log, begun)
            });
            let _ = news.send(WorkerMessage::Ended(index, trouble));
        });
        Ok(Self { stdin, pids, _store: store })
    }

    /// Asks the job to checkpoint and end.
    pub fn stop(&mut self) {
        self.stdin.clear();
    }

    /// Ends the job now.
    pub fn kill(&self) {
        for pid in &self.pids {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).stderr(Stdio::null()).status();
        }
    }
}

/// The log of a job: what its processes wrote to standard error.
pub fn log_path(folder: &Path) -> PathBuf {
    folder.join("log.txt")
}

/// What a machine short of memory sends.
const SIGKILL: i32 = 9;
/// SIGHUP, SIGINT, SIGTERM: signals by which a person or a queue says that it is enough.
const TERMINATION_SIGNALS: [i32; 3] = [1, 2, 15];
const POLL: Duration = Duration::from_millis(20);
/// How long ranks may take to notice that one of them is gone.
const GRACE: Duration = Duration::from_secs(10);
/// Lines of a log that a failure quotes.
const LOG_TAIL_LINES: usize = 3;

fn wait(mut children: Vec<Child>, log: &Path, begun: u64) -> Option<WorkerFailure> {
    let mut problems = Vec::new();
    let mut failed: Option<Instant> = None;
    let mut running: Vec<usize> = (0..children.len()).collect();
    while !running.is_empty() {
        running.retain(|&rank| {
            let found = match children[rank].try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => problem(rank, status),
                Err(error) => Some(WorkerFailure::Failed(format!("rank {rank}: {error}"))),
            };
            if found.is_some() {
                failed.get_or_insert_with(Instant::now);
            }
            problems.extend(found);
            false
        });
        if failed.is_some_and(|since| since.elapsed() > GRACE) {
            // That they were killed is our doing and says nothing.
            running.drain(..).for_each(|rank| drop(children[rank].kill().and_then(|()| children[rank].wait())));
        }
        thread::sleep(POLL);
    }
    let log = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&log[log.len().min(begun as usize)..]);
    // A rank that is gone takes its peers with it: what they say of that weighs less.
    match (problems.into_iter().max(), shortage(&said)) {
        // The program itself may have been ended by the allocation that failed.
        (Some(WorkerFailure::Failed(_) | WorkerFailure::Memory(_)), Some(shortage)) => Some(WorkerFailure::Memory(shortage)),
        (Some(WorkerFailure::Failed(what)), None) => Some(WorkerFailure::Failed(match last_words(&said, LOG_TAIL_LINES) {
            words if words.is_empty() => what,
            words => format!("{what}: {words}"),
        })),
        (other, _) => other,
    }
}

fn problem(rank: usize, status: ExitStatus) -> Option<WorkerFailure> {
    if status.success() {
        return None;
    }
    Some(match (status.signal(), status.code().unwrap_or(-1)) {
        (Some(SIGKILL), _) => WorkerFailure::Killed(format!("rank {rank} was killed by signal {SIGKILL}")),
        (Some(signal), _) if TERMINATION_SIGNALS.contains(&signal) => {
            WorkerFailure::Stopped(format!("rank {rank} was stopped by signal {signal}"))
        }
        (Some(signal), _) => WorkerFailure::Failed(format!("rank {rank} was ended by signal {signal}")),
        (None, code) if code == i32::from(RENDEZVOUS_FAILED) => {
            WorkerFailure::RendezvousFailed(format!("rank {rank} did not reach the others"))
        }
        (None, code) if code == i32::from(STORAGE) => WorkerFailure::Storage("the disk is full or cannot be written".into()),
        (None, code) if code == i32::from(MEMORY) => WorkerFailure::Memory("no memory is left".into()),
        (None, code) => WorkerFailure::Failed(format!("rank {rank} ended with code {code}")),
    })
}
