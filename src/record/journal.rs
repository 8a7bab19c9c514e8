//! A run's journal: one line an event, appended while the run lives, never rewritten.
//!
//! A line is `CRC32 JSON`, so that a torn or damaged line is noticed; a torn last line is skipped. A resumed run appends
//! [`Event::Resumed`], which makes void what was written after the checkpoint it resumes from.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The journal's name in a run's folder.
pub const FILE: &str = "journal.jsonl";

/// What happens to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    Started {
        device: String,
        tp: i64,
        dp: i64,
        threads: i64,
        params: i64,
        updates: i64,
    },
    Resumed {
        step: i64,
    },
    /// Before the first update: the logged loss's slope along its gradient, over the gradient's norm.
    GradientChecked {
        slope: f64,
    },
    Step(Step),
    Evaluated(Evaluated),
    /// A document of the final evaluation.
    Document {
        split: String,
        document: String,
        nll_sum: f64,
        tokens: i64,
    },
    /// Progress of work that is not training, such as a teacher's pass.
    Progress {
        done: u64,
        total: u64,
    },
    /// The run is complete.
    Done,
    Failed {
        error: String,
    },
    /// One of its processes was killed from outside: no fault of the run's, it goes on when run again.
    Killed {
        by: String,
    },
    Diverged {
        step: i64,
        evidence: String,
    },
}

/// A training step, after its update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: i64,
    pub tokens: i64,
    pub loss: f64,
    pub hard_loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub seconds: f64,
    pub retained_mass: Option<f64>,
    pub teacher_entropy: Option<f64>,
    pub mean_lse: f64,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    pub step: i64,
    pub tokens: i64,
    pub split: String,
    pub nll: f64,
    pub bits_per_byte: f64,
    pub token_accuracy: f64,
    pub ece: f64,
}

/// An open journal. Holds an exclusive lock on its file, so that a run has one writer.
pub struct Journal {
    file: File,
    /// Whether every line also goes to standard output, for the scheduler.
    echo: bool,
}

impl Journal {
    /// Opens `path` for appending, waiting for another writer to leave. A torn last line is ended first.
    pub fn append(path: &Path, echo: bool) -> Result<Self> {
        let open = || format!("cannot open {}", path.display());
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(open)?;
        file.lock().with_context(open)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if text.last().is_some_and(|&last| last != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { file, echo })
    }

    pub fn write(&mut self, event: &Event) -> Result<()> {
        let json = serde_json::to_string(event)?;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        self.file.write_all(line.as_bytes()).context("cannot write the journal")?;
        if self.echo {
            // A scheduler that is gone is noticed elsewhere; the journal is what counts.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
        Ok(())
    }

    /// Makes what was written survive a power failure.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context("cannot sync the journal")
    }
}

/// Parses one line; `None` if it is torn or damaged.
pub fn parse_line(line: &str) -> Option<Event> {
    let (checksum, json) = line.split_once(' ')?;
    let expected = u32::from_str_radix(checksum, 16).ok()?;
    if crc32fast::hash(json.as_bytes()) != expected { None } else { serde_json::from_str(json).ok() }
}

/// What counts in the journal at `path`: its events in order, less what a resumption made void. Empty if there is none.
pub fn read(path: &Path) -> Vec<Event> {
    let text = std::fs::read(path).unwrap_or_default();
    let mut events: Vec<Event> = Vec::new();
    for event in String::from_utf8_lossy(&text).lines().filter_map(parse_line) {
        if let Event::Resumed { step } = event {
            events.retain(|earlier| match earlier {
                Event::Step(s) => s.step <= step,
                Event::Evaluated(e) => e.step <= step,
                Event::Document { .. } | Event::Failed { .. } | Event::Diverged { .. } => false,
                _ => true,
            });
        }
        events.push(event);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: i64, loss: f64) -> Event {
        let (lr, grad_norm, seconds, mean_lse) = (1e-3, 0.1 + 0.2, 0.5, 7.0);
        Event::Step(Step {
            step,
            tokens: step * 10,
            loss,
            hard_loss: loss,
            lr,
            grad_norm,
            seconds,
            retained_mass: None,
            teacher_entropy: None,
            mean_lse,
        })
    }

    #[test]
    fn torn_and_damaged_lines_are_skipped_and_resumption_voids_what_came_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::append(&path, false).unwrap();
        for n in 1..=4 {
            journal.write(&step(n, n as f64 / 3.0)).unwrap();
        }
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        let torn = bytes.len() - 7;
        bytes.truncate(torn);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).len(), 3);
        let mut journal = Journal::append(&path, false).unwrap();
        journal.write(&Event::Resumed { step: 2 }).unwrap();
        journal.write(&step(3, 9.0)).unwrap();
        let events = read(&path);
        assert_eq!(events, vec![step(1, 1.0 / 3.0), step(2, 2.0 / 3.0), Event::Resumed { step: 2 }, step(3, 9.0)]);
    }
}
