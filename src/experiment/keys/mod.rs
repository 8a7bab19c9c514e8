//! The keys of the experiment file: each is one item, which says its name, its values, its default, where it may stand, the objectives
//! that it applies to, and its line in the manual.
//!
//! Lists of known keys, checks, suggestions, the rows of `docs/experiment-file.md` and the JSON schema follow from these items. A new
//! key of a run is an item in [`run`] and a row of the manual; what it means is for the code that reads it by [`Settings`].

mod data;
mod loss;
mod run;
pub mod schema;
mod settings;
mod tables;
mod value;

use anyhow::Result;
use hydrometer_base::suggest::unknown_key;
use hydrometer_base::user_error;

pub use data::*;
pub use loss::objective_name;
pub use run::*;
pub use settings::Settings;
pub use tables::*;
pub use value::{AMOUNT_MAX, LEVELS, Shape, Value};

use super::source::Setting;

/// A setting of the experiment file.
pub struct Key {
    pub name: &'static str,
    /// What it means, as the manual says it.
    pub doc: &'static str,
    pub value: Value,
    /// As it would be written; `None` where it must be given, or where what stands in for it depends on other settings.
    pub default: Option<&'static str>,
    /// The objectives of arms that it means something to.
    pub objectives: Objectives,
    /// Where it may stand; the manual has its row in the section of the first.
    pub places: &'static [Place],
    /// Values that an axis might list.
    pub example: &'static str,
}

/// Objectives by name.
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
    /// What selects runs: `[[sweep.when]]`, `[[sweep.skip]]`, and the arms of a claim.
    Selector,
    Smoke,
    Teacher,
    /// `adapt` of a teacher.
    Adapt,
    /// A teacher whose answers are recorded.
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
}

/// Statics, and the list of them.
macro_rules! keys {
    ($list:ident: $($name:ident = $key:expr;)+) => {
        $(pub static $name: super::Key = $key;)+
        /// In the order of the manual.
        pub static $list: &[&super::Key] = &[$(&$name),+];
    };
}
use keys;

impl Objectives {
    /// Whether `objective` is one of them; an arm may have none yet, whose name is empty.
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
    [TOP_KEYS, RUN_AND_TEACHER_KEYS, DATA_KEYS, MODEL_KEYS, TABLE_KEYS].into_iter().flatten().copied()
}

/// The keys that may stand in `place`.
pub fn keys_of(place: Place) -> impl Iterator<Item = &'static Key> {
    all().filter(move |key| key.places.contains(&place))
}

pub fn names(place: Place) -> Vec<&'static str> {
    keys_of(place).map(|key| key.name).collect()
}

pub fn find(place: Place, name: &str) -> Option<&'static Key> {
    keys_of(place).find(|key| key.name == name)
}

/// Whether the key of a run `name` means anything to an arm with `objective`.
pub fn applies(name: &str, objective: &str) -> bool {
    find(Place::Base, name).is_none_or(|key| key.objectives.include(objective))
}

/// `unknown key "tokns" in [base]; did you mean "tokens"?`
pub fn unknown_in(place: Place, name: &str, within: &str) -> String {
    unknown_key(name, within, &names(place))
}

/// Refuses keys that are not `place`'s, then values that are not their keys'; messages call the table `within`.
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

/// The value of the key of a run `name`, so that equal values are equal texts however they are written: `"1M"` and `1_000_000`,
/// 1e-3 and 0.001.
pub fn canonical(name: &str, setting: &Setting) -> String {
    let key = find(Place::Base, name).filter(|key| matches!(key.value, Value::Tokens));
    let tokens = key.and_then(|key| key.tokens(setting).ok()).map(|tokens| tokens.to_string());
    let number = || setting.value.as_float().map(|number| number.to_string());
    tokens.or_else(number).unwrap_or_else(|| setting.display())
}
