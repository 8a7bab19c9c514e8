//! Damaged lines: what is wrong with them, and whether that stops the reading.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use hydrometer_base::user_error;
use serde::{Deserialize, Serialize};

use super::cure::Says;

/// Where a line begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePos {
    pub path: Arc<Path>,
    /// From 1.
    pub number: u64,
    /// Byte of the unpacked file.
    pub offset: u64,
}

impl fmt::Display for LinePos {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.number)
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    pub kind: Kind,
    /// In a few words, with the cure if that is not obvious.
    pub what: String,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident = $name:literal),* $(,)?) => {
        /// The kinds of damage, under which lines are counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$meta])* $kind),* }
        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }
    };
}

kinds! {
    /// The rest of the file cannot be read: a damaged archive, a failing disk.
    Unreadable = "unreadable",
    TooLong = "too-long",
    NotUtf8 = "not-utf8",
    /// JSON that ends before it is complete.
    Torn = "torn",
    NotJson = "not-json",
    NotAnObject = "not-an-object",
    MissingKey = "missing-key",
    WrongType = "wrong-type",
    EmptyText = "empty-text",
    /// A score that is not a logprob: above 0, not a finite number, or a sum of probabilities above 1.
    BadScore = "bad-score",
    /// Rows of logprobs and tokens that do not belong together.
    Misaligned = "misaligned",
    /// Two names of one token that contradict each other, or tokens that spell another text than the line has.
    Contradictory = "contradictory",
    /// A token of the text (not just of the logprobs) that the vocabulary does not have.
    UnknownToken = "unknown-token",
    /// More tokens than the context, while truncation is off.
    OverBudget = "over-budget",
    /// An API's error in place of its answer.
    Refused = "refused",
}

impl LineError {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// The same error, located in a part of the line.
    pub fn of(self, part: impl fmt::Display) -> Self {
        Self { what: format!("{part}: {}", self.what), ..self }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What to do at a damaged line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadLine {
    /// Stop with an error that gives its position and what is wrong.
    #[default]
    Stop,
    /// Count and skip it.
    Skip,
}

impl OnBadLine {
    pub const NAMES: [&str; 2] = ["stop", "skip"];

    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stop" => Self::Stop,
            "skip" => Self::Skip,
            _ => return None,
        })
    }
}

/// Counts of lines read and skipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Lines that are not blank.
    pub lines: u64,
    /// Count of each kind of damage, by its name.
    pub bad: BTreeMap<String, u64>,
    /// The first damaged line and what is wrong with it.
    pub first: Option<String>,
    /// The first line of each kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub firsts: BTreeMap<String, String>,
}

impl Tally {
    /// Number of damaged lines.
    pub fn bad_lines(&self) -> u64 {
        self.bad.values().sum()
    }

    /// Counts a damaged line, or stops with an error; `says` chooses the wording of the cure.
    pub fn reject(&mut self, place: &LinePos, damage: &LineError, policy: OnBadLine, says: Says) -> Result<()> {
        if policy == OnBadLine::Stop {
            let cure = if damage.kind == Kind::Unreadable { "fetch the file again" } else { "correct the line" };
            let whole = match damage.kind {
                Kind::NotUtf8 => "; where the whole file is Latin-1 or Windows-1252, convert it with iconv",
                _ => "",
            };
            return Err(user_error!("{place}: {damage}; {cure}, or {}{whole}", says.skip()));
        }
        *self.bad.entry(damage.kind.name().to_string()).or_default() += 1;
        let told = format!("{place}: {damage}");
        self.firsts.entry(damage.kind.name().to_string()).or_insert_with(|| told.clone());
        self.first.get_or_insert(told);
        Ok(())
    }

    /// `12 of 100 lines left out: not-json 5, torn 7; the first: x.jsonl:3: ...; the first torn: x.jsonl:8: ...`, or `None`.
    pub fn words(&self) -> Option<String> {
        let kinds: Vec<String> = self.bad.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let first = self.first.as_ref()?;
        let others = self.firsts.iter().filter(|(_, told)| *told != first);
        let others: String = others.map(|(kind, message)| format!("; the first {kind}: {message}")).collect();
        Some(format!("{} of {} lines left out: {}; the first: {first}{others}", self.bad_lines(), self.lines, kinds.join(", ")))
    }
}
