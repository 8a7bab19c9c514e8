//! The values of a key and how they are read.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use anyhow::Result;
use hydrometer_base::suggest::unknown;
use hydrometer_base::text::quoted;
use hydrometer_base::user_error;
use hydrometer_data::format::Format;
use hydrometer_score::Score;
use hydrometer_torch::objective::{TEMPERATURES, TEMPERATURES_WORDS};

use super::loss::objective_name;
use super::{Key, Place, check};
use crate::experiment::source::Setting;

/// Maximum number of seeds of an arm.
pub const SEEDS_MAX: usize = 10_000;
/// Largest amount of money in any currency; keeps sums finite.
pub const AMOUNT_MAX: f64 = 1e12;
/// Longest timeout of a request, in seconds.
const TIMEOUT_MAX: f64 = 86_400.0;

/// The values of a key.
pub enum Value {
    Text,
    Flag,
    Number(&'static Numbers),
    Whole(RangeInclusive<u64>),
    /// `"100k"`, `"1.5M"`, `2_000_000`.
    Tokens,
    /// One of these names.
    Choice(fn() -> Vec<&'static str>),
    /// The name of a format of data.
    Format,
    /// An objective, or one of metaseq's modes.
    Objective,
    /// A count, or a list of different seeds.
    Seeds,
    /// A split that is not trained on.
    HeldOutSplit,
    /// `{ bpe = SIZE }`, or the path of a `tokenizer.json`.
    Tokenizer,
    /// Indices of a checkpoint's blocks.
    Layers,
    /// A text, or a list of texts, none of them empty.
    Texts,
    /// A list of different scores.
    Scores,
    /// The name of a preset, or a table of this place's keys; checked with the presets.
    Preset(Place),
    /// An inline table of this place's keys.
    Fields(Place),
    /// Tables of the file, read one by one.
    Table(Shape, Place),
    /// `{ key = [values], ... }` of keys that may stand on an axis.
    Axes,
    /// `{ key = value or [values], ... }`, which selects runs.
    Select,
}

/// How often a table may appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    /// `[method.NAME]`.
    Named,
    /// `[[claim]]`.
    List,
}

/// A range of numbers.
pub struct Numbers {
    pub from: Bound<f64>,
    pub to: Bound<f64>,
    /// What the number must be, for messages.
    pub words: &'static str,
    /// What is wrong with a number above 0 outside the range, if messages should say it.
    pub beyond: Option<&'static str>,
}

const fn numbers(from: Bound<f64>, to: Bound<f64>, words: &'static str) -> Numbers {
    Numbers { from, to, words, beyond: None }
}

pub static ABOVE_0: Numbers = numbers(Bound::Excluded(0.0), Bound::Unbounded, "a number above 0");
pub static AT_LEAST_0: Numbers = numbers(Bound::Included(0.0), Bound::Unbounded, "a number of at least 0");
pub static FROM_0_TO_1: Numbers = numbers(Bound::Included(0.0), Bound::Included(1.0), "a number from 0 to 1");
pub static FROM_0_TO_BELOW_1: Numbers = numbers(Bound::Included(0.0), Bound::Excluded(1.0), "a number from 0 to below 1");
pub static BETWEEN_0_AND_1: Numbers = numbers(Bound::Excluded(0.0), Bound::Excluded(1.0), "a number above 0 and below 1");
pub static ABOVE_0_TO_1: Numbers = numbers(Bound::Excluded(0.0), Bound::Included(1.0), "a number above 0, at most 1");
pub static LEVELS: Numbers = numbers(Bound::Included(0.5), Bound::Excluded(1.0), "a number from 0.5 to below 1, e.g. 0.95");
pub static SECONDS: Numbers = numbers(Bound::Excluded(0.0), Bound::Included(TIMEOUT_MAX), "a number of seconds above 0");
pub static AMOUNTS: Numbers = numbers(Bound::Included(0.0), Bound::Included(AMOUNT_MAX), "a number from 0 to 1000000000000");
/// Outside this range, logits divided by the temperature or gradients multiplied by it can leave the range of f32.
pub static TEMPERATURE_NUMBERS: Numbers = Numbers {
    from: Bound::Included(*TEMPERATURES.start()),
    to: Bound::Included(*TEMPERATURES.end()),
    words: TEMPERATURES_WORDS,
    beyond: None,
};

impl Numbers {
    pub fn contains(&self, number: f64) -> bool {
        (self.from, self.to).contains(&number)
    }
}

impl Key {
    /// Its name in messages: `lr`, `eval.every`.
    pub fn label(&self) -> String {
        let table = match self.places.first() {
            Some(Place::Eval) => "eval.",
            Some(Place::Price) => "price.",
            Some(Place::Budget) => "budget.",
            Some(Place::Decode) => "decode.",
            _ => "",
        };
        format!("{table}{}", self.name)
    }

