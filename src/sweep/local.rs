//! Processes of a job on this machine: started as torchrun would, each rank in a process group that ctrl-C does not reach.

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

/// What a running job tells.
pub enum WorkerMessage {
    Event(usize, Event),
    /// All its processes have ended; how, unless all succeeded.
    Ended(usize, Option<Ending>),
}

/// The processes of a job.
pub struct Processes {
    stdin: Vec<ChildStdin>,
    pids: Vec<Pid>,
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
        let pids = children.iter().filter_map(|child| Pid::from_raw(i32::try_from(child.id()).ok()?)).collect();
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
            // One that has ended already is no error.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }
}

/// The log of a job: what its processes wrote to standard error.
pub fn log_path(folder: &Path) -> PathBuf {
    folder.join("log.txt")
}

/// How long ranks may take to notice that one of them is gone.
const GRACE: Duration = Duration::from_secs(10);
/// Lines of a log that a failure quotes.
const LOG_TAIL_LINES: usize = 3;

fn wait(mut children: Vec<Child>, log: &Path, begun: u64) -> Option<Ending> {
    let endings = launch::wait(&mut children, GRACE).into_iter().filter_map(|(rank, status)| match status {
        Ok(status) => Ending::of_exit(rank, status),
        Err(error) => Some(Ending::Failed(format!("rank {rank}: {error}"))),
    });
    // A rank that is gone takes its peers with it: what they say of that weighs less.
    let weightiest = endings.max()?;
    let log = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&log[log.len().min(begun as usize)..]);
    let words = || last_words(&said, LOG_TAIL_LINES);
    Some(match (weightiest, shortage(&said)) {
        // The program itself may have been ended by the allocation that failed.
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
