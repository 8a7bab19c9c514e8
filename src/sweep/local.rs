//! Processes of a job on this machine: started as torchrun would, each rank in a process group that ctrl-C does not reach.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};

use super::job::Job;
use crate::dist::c10d::Store;
use crate::dist::launch;
use crate::record::journal::{Event, parse_line};
use crate::record::store::replace_bytes;

/// What a running job tells.
pub enum News {
    Event(usize, Event),
    /// All its processes have ended; what went wrong with them, if anything.
    Ended(usize, Option<Trouble>),
}

/// Why a job ended before its work was done.
pub enum Trouble {
    /// A process failed: its last words.
    Failed(String),
    /// A process was told to go, by a person or by a machine short of memory.
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
    /// Starts every rank of `job`, number `index` of the sweep; their news goes to `news`.
    pub fn start(index: usize, job: &Job, news: &Sender<News>) -> Result<Self> {
        fs::create_dir_all(&job.folder).with_context(|| format!("cannot create {}", job.folder.display()))?;
        let file = job.folder.join("job.json");
        replace_bytes(&file, serde_json::to_string_pretty(job)?.as_bytes())?;
        let world = job.tp * job.dp;
        let store = if world > 1 { Some(Store::serve()?) } else { None };
        let log = log_path(&job.folder);
        let (mut stdin, mut children) = (Vec::new(), Vec::new());
        for rank in 0..world {
            let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
            let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
            command.arg("worker").arg(&file);
            launch::rank_of(&mut command, rank, world, job.threads, store.as_ref())?;
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(if rank == 0 { Stdio::piped() } else { Stdio::null() })
                .stderr(stderr)
                .process_group(0)
                .spawn()
                .context("cannot start a worker process")?;
            stdin.extend(child.stdin.take());
            children.push(child);
        }
        let pids = children.iter().map(Child::id).collect();
        let news = news.clone();
        thread::spawn(move || {
            if let Some(stdout) = children[0].stdout.take() {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if let Some(event) = parse_line(&line)
                        && news.send(News::Event(index, event)).is_err()
                    {
                        break;
                    }
                }
            }
            let _ = news.send(News::Ended(index, wait(children, &log)));
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

/// SIGHUP, SIGINT, SIGKILL, SIGTERM: signals that come from outside.
const FROM_OUTSIDE: [i32; 4] = [1, 2, 9, 15];

fn wait(children: Vec<Child>, log: &Path) -> Option<Trouble> {
    let mut trouble = None;
    for (rank, mut child) in children.into_iter().enumerate() {
        let problem = match child.wait() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(match status.signal() {
                Some(signal) if FROM_OUTSIDE.contains(&signal) => {
                    Trouble::Killed(format!("rank {rank} was killed by signal {signal}"))
                }
                Some(signal) => Trouble::Failed(format!("rank {rank} was ended by signal {signal}")),
                None => Trouble::Failed(format!("rank {rank} ended with code {}", status.code().unwrap_or(-1))),
            }),
            Err(error) => Some(Trouble::Failed(format!("rank {rank}: {error}"))),
        };
        // A killed rank takes its peers with it: what they say of that is no failure.
        trouble = match (trouble, problem) {
            (Some(Trouble::Failed(_)) | None, Some(killed @ Trouble::Killed(_))) => Some(killed),
            (earlier, later) => earlier.or(later),
        };
    }
    match trouble {
        Some(Trouble::Failed(what)) => {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(3)..].join(" | ");
            Some(Trouble::Failed(if tail.is_empty() { what } else { format!("{what}: {tail}") }))
        }
        other => other,
    }
}
