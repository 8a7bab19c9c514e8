//! A run's journal: one line per event, appended while the run is in progress, never rewritten.
//!
//! A line is `CRC32 GENERATION JSON`. The checksum detects a torn or damaged line, which is read as [`Event::Torn`]. The
//! generation is that of the writer's lease: lines of a writer that has lost its lease without noticing are ignored. A resumed
//! run appends [`Event::Resumed`], which voids the events after the checkpoint that it resumes from.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hydrometer_base::fs::read_if_there;
use hydrometer_base::numerics::UNRECORDED;
use serde::{Deserialize, Serialize};

use super::metric::{Scores, of_evaluation};
use super::number;

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
        /// Version of the arithmetic.
        #[serde(default = "unrecorded")]
        numerics: u32,
        /// Most input tokens of a pass, of training alone; absent in journals from before batches were split into passes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pass_tokens: Option<i64>,
    },
    /// The run resumes after this step; at 0 it starts over.
    Resumed {
        step: i64,
    },
    /// The gradient check before the first and the last update: the slope of the logged loss along its gradient, over the
    /// gradient's norm.
    GradientChecked {
        /// Number of updates before the check.
        #[serde(default)]
        updates: i64,
        /// Absent if the gradient is zero or the slope is not a number.
        #[serde(default, with = "number")]
        slope: Option<f64>,
    },
    Step(Step),
    #[serde(rename = "evaluated")]
    Evaluation(EvaluationEvent),
    /// A document of the final evaluation.
    Document {
        split: String,
        document: String,
        #[serde(with = "number")]
        nll_sum: f64,
        tokens: i64,
    },
    /// The fidelity of a student's final weights to its teacher: means over held-out tokens.
    #[serde(rename = "compared")]
    FidelityMeasured {
        split: String,
        tokens: i64,
        #[serde(flatten)]
        scores: Scores,
    },
    /// A text that a model wrote for a task.
    Wrote(TextEvent),
    /// A score of what it wrote.
    Scored(ScoreEvent),
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
    /// One of its processes was killed from outside. Not the run's fault: the next `run` resumes it.
    Killed {
        by: String,
    },
    Diverged {
        step: i64,
        evidence: String,
    },
    /// An input is damaged, or the machine could not continue. Not the run's fault: the next `run` resumes it.
    #[serde(rename = "postponed")]
    Deferred {
        because: String,
    },
    /// It was killed or could not start, and is retried after a delay.
    Retried {
        /// From 1, in one session.
        attempt: u32,
        because: String,
    },
    /// The run had ended and was requested again: to resume where it stopped, or `anew` from the start.
    Requeued {
        anew: bool,
    },
    /// Something the user should know that is not a failure.
    #[serde(rename = "noted")]
    Notice {
        what: String,
    },
    /// Never written: how a torn or damaged line is read. `after` is the last step before it.
    #[serde(skip)]
    Torn {
        after: i64,
    },
}

fn unrecorded() -> u32 {
    UNRECORDED
}

/// A text written after a prompt; see [`super::frames::GenerationRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextEvent {
    pub prompt: String,
    pub sample: i64,
    pub input: String,
    pub text: String,
    pub tokens: i64,
    pub finish: String,
}

/// A score at one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreEvent {
    pub prompt: String,
    pub score: String,
    #[serde(with = "number")]
    pub value: f64,
}

/// A training step, after its update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: i64,
    pub tokens: i64,
    #[serde(with = "number")]
    pub loss: f64,
    #[serde(with = "number")]
    pub hard_loss: f64,
    #[serde(with = "number")]
    pub lr: f64,
    #[serde(with = "number")]
    pub grad_norm: f64,
    #[serde(with = "number")]
    pub seconds: f64,
    #[serde(default, with = "number")]
    pub retained_mass: Option<f64>,
    #[serde(default, with = "number")]
    pub teacher_entropy: Option<f64>,
    #[serde(with = "number")]
    pub mean_lse: f64,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationEvent {
    pub step: i64,
    pub tokens: i64,
    pub split: String,
    /// One field per metric. Flattening costs serde's messages, but a line that cannot be read counts as torn anyway.
    #[serde(flatten, deserialize_with = "of_evaluation")]
    pub scores: Scores,
}

