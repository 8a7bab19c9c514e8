//! How a run ends: one type from the process that works on it to the journal and to the words that are shown.
//!
//! A worker ends with an [`Ending`]. Its exit code carries the ending to the scheduler ([`Ending::exit_code`], [`Ending::of_exit`]),
//! the journal keeps it ([`Ending::event`], [`Ending::of_events`]), and [`Ending::status`] names it in frames, `status` and `plan`.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use hydrometer_record::journal::Event;
use hydrometer_record::run_status::RunStatus;
use rustix::process::Signal;

/// How a run has ended so far, the weightiest last: where ranks differ, it decides for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It has not begun.
    New,
    Done,
    /// The evidence.
    Diverged(String),
    /// The error.
    Failed(String),
    /// It ended before its work was done through no fault of its own: the next `run` resumes it. The journal does not say the cause.
    Interrupted(Option<Interruption>),
}

/// What interrupted a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interruption {
    pub cause: Cause,
    /// In a sentence.
    pub because: String,
}

/// The kinds of interruption, the weightiest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A file that the run reads is damaged; another job makes it again.
    CorruptInput,
    /// The ranks did not find each other.
    Rendezvous,
    /// The disk is full or cannot be written.
    Storage,
    /// A process could not get the memory that it asked for. It may find more another time.
    Memory,
    /// A person or a queue ended a process.
    Terminated,
    /// A process was killed as a machine short of memory kills.
    Killed,
}

/// A worker's exit codes for the causes that it can tell itself, as in sysexits.h.
const EXIT_CODES: [(Cause, u8); 4] =
    [(Cause::CorruptInput, 65), (Cause::Memory, 71), (Cause::Storage, 74), (Cause::Rendezvous, 75)];

/// Signals by which a person or a queue ends a process.
const TERMINATION_SIGNALS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];

impl Ending {
    pub fn interrupted(cause: Cause, because: String) -> Self {
        Self::Interrupted(Some(Interruption { cause, because }))
    }

    /// As the events of a journal tell it.
    pub fn of_events(events: &[Event]) -> Self {
        // What is torn has lost something that the frames need.
        let whole = !events.iter().any(|event| matches!(event, Event::Torn { .. }));
        let last = events.iter().rev().find_map(|event| match event {
            Event::Done if whole => Some(Self::Done),
            Event::Done | Event::Killed { .. } | Event::Deferred { .. } | Event::Requeued { .. } => Some(Self::Interrupted(None)),
            Event::Failed { error } => Some(Self::Failed(error.clone())),
            Event::Diverged { evidence, .. } => Some(Self::Diverged(evidence.clone())),
            _ => None,
        });
        last.unwrap_or(if events.is_empty() { Self::New } else { Self::Interrupted(None) })
    }

    /// What the journal keeps of it; `None` where the training writes that itself.
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::New | Self::Done | Self::Diverged(_) | Self::Interrupted(None) => None,
            Self::Failed(error) => Some(Event::Failed { error: error.clone() }),
            Self::Interrupted(Some(interruption)) => Some(interruption.event()),
        }
    }

    /// As the exit status of rank `rank` tells it; `None` where the process has succeeded.
    pub fn of_exit(rank: usize, status: ExitStatus) -> Option<Self> {
        if status.success() {
            return None;
        }
        if let Some(number) = status.signal() {
            let is = |signal: Signal| signal.as_raw() == number;
            return Some(match number {
                _ if is(Signal::KILL) => Self::interrupted(Cause::Killed, format!("rank {rank} was killed by signal {number}")),
                _ if TERMINATION_SIGNALS.into_iter().any(is) => {
                    Self::interrupted(Cause::Terminated, format!("rank {rank} was stopped by signal {number}"))
                }
                _ => Self::Failed(format!("rank {rank} was ended by signal {number}")),
            });
        }
        let code = status.code().unwrap_or(-1);
        let because = match EXIT_CODES.into_iter().find(|&(_, known)| i32::from(known) == code) {
            None => return Some(Self::Failed(format!("rank {rank} ended with code {code}"))),
            Some((cause @ Cause::Rendezvous, _)) => (cause, format!("rank {rank} did not reach the others")),
            Some((cause @ Cause::Memory, _)) => (cause, "no memory is left".into()),
            Some((cause, _)) => (cause, cause.to_string()),
        };
        Some(Self::interrupted(because.0, because.1))
    }

    /// With what a worker process ends.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::New | Self::Done | Self::Diverged(_) | Self::Interrupted(None) => 0,
            Self::Failed(_) => 1,
            Self::Interrupted(Some(Interruption { cause, .. })) => {
                EXIT_CODES.into_iter().find(|(known, _)| known == cause).map_or(1, |(_, code)| code)
            }
        }
    }

    pub fn status(&self) -> RunStatus {
        match self {
            Self::New => RunStatus::New,
            Self::Interrupted(_) => RunStatus::Interrupted,
            Self::Done => RunStatus::Done,
            Self::Failed(_) => RunStatus::Failed,
            Self::Diverged(_) => RunStatus::Diverged,
        }
    }

    /// Whether there is something to do without being asked for again.
    pub fn is_left(&self) -> bool {
        matches!(self, Self::New | Self::Interrupted(_))
    }

    /// What went wrong, where the run itself did.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(why) | Self::Diverged(why) => Some(why),
            _ => None,
        }
    }
}

