//! How a run ends, as one type for workers, the scheduler, the journal and the user interface.
//!
//! A worker ends with an [`Ending`]. Its exit code carries the ending to the scheduler ([`Ending::exit_code`],
//! [`Ending::of_exit`]), the journal records it ([`Ending::event`], [`Ending::of_events`]), and [`Ending::status`] is its status
//! in frames, `status` and `plan`.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use hydrometer_record::journal::Event;
use hydrometer_record::run_status::RunStatus;
use rustix::process::Signal;

/// How a run has ended so far. Ordered by precedence: if ranks ended differently, the greatest ending counts for the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It has not been started.
    New,
    Done,
    /// With the loss and gradient norm that show it.
    Diverged(String),
    /// With the error.
    Failed(String),
    /// It stopped early for an external reason, so the next `run` resumes it. `None` if read from a journal, which does not
    /// record the cause.
    Interrupted(Option<Interruption>),
}

/// What interrupted a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interruption {
    pub cause: Cause,
    /// The cause as a sentence.
    pub because: String,
}

/// What interrupted a run, in increasing order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// An input file of the run is damaged; another job rebuilds it.
    CorruptInput,
    /// The ranks could not connect to each other.
    Rendezvous,
    /// The disk is full or not writable.
    Storage,
    /// A memory allocation failed. It may succeed at another time.
    Memory,
    /// A user or a batch system terminated a process.
    Terminated,
    /// A process was killed by SIGKILL, for instance by the kernel's out-of-memory killer.
    Killed,
}

/// A worker's exit codes for the causes that it can detect itself, from sysexits.h.
const EXIT_CODES: [(Cause, u8); 4] =
    [(Cause::CorruptInput, 65), (Cause::Memory, 71), (Cause::Storage, 74), (Cause::Rendezvous, 75)];

/// Signals with which users and batch systems terminate a process.
const TERMINATION_SIGNALS: [Signal; 3] = [Signal::HUP, Signal::INT, Signal::TERM];

impl Ending {
    pub fn interrupted(cause: Cause, because: String) -> Self {
        Self::Interrupted(Some(Interruption { cause, because }))
    }

    /// The ending that the events of a journal record.
    pub fn of_events(events: &[Event]) -> Self {
        // A torn journal has lost events that the frames need, so the run does not count as done.
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

    /// The event that records this ending in the journal; `None` if the training loop has written one already.
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::New | Self::Done | Self::Diverged(_) | Self::Interrupted(None) => None,
            Self::Failed(error) => Some(Event::Failed { error: error.clone() }),
            Self::Interrupted(Some(interruption)) => Some(interruption.event()),
        }
    }

    /// The ending that the exit status of rank `rank` stands for; `None` if the process succeeded.
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
                _ => Self::Failed(format!("rank {rank} was terminated by signal {number}")),
            });
        }
        let code = status.code().unwrap_or(-1);
        let because = match EXIT_CODES.into_iter().find(|&(_, known)| i32::from(known) == code) {
            None => return Some(Self::Failed(format!("rank {rank} exited with code {code}"))),
            Some((cause @ Cause::Rendezvous, _)) => (cause, format!("rank {rank} could not connect to the other ranks")),
            Some((cause @ Cause::Memory, _)) => (cause, "out of memory".into()),
            Some((cause, _)) => (cause, cause.to_string()),
        };
        Some(Self::interrupted(because.0, because.1))
    }

    /// The exit code of a worker process with this ending.
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

    /// Whether the next `run` works on it without `--rerun`.
    pub fn is_left(&self) -> bool {
        matches!(self, Self::New | Self::Interrupted(_))
    }

    /// Why the run failed or diverged; `None` for other endings.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(why) | Self::Diverged(why) => Some(why),
            _ => None,
        }
    }
}

impl Interruption {
    /// The event that records this interruption in the journal.
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
            Self::CorruptInput => "an input file is damaged",
            Self::Rendezvous => "the ranks could not connect to each other",
            Self::Storage => "the disk is full or not writable",
            Self::Memory => "out of memory",
            Self::Terminated => "it was terminated",
            Self::Killed => "it was killed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the cause that the worker reported. A wait status holds the exit code shifted by 8 bits.
    #[test]
    fn exit_codes_carry_the_cause_and_signals_distinguish_termination_from_killing() {
        let exit = |raw: i32| Ending::of_exit(1, ExitStatus::from_raw(raw));
        for cause in [Cause::CorruptInput, Cause::Rendezvous, Cause::Storage, Cause::Memory] {
            let code = Ending::interrupted(cause, "x".into()).exit_code();
            let Some(Ending::Interrupted(Some(found))) = exit(i32::from(code) << 8) else { panic!("{cause:?} is lost") };
            assert_eq!(found.cause, cause);
        }
        assert_eq!(exit(0), None);
        assert_eq!(
            exit(i32::from(Ending::Failed("x".into()).exit_code()) << 8),
            Some(Ending::Failed("rank 1 exited with code 1".into()))
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

    /// Oracle: the ending that was written; the journal does not record causes.
    #[test]
    fn the_journal_records_whether_a_run_failed_or_was_interrupted() {
        let failed = Ending::Failed("no".into());
        assert_eq!(Ending::of_events(&[failed.event().unwrap()]), failed);
        for cause in [Cause::CorruptInput, Cause::Memory, Cause::Killed, Cause::Terminated] {
            let event = Ending::interrupted(cause, "x".into()).event().unwrap();
            assert_eq!(Ending::of_events(&[event]), Ending::Interrupted(None));
        }
        assert_eq!(Ending::of_events(&[]), Ending::New);
        assert_eq!(Ending::of_events(&[Event::Done]), Ending::Done);
        assert_eq!(Ending::of_events(&[Event::Torn { after: 1 }, Event::Done]), Ending::Interrupted(None));
        assert!(
            failed < Ending::interrupted(Cause::CorruptInput, String::new()),
            "the failure of another rank is a consequence of the cause"
        );
    }
}