/// The right to write a journal, which the next writer takes away.
pub struct Fence {
    /// Grows with every writer.
    pub generation: u64,
    /// Whether this writer still has the right.
    pub holds: Box<dyn Fn() -> bool + Send>,
}

/// A journal open for appending.
pub struct Journal {
    file: File,
    fence: Fence,
    /// Whether every line also goes to standard output, for the scheduler.
    echo: bool,
}

impl Journal {
    /// Opens `path` for appending. Terminates a torn last line first.
    pub fn append(path: &Path, fence: Fence, echo: bool) -> Result<Self> {
        let open = || format!("cannot open {}", path.display());
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(open)?;
        let mut last = [b'\n'];
        if file.metadata().with_context(open)?.len() > 0 {
            file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).with_context(open)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n").context("cannot write the journal")?;
        }
        Ok(Self { file, fence, echo })
    }

    /// Appends `event`; an error once another process has taken over.
    pub fn write(&self, event: &Event) -> Result<()> {
        ensure!((self.fence.holds)(), TakenOver);
        let line = self.line(event)?;
        (&self.file).write_all(line.as_bytes()).context("cannot write the journal")?;
        if self.echo {
            // A scheduler that has gone is noticed elsewhere; only the journal matters.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
        Ok(())
    }

    /// Writes `event` only to standard output, for the scheduler, if the journal cannot be written.
    pub fn tell(&self, event: &Event) -> Result<()> {
        Ok(std::io::stdout().lock().write_all(self.line(event)?.as_bytes())?)
    }

    fn line(&self, event: &Event) -> Result<String> {
        let text = format!("{} {}", self.fence.generation, serde_json::to_string(event)?);
        let line = format!("{} {text}", checksum_of(&text));
        // A line that reads as damaged would cost the run its progress each time it is resumed.
        ensure!(parse_line(&line).is_some(), "the journal cannot hold {event:?}");
        Ok(line + "\n")
    }

    /// Syncs the journal to disk; an error once another process has taken over.
    pub fn sync(&self) -> Result<()> {
        ensure!((self.fence.holds)(), TakenOver);
        self.file.sync_data().context("cannot sync the journal")
    }
}

/// Another process works on this run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver;

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("another hydrometer has taken over this run")
    }
}

impl std::error::Error for TakenOver {}

fn checksum_of(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// Parses one line into its generation and event; `None` if it is torn or damaged.
pub fn parse_line(line: &str) -> Option<(u64, Event)> {
    let (checksum, text) = line.split_once(' ')?;
    // Compared as text: a hex digit whose case has changed is damage too.
    if checksum_of(text) != checksum {
        return None;
    }
    // Lines that predate leases have no generation.
    let (generation, json) = if text.starts_with('{') { ("0", text) } else { text.split_once(' ')? };
    Some((generation.parse().ok()?, serde_json::from_str(json).ok()?))
}

/// The highest generation that has written the journal at `path`; 0 if none has.
pub fn last_generation(path: &Path) -> Result<u64> {
    let text = read_if_there(path)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_line).map(|(generation, _)| generation).max().unwrap_or(0))
}

/// The valid events of the journal at `path` in order, without those that a resumption or a later writer voided. Empty if there
/// is no journal; one that exists but cannot be read is an error.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let text = read_if_there(path)?.unwrap_or_default();
    let mut events: Vec<Event> = Vec::new();
    let (mut newest, mut last_step) = (0, 0);
    for line in String::from_utf8_lossy(&text).lines().filter(|line| !line.is_empty()) {
        let event = match parse_line(line) {
            Some((generation, _)) if generation < newest => continue,
            Some((generation, event)) => {
                newest = generation;
                event
            }
            None => Event::Torn { after: last_step },
        };
        match &event {
            Event::Step(step) => last_step = step.step,
            Event::Resumed { step } => {
                events.retain(|earlier| survives(earlier, *step));
                last_step = *step;
            }
            Event::Requeued { anew: true } => {
                events.retain(|earlier| survives(earlier, 0));
                last_step = 0;
            }
            Event::Requeued { anew: false } => {
                events.retain(|earlier| !matches!(earlier, Event::Failed { .. } | Event::Diverged { .. }));
            }
            _ => {}
        }
        events.push(event);
    }
    Ok(events)
}

