//! The status of a run, in the frames and on the command line.

use std::fmt;

use serde::{Serialize, Serializer};

/// The status of a run. Its journal has the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    New,
    Running,
    /// It was started and has not ended; the next `run` resumes it.
    Interrupted,
    Done,
    Failed,
    Diverged,
}

impl RunStatus {
    /// Its name in `status` and `plan`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Diverged => "diverged",
        }
    }

    /// Its name in the column `status` of the frames: a finished run is `ok`. No run is running when frames are written.
    pub const fn in_frames(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Running => Self::Interrupted.word(),
            other => other.word(),
        }
    }

    /// The status that `plan` counts it under: everything still to do is new.
    pub const fn planned(self) -> Self {
        match self {
            Self::Running | Self::Interrupted => Self::New,
            other => other,
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Pads to the formatter's width.
        f.pad(self.word())
    }
}

impl Serialize for RunStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the lists of DESIGN.md (`plan`), docs/frames.md (the column `status`) and the JSON of `status`.
    #[test]
    fn frames_status_and_plan_use_the_words_that_are_documented() {
        use RunStatus::{Diverged, Done, Failed, Interrupted, New, Running};
        let all = [New, Running, Interrupted, Done, Failed, Diverged];
        assert_eq!(all.map(RunStatus::word), ["new", "running", "interrupted", "done", "failed", "diverged"]);
        assert_eq!(all.map(RunStatus::in_frames), ["new", "interrupted", "interrupted", "ok", "failed", "diverged"]);
        assert_eq!(all.map(|status| status.planned().word()), ["new", "new", "new", "done", "failed", "diverged"]);
    }
}
