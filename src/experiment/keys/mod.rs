//! The keys of the experiment file, one item each: its name, values, default, the tables that it may appear in, the objectives
//! that it applies to, and its description in the manual.
//!
//! Lists of known keys, checks, suggestions, the rows of `docs/experiment-file.md` and the JSON schema are derived from these
//! items. To add a key of a run, add an item to [`run`] and a row to the manual, and read it through [`Settings`].

mod data;
mod loss;
mod run;
pub mod schema;
mod settings;
mod tables;
mod task;
mod value;

use anyhow::Result;
use hydrometer_base::suggest::unknown_key;
use hydrometer_base::user_error;

pub use data::*;
pub use loss::{ESTIMATORS, objective_name};
pub use run::*;
pub use settings::Settings;
pub use tables::*;
pub use task::*;
pub use value::{AMOUNT_MAX, LEVELS, Shape, Value};

use super::source::Setting;

/// A setting of the experiment file.
pub struct Key {
    pub name: &'static str,
    /// Its description in the manual.
    pub doc: &'static str,
    pub value: Value,
    /// As written in TOML; `None` if the key is required, or if its default depends on other settings.
    pub default: Option<&'static str>,
    /// The objectives that it applies to.
    pub objectives: Objectives,
    /// The tables that it may appear in; the manual lists it in the section of the first.
    pub places: &'static [Place],
    /// Example values of an axis.
    pub example: &'static str,
}

/// A set of objectives, by name.
#[derive(Clone, Copy, Debug)]
pub enum Objectives {
    All,
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// The tables that have keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Top,
    Base,
    Method,
    /// An axis of the sweep, in `grid` or `zip`.
    Axis,
    /// A condition that selects runs: `[[sweep.when]]`, `[[sweep.skip]]`, and the arms of a claim.
    Selector,
    Smoke,
    Teacher,
    /// `adapt` of a teacher.
    Adapt,
    /// A teacher with recorded logprobs.
    Recorded,
    /// A teacher behind an API.
    Endpoint,
    Eval,
    Price,
    Budget,
    Data,
    /// Data that are examples, with a source and a target.
    Examples,
    Model,
    Sweep,
    When,
    Skip,
    Fair,
    Claim,
    Task,
    /// `decode` of a task.
    Decode,
}

/// Declares keys as statics, and a list of them.
macro_rules! keys {
    ($list:ident: $($name:ident = $key:expr;)+) => {
        $(pub static $name: super::Key = $key;)+
        /// In the order of the manual.
        pub static $list: &[&super::Key] = &[$(&$name),+];
    };
}
use keys;

impl Objectives {
    /// Whether `objective` is in the set. The name is empty for an arm that has no objective yet.
    pub fn include(self, objective: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(&objective),
            Self::AllBut(names) => !names.contains(&objective),
        }
    }
}

/// Every key, in the order of the manual.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [TOP_KEYS, RUN_AND_TEACHER_KEYS, DATA_KEYS, MODEL_KEYS, TABLE_KEYS, TASK_KEYS, DECODE_KEYS].into_iter().flatten().copied()
}

/// The keys that may appear in `place`.
pub fn keys_of(place: Place) -> impl Iterator<Item = &'static Key> {
    all().filter(move |key| key.places.contains(&place))
}

pub fn names(place: Place) -> Vec<&'static str> {
    keys_of(place).map(|key| key.name).collect()
}

pub fn find(place: Place, name: &str) -> Option<&'static Key> {
    keys_of(place).find(|key| key.name == name)
}

/// Whether the run key `name` applies to an arm with `objective`. An unknown key applies.
pub fn applies(name: &str, objective: &str) -> bool {
    find(Place::Base, name).is_none_or(|key| key.objectives.include(objective))
}

/// `unknown key "tokns" in [base]; did you mean "tokens"?`
pub fn unknown_in(place: Place, name: &str, within: &str) -> String {
    unknown_key(name, within, &names(place))
}

/// An error if a key may not appear in `place`, or if a value is invalid for its key. Messages call the table `within`.
pub fn check<'a>(
    place: Place,
    within: &str,
    settings: impl IntoIterator<Item = (&'a String, &'a Setting)> + Clone,
) -> Result<()> {
    for (name, setting) in settings.clone() {
        if find(place, name).is_none() {
            return Err(user_error!("{}: {}", setting.at.0, unknown_in(place, name, within)));
        }
    }
    for (name, setting) in settings {
        find(place, name).map_or(Ok(()), |key| key.check(setting))?;
    }
    Ok(())
}

/// The value of the run key `name` in canonical form. Equal values give equal strings however they are written: `"1M"` and
/// `1_000_000`, 1e-3 and 0.001.
pub fn canonical(name: &str, setting: &Setting) -> String {
    let key = find(Place::Base, name).filter(|key| matches!(key.value, Value::Tokens));
    let tokens = key.and_then(|key| key.tokens(setting).ok()).map(|tokens| tokens.to_string());
    let number = || setting.value.as_float().map(|number| number.to_string());
    tokens.or_else(number).unwrap_or_else(|| setting.display())
}