/// The oldest version of the arithmetic that computed a part of the run; `None` if it has not started.
pub fn numerics(events: &[Event]) -> Option<u32> {
    let mut parts: Vec<u32> = Vec::new();
    for event in events {
        match event {
            Event::Started { numerics, .. } => parts.push(*numerics),
            // The run starts over: only the last start counts.
            Event::Resumed { step: 0 } => parts = parts.pop().into_iter().collect(),
            Event::Requeued { anew: true } => parts.clear(),
            _ => {}
        }
    }
    parts.into_iter().min()
}

/// Whether `event` remains valid when the run resumes after `step`.
fn survives(event: &Event, step: i64) -> bool {
    match event {
        Event::Step(found) => found.step <= step,
        Event::Evaluation(found) => found.step <= step && step > 0,
        Event::Torn { after } => *after < step,
        Event::GradientChecked { updates, .. } => *updates < step,
        Event::Document { .. } | Event::FidelityMeasured { .. } | Event::Progress { .. } | Event::Done => false,
        Event::Failed { .. } | Event::Diverged { .. } => false,
        _ => true,
    }
}

/// Number of steps, from the first on, that the journal has without a gap.
pub fn whole_steps(events: &[Event]) -> i64 {
    let mut whole = 0;
    for event in events {
        match event {
            Event::Step(step) if step.step == whole + 1 => whole += 1,
            Event::Step(_) | Event::Torn { .. } => break,
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;

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

    fn journal(path: &Path, generation: u64) -> Journal {
        Journal::append(path, Fence { generation, holds: Box::new(|| true) }, false).unwrap()
    }

    #[test]
    fn a_torn_line_is_reported_until_a_resumption_voids_it_and_the_events_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let first = journal(&path, 1);
        for n in 1..=4 {
            first.write(&step(n, n as f64 / 3.0)).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let torn = bytes.len() - 7;
        bytes.truncate(torn);
        std::fs::write(&path, &bytes).unwrap();
        let before = read(&path).unwrap();
        assert_eq!((before.len(), before.last(), whole_steps(&before)), (4, Some(&Event::Torn { after: 3 }), 3));
        let second = journal(&path, 2);
        second.write(&Event::Resumed { step: 2 }).unwrap();
        second.write(&step(3, 9.0)).unwrap();
        let events = read(&path).unwrap();
        assert_eq!(events, vec![step(1, 1.0 / 3.0), step(2, 2.0 / 3.0), Event::Resumed { step: 2 }, step(3, 9.0)]);
        assert_eq!(last_generation(&path).unwrap(), 2);
    }

    #[test]
    fn damage_before_the_resumed_step_is_reported_until_the_run_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let first = journal(&path, 1);
        for n in 1..=4 {
            first.write(&step(n, n as f64)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"step\":2", "\"step\":7", 1)).unwrap();
        let second = journal(&path, 2);
        second.write(&Event::Resumed { step: 4 }).unwrap();
        second.write(&step(5, 9.0)).unwrap();
        second.write(&Event::Done).unwrap();
        let events = read(&path).unwrap();
        assert!(events.contains(&Event::Torn { after: 1 }) && whole_steps(&events) == 1);
        second.write(&Event::Resumed { step: 0 }).unwrap();
        assert_eq!(read(&path).unwrap(), [Event::Resumed { step: 4 }, Event::Resumed { step: 0 }]);
    }

    #[test]
    fn requeued_runs_lose_their_failures_and_requeued_anew_also_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = journal(&path, 1);
        for event in [step(1, 1.0), Event::Failed { error: "no memory".into() }, Event::Requeued { anew: false }] {
            journal.write(&event).unwrap();
        }
        assert_eq!(read(&path).unwrap(), [step(1, 1.0), Event::Requeued { anew: false }]);
        journal.write(&Event::Done).unwrap();
        journal.write(&Event::Requeued { anew: true }).unwrap();
        assert_eq!(read(&path).unwrap(), [Event::Requeued { anew: false }, Event::Requeued { anew: true }]);
    }

    /// Oracle: the events themselves. JSON cannot express these numbers.
    #[test]
    fn events_are_read_as_written_whatever_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for (at, odd) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1 + 0.2, 5e-324].into_iter().enumerate() {
            let path = folder.path().join(format!("{at}.jsonl"));
            let step = Step {
                step: 1,
                tokens: 10,
                loss: odd,
                hard_loss: odd,
                lr: odd,
                grad_norm: odd,
                seconds: odd,
                retained_mass: Some(odd),
                teacher_entropy: None,
                mean_lse: odd,
            };
            let found = EvaluationEvent {
                step: 1,
                tokens: 10,
                split: "valid".into(),
                scores: Scores::of(Metric::all().filter(|metric| !metric.is_fidelity()).map(|metric| (metric, odd))),
            };
            let (split, document) = ("valid".to_string(), "a".to_string());
            let scores = Scores::of(Metric::all().filter(|metric| metric.is_fidelity()).map(|metric| (metric, odd)));
            let events = [
                Event::GradientChecked { updates: 0, slope: Some(odd) },
                Event::GradientChecked { updates: 1, slope: None },
                Event::Step(step),
                Event::Evaluation(found),
                Event::Document { split: split.clone(), document, nll_sum: odd, tokens: 3 },
                Event::FidelityMeasured { split, tokens: 3, scores },
                Event::Done,
            ];
            let journal = journal(&path, 1);
            events.iter().for_each(|event| journal.write(event).unwrap());
            // Compared as text, because NaN is not equal to itself.
            assert_eq!(format!("{:?}", read(&path).unwrap()), format!("{events:?}"));
        }
    }

    #[test]
    fn null_in_older_journals_is_nan_and_finite_numbers_are_written_as_before() {
        let event: Event = serde_json::from_str(r#"{"event":"gradient_checked","updates":0,"slope":null}"#).unwrap();
        assert_eq!(event, Event::GradientChecked { updates: 0, slope: None });
        let step = |loss: &str| {
            format!(
                r#"{{"event":"step","step":1,"tokens":10,"loss":{loss},"hard_loss":2.0,"lr":0.003,"grad_norm":0.30000000000000004,"seconds":0.5,"retained_mass":null,"teacher_entropy":1e-12,"mean_lse":-7.0}}"#
            )
        };
        let Event::Step(lost) = serde_json::from_str(&step("null")).unwrap() else { panic!("a step") };
        assert!(lost.loss.is_nan() && lost.retained_mass.is_none());
        let whole = step("3.5");
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Event>(&whole).unwrap()).unwrap(), whole);
    }

    /// Oracle: lines that the program wrote before the table of metrics existed.
    #[test]
    fn evaluations_are_written_as_before_and_must_have_the_required_metrics() {
        let lines = [
            r#"{"event":"evaluated","step":50,"tokens":100,"split":"valid","nll":4.5,"bits_per_byte":2.25,"token_accuracy":"NaN","ece":0.30000000000000004}"#,
            r#"{"event":"compared","split":"valid","tokens":3,"kl_to_teacher":0.125,"top_1_agreement":0.5,"top_10_overlap":"inf"}"#,
        ];
        for line in lines {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<Event>(line).unwrap()).unwrap(), line);
        }
        let Event::Evaluation(found) = serde_json::from_str(&lines[0].replace("4.5", "null")).unwrap() else { panic!() };
        assert!(found.scores[Metric::Nll].is_some_and(f64::is_nan) && found.scores[Metric::KlToTeacher].is_none());
        assert!(serde_json::from_str::<Event>(&lines[0].replace("nll", "loss")).is_err());
    }

    #[test]
    fn an_unreadable_journal_is_an_error_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none.jsonl")).unwrap(), []);
        let path = folder.path().join("journal.jsonl");
        std::fs::create_dir(&path).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.is::<hydrometer_base::UserError>(), "{error:#}");
        assert!(format!("{error:#}").starts_with(&format!("cannot read {}: Is a directory", path.display())), "{error:#}");
    }
}
