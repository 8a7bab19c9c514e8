//! The worker processes of a job on this machine. They are started as torchrun would start them, each rank in its own process
//! group, so that ctrl-C does not reach it.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::shortage::{last_words, shortage};
use hydrometer_record::journal::{Event, parse_line};
use hydrometer_torch::dist::c10d::Store;
use hydrometer_torch::dist::launch;
use rustix::process::{Pid, Signal, kill_process};

use super::ending::{Cause, Ending, Interruption};
use super::job::Job;

/// A message about a running job, identified by its index in the sweep.
pub enum WorkerMessage {
    Event(usize, Event),
    /// All its processes have ended: `None` if all succeeded, otherwise how the job ended.
    Ended(usize, Option<Ending>),
}

/// The processes of a job.
pub struct Processes {
    stdin: Vec<ChildStdin>,
    pids: Vec<Pid>,
    /// The rendezvous store of the ranks, which must outlive them.
    _store: Option<Store>,
}

impl Processes {
    /// Starts every rank of `job`, which has index `index` in the sweep. The first rank adopts the lease with `token`. Events of
    /// the job and its end are sent to `messages`.
    pub fn start(index: usize, job: &Job, token: &str, messages: &Sender<WorkerMessage>) -> Result<Self> {
        let file = job.folder.join("job.json");
        replace_bytes(&file, serde_json::to_string_pretty(job)?.as_bytes())?;
        let world = job.tp * job.dp;
        let store = if world > 1 { Some(Store::serve()?) } else { None };
        let log = log_path(&job.folder);
        // Log lines of earlier attempts do not explain how this one ends.
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
                // The ranks started so far would wait for this one until a timeout.
                children.iter_mut().for_each(|child| drop(child.kill().and_then(|()| child.wait())));
            })?;
            stdin.extend(child.stdin.take());
            children.push(child);
        }
        let pids = children.iter().filter_map(|child| Pid::from_raw(i32::try_from(child.id()).ok()?)).collect();
        let (messages, mut stdout) = (messages.clone(), children[0].stdout.take());
        thread::spawn(move || {
            let ending = thread::scope(|scope| {
                scope.spawn(|| {
                    for line in BufReader::new(stdout.take()?).lines().map_while(Result::ok) {
                        if let Some((_, event)) = parse_line(&line) {
                            messages.send(WorkerMessage::Event(index, event)).ok()?;
                        }
                    }
                    Some(())
                });
                wait(children, &log, begun)
            });
            let _ = messages.send(WorkerMessage::Ended(index, ending));
        });
        Ok(Self { stdin, pids, _store: store })
    }

    /// Asks the job to write a checkpoint and exit, by closing its standard input.
    pub fn stop(&mut self) {
        self.stdin.clear();
    }

    /// Kills the job.
    pub fn kill(&self) {
        for pid in &self.pids {
            // An error means that the process has ended already.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

/// The path of a job's log: what its processes wrote to standard error.
pub fn log_path(folder: &Path) -> PathBuf {
    folder.join("log.txt")
}

/// How long ranks may take to exit after one of them has ended.
const GRACE: Duration = Duration::from_secs(10);
/// Number of log lines that a failure quotes.
const LOG_TAIL_LINES: usize = 3;

fn wait(mut children: Vec<Child>, log: &Path, begun: u64) -> Option<Ending> {
    let endings = launch::wait(&mut children, GRACE).into_iter().filter_map(|(rank, status)| match status {
        Ok(status) => Ending::of_exit(rank, status),
        Err(error) => Some(Ending::Failed(format!("rank {rank}: {error}"))),
    });
    // When one rank ends, the others fail as a consequence; the ending with the highest precedence is the cause.
    let weightiest = endings.max()?;
    let log = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&log[log.len().min(begun as usize)..]);
    let words = || last_words(&said, LOG_TAIL_LINES);
    Some(match (weightiest, shortage(&said)) {
        // A failed allocation may have aborted the process itself.
        (
            Ending::Failed(_) | Ending::Interrupted(Some(Interruption { cause: Cause::CorruptInput | Cause::Memory, .. })),
            Some(shortage),
        ) => Ending::interrupted(Cause::Memory, shortage),
        (Ending::Interrupted(Some(Interruption { cause: Cause::CorruptInput, because })), None) => {
            let words = Some(words()).filter(|words| !words.is_empty());
            Ending::interrupted(Cause::CorruptInput, words.unwrap_or(because))
        }
        (Ending::Failed(what), None) => Ending::Failed(match words() {
            words if words.is_empty() => what,
            words => format!("{what}: {words}"),
        }),
        (other, _) => other,
    })
}