impl Interruption {
    pub fn event(&self) -> Event {
        let because = self.because.clone();
        match self.cause {
            Cause::CorruptInput | Cause::Storage | Cause::Memory => Event::Deferred { because },
            Cause::Rendezvous | Cause::Terminated | Cause::Killed => Event::Killed { by: because },
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::CorruptInput => "what it needs is not whole",
            Self::Rendezvous => "the ranks did not find each other",
            Self::Storage => "the disk is full or cannot be written",
            Self::Memory => "memory has ended",
            Self::Terminated => "it was told to stop",
            Self::Killed => "it was killed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: what the worker meant. Codes are shifted by 8 in a wait status.
    #[test]
    fn an_exit_code_carries_the_cause_and_signals_tell_who_ended_a_rank() {
        let exit = |raw: i32| Ending::of_exit(1, ExitStatus::from_raw(raw));
        for cause in [Cause::CorruptInput, Cause::Rendezvous, Cause::Storage, Cause::Memory] {
            let code = Ending::interrupted(cause, "x".into()).exit_code();
            let Some(Ending::Interrupted(Some(found))) = exit(i32::from(code) << 8) else { panic!("{cause:?} is lost") };
            assert_eq!(found.cause, cause);
        }
        assert_eq!(exit(0), None);
        assert_eq!(
            exit(i32::from(Ending::Failed("x".into()).exit_code()) << 8),
            Some(Ending::Failed("rank 1 ended with code 1".into()))
        );
        let by = |raw: i32| match exit(raw) {
            Some(Ending::Interrupted(Some(interruption))) => Some(interruption.cause),
            _ => None,
        };
        assert_eq!(
            [1, 2, 15, 9, 6].map(by),
            [Some(Cause::Terminated); 3].into_iter().chain([Some(Cause::Killed), None]).collect::<Vec<_>>()[..]
        );
    }

    /// Oracle: the words, and the ending that went in; the journal keeps no cause.
    #[test]
    fn the_journal_keeps_whether_a_run_failed_or_was_interrupted() {
        let failed = Ending::Failed("no".into());
        assert_eq!(Ending::of_events(&[failed.event().unwrap()]), failed);
        for cause in [Cause::CorruptInput, Cause::Memory, Cause::Killed, Cause::Terminated] {
            let event = Ending::interrupted(cause, "x".into()).event().unwrap();
            assert_eq!(Ending::of_events(&[event]), Ending::Interrupted(None));
        }
        assert_eq!(Ending::of_events(&[]), Ending::New);
        assert_eq!(Ending::of_events(&[Event::Done]), Ending::Done);
        assert_eq!(Ending::of_events(&[Event::Torn { after: 1 }, Event::Done]), Ending::Interrupted(None));
        assert!(failed < Ending::interrupted(Cause::CorruptInput, String::new()), "a peer's failure follows from the cause");
    }
}