    /// An error if `setting` is not a value of this key, as far as the file alone shows.
    pub fn check(&self, setting: &Setting) -> Result<()> {
        match &self.value {
            Value::Text => self.text(setting).map(drop),
            Value::Flag => self.flag(setting).map(drop),
            Value::Number(_) => self.number(setting).map(drop),
            Value::Whole(_) => self.whole(setting).map(drop),
            Value::Tokens => self.tokens(setting).map(drop),
            Value::Choice(_) | Value::Format => {
                let names = self.names();
                self.choice(setting, |name| names.contains(&name).then_some(()))
            }
            Value::Objective => objective_name(setting).map(drop),
            Value::Seeds => seeds(setting).map(drop),
            Value::HeldOutSplit => self.held_out_split(setting).map(drop),
            Value::Texts => self.texts(setting).map(drop),
            Value::Scores => self.scores(setting).map(drop),
            Value::Fields(place) => self.fields(*place, setting).map(drop),
            Value::Tokenizer | Value::Layers | Value::Preset(_) | Value::Table(..) | Value::Axes | Value::Select => Ok(()),
        }
    }

    pub fn text<'a>(&self, setting: &'a Setting) -> Result<&'a str> {
        setting.text(&self.label())
    }

    pub fn flag(&self, setting: &Setting) -> Result<bool> {
        setting.flag(&self.label())
    }

    pub fn number(&self, setting: &Setting) -> Result<f64> {
        let Value::Number(range) = self.value else { unreachable!("{} is no number", self.name) };
        let given = setting.value.as_float().or_else(|| setting.value.as_integer().map(|n| n as f64));
        let beyond = given.filter(|number| *number > 0.0 && number.is_finite() && !range.contains(*number));
        if let (Some(what), Some(_)) = (range.beyond, beyond) {
            return Err(user_error!("{} {what}; use {}", setting.subject_with_value(&self.label()), range.words));
        }
        setting.number(&self.label(), range.words, |number| range.contains(number))
    }

    pub fn whole(&self, setting: &Setting) -> Result<u64> {
        let Value::Whole(range) = &self.value else { unreachable!("{} is no whole number", self.name) };
        setting.whole(&self.label(), range.clone())
    }

    pub fn tokens(&self, setting: &Setting) -> Result<u64> {
        setting.tokens(&self.label())
    }

    /// The names of a choice.
    pub fn names(&self) -> Vec<&'static str> {
        match self.value {
            Value::Choice(names) => names(),
            Value::Format => Format::ALL.iter().map(|format| format.name()).collect(),
            _ => unreachable!("{} is no choice", self.name),
        }
    }

    pub fn choice<T>(&self, setting: &Setting, named: impl Fn(&str) -> Option<T>) -> Result<T> {
        let (label, name) = (self.label(), self.text(setting)?);
        let what = if matches!(self.value, Value::Format) { "data format" } else { label.as_str() };
        named(name).ok_or_else(|| user_error!("{}: {}", setting.at.0, unknown(what, name, &self.names())))
    }

    pub fn held_out_split<'a>(&self, setting: &'a Setting) -> Result<&'a str> {
        let (label, name) = (self.label(), self.text(setting)?);
        if HELD_OUT.contains(&name) {
            return Ok(name);
        }
        let (at, splits, found) = (&setting.at.0, HELD_OUT.join(" or "), quoted(name));
        Err(user_error!("{at}: {label} must be a held-out split of the data ({splits}), not {found}"))
    }

    pub fn texts(&self, setting: &Setting) -> Result<Vec<String>> {
        let wrong = || setting.wrong(&self.label(), "a string or a list of strings, none of them empty");
        let texts: Option<Vec<String>> = match setting.value.as_array() {
            Some(list) => list.iter().map(|text| text.as_str().map(str::to_string)).collect(),
            None => setting.value.as_str().map(|text| vec![text.to_string()]),
        };
        texts.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty())).ok_or_else(wrong)
    }

    pub fn scores(&self, setting: &Setting) -> Result<Vec<Score>> {
        let at = &setting.at.0;
        let wrong = || setting.wrong(&self.label(), "a list of scores, e.g. [\"exact-match\"]");
        let names = setting.value.as_array().filter(|names| !names.is_empty()).ok_or_else(wrong)?;
        let mut scores = Vec::new();
        for name in names {
            let score = Score::parse(name.as_str().ok_or_else(wrong)?).map_err(|why| user_error!("{at}: {why}"))?;
            if scores.contains(&score) {
                return Err(user_error!("{at}: {} lists {} twice", self.label(), score.name()));
            }
            scores.push(score);
        }
        Ok(scores)
    }

    /// The settings of an inline table of `place`'s keys, each checked.
    pub fn fields(&self, place: Place, setting: &Setting) -> Result<Vec<(String, Setting)>> {
        let fields = setting.fields(&self.label())?;
        check(place, self.name, fields.iter().map(|(name, setting)| (name, setting)))?;
        Ok(fields)
    }
}

/// Splits that are not trained on.
pub const HELD_OUT: [&str; 2] = ["valid", "test"];

pub fn seeds(setting: &Setting) -> Result<Vec<u64>> {
    let bad =
        || user_error!("{}: seeds must be a count of at most {SEEDS_MAX}, or a list of different whole numbers", setting.at.0);
    let Some(array) = setting.value.as_array() else {
        let count = setting.whole("seeds", 1..=SEEDS_MAX as u64).map_err(|_| bad())?;
        return Ok((0..count).collect());
    };
    let seeds: Option<Vec<u64>> = array.iter().map(|v| v.as_integer().and_then(|n| u64::try_from(n).ok())).collect();
    let seeds = seeds.filter(|seeds| !seeds.is_empty()).ok_or_else(bad)?;
    let distinct: BTreeSet<&u64> = seeds.iter().collect();
    if distinct.len() != seeds.len() { Err(bad()) } else { Ok(seeds) }
}
