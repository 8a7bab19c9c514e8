//! The metrics of an evaluation, one item each.
//!
//! Journal, frames, exports, tables, claims and `hydrometer eval` iterate over [`METRICS`]. To add a metric, add a variant and its
//! item here, compute it in `Evaluation::scores` or in `fidelity` (`src/eval/`), and describe it in `docs/frames.md`.
//!
//! Over seeds every metric is pooled alike: its mean, with a Student t interval.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::number;

/// What an evaluation on held-out text measures, in the order of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    Nll,
    Perplexity,
    BitsPerByte,
    TokenAccuracy,
    Ece,
    KlToTeacher,
    Top1Agreement,
    Top10Overlap,
}

/// Everything about a metric except how it is computed.
pub struct Item {
    pub metric: Metric,
    /// Its name in journals, claims and exports, and of its column in the frames; in TensorBoard, after `eval/<split>/`.
    pub name: &'static str,
    /// Its heading on pages and in documents.
    pub heading: &'static str,
    /// Its heading in a terminal.
    pub short_heading: &'static str,
    /// What it measures, for the notes under tables and `docs/frames.md`.
    pub meaning: &'static str,
    pub unit: Unit,
    pub digits: Digits,
    /// Decimals where one model is shown alone, in `hydrometer eval`.
    pub eval_decimals: usize,
    pub better: Better,
    pub source: Source,
    /// Whether every evaluation has it. A metric that older evaluations lack is null in their rows.
    pub required: bool,
    pub pooling: Pooling,
    pub place: Place,
    /// Whether the expectation of a claim may contain it.
    pub in_claims: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    NatsPerToken,
    BitsPerByte,
    /// Between 0 and 1; shown in percent.
    Share,
    /// None.
    Dimensionless,
}

/// Decimals in tables, after the change to percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digits {
    Fixed(usize),
    /// As many as [`hydrometer_base::units::perplexity`] shows.
    BySize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// Where a metric is measured, and which event of the journal has it.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// On the labels, in every evaluation: the journal's `evaluated`.
    Evaluation,
    /// Against the teacher, at a student's last evaluation: the journal's `compared`.
    Fidelity,
    /// Computed from the others; in no journal.
    Derived(fn(&Scores) -> Option<f64>),
}

/// How a metric is computed on documents drawn with replacement, for the intervals of claims.
#[derive(Clone, Copy, Debug)]
pub enum Pooling {
    /// From their nats per token (each document weighted by its tokens) and the scores of the whole text.
    Documents(fn(nll: f64, whole: &Scores) -> f64),
    /// It is known only for the whole text and varies only by seed.
    WholeText,
}

/// Where reports show a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the comparison of arms, which has columns of its own for it.
    Comparison,
    /// In the table "Beside perplexity".
    Beside,
}

const COUNT: usize = 8;

pub static METRICS: [Item; COUNT] = [
    Item {
        metric: Metric::Nll,
        name: "nll",
        heading: "nll",
        short_heading: "nll",
        meaning: "nats per predicted token",
        unit: Unit::NatsPerToken,
        digits: Digits::Fixed(3),
        eval_decimals: 4,
        better: Better::Lower,
        source: Source::Evaluation,
        required: true,
        pooling: Pooling::Documents(|nll, _| nll),
        place: Place::Comparison,
        in_claims: true,
    },
    Item {
        metric: Metric::Perplexity,
        name: "perplexity",
        heading: "perplexity",
        short_heading: "perplexity",
        meaning: "exp of `nll`",
        unit: Unit::Dimensionless,
        digits: Digits::BySize,
        eval_decimals: 3,
        better: Better::Lower,
        source: Source::Derived(|scores| scores[Metric::Nll].map(f64::exp)),
        required: true,
        pooling: Pooling::Documents(|nll, _| nll.exp()),
        place: Place::Comparison,
        in_claims: true,
    },
    Item {
        metric: Metric::BitsPerByte,
        name: "bits_per_byte",
        heading: "bits per byte",
        short_heading: "bits/byte",
        meaning: "summed NLL in bits over the bytes of the text",
        unit: Unit::BitsPerByte,
        digits: Digits::Fixed(3),
        eval_decimals: 4,
        better: Better::Lower,
        source: Source::Evaluation,
        required: true,
        // Times the whole text's tokens per byte, over ln 2.
        pooling: Pooling::Documents(|nll, whole| nll * whole.finite(Metric::BitsPerByte) / whole.finite(Metric::Nll)),
        place: Place::Beside,
        in_claims: true,
    },
    Item {
        metric: Metric::TokenAccuracy,
        name: "token_accuracy",
        heading: "token accuracy",
        short_heading: "accuracy",
        meaning: "share of tokens that were the likeliest of the whole vocabulary",
        unit: Unit::Share,
        digits: Digits::Fixed(1),
        eval_decimals: 2,
        better: Better::Higher,
        source: Source::Evaluation,
        required: true,
        pooling: Pooling::WholeText,
        place: Place::Beside,
        in_claims: true,
    },
    Item {
        metric: Metric::Ece,
        name: "ece",
        heading: "ECE",
        short_heading: "ECE",
        meaning: "expected calibration error, how far the likeliest token's probability is from how often that token is right, in 15 \
                  equal bins (Guo et al. 2017); who knows little can be calibrated too",
        unit: Unit::Share,
        digits: Digits::Fixed(2),
        eval_decimals: 2,
        better: Better::Lower,
        source: Source::Evaluation,
        required: false,
        pooling: Pooling::WholeText,
        place: Place::Beside,
        in_claims: true,
    },
    Item {
        metric: Metric::KlToTeacher,
        name: "kl_to_teacher",
        heading: "KL to teacher",
        short_heading: "KL to teacher",
        meaning: "mean KL(teacher ‖ student) in nats a token, over the whole vocabulary at temperature 1",
        unit: Unit::NatsPerToken,
        digits: Digits::Fixed(3),
        eval_decimals: 4,
        better: Better::Lower,
        source: Source::Fidelity,
        required: false,
        pooling: Pooling::WholeText,
        place: Place::Beside,
        in_claims: true,
    },
    Item {
        metric: Metric::Top1Agreement,
        name: "top_1_agreement",
        heading: "top-1 agreement",
        short_heading: "same top-1",
        meaning: "share of tokens for which student and teacher have the same likeliest id",
        unit: Unit::Share,
        digits: Digits::Fixed(1),
        eval_decimals: 2,
        better: Better::Higher,
        source: Source::Fidelity,
        required: false,
        pooling: Pooling::WholeText,
        place: Place::Beside,
        in_claims: true,
    },
    Item {
        metric: Metric::Top10Overlap,
        name: "top_10_overlap",
        heading: "top-10 overlap",
        short_heading: "top-10 overlap",
        meaning: "share of the teacher's ten likeliest ids that are among the student's ten",
        unit: Unit::Share,
        digits: Digits::Fixed(1),
        eval_decimals: 2,
        better: Better::Higher,
        source: Source::Fidelity,
        required: false,
        pooling: Pooling::WholeText,
        place: Place::Beside,
        in_claims: true,
    },
];

// An item is found by its variant.
const _: () = {
    let mut at = 0;
    while at < COUNT {
        assert!(METRICS[at].metric as usize == at, "METRICS is in the order of Metric");
        at += 1;
    }
};

impl Metric {
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        METRICS.iter().map(|item| item.metric)
    }

    pub fn item(self) -> &'static Item {
        &METRICS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.item().name
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|metric| metric.name() == name)
    }

    /// The metrics of the table "Beside perplexity".
    pub fn beside() -> impl Iterator<Item = Self> + Clone {
        Self::all().filter(|metric| metric.item().place == Place::Beside)
    }

    /// The metrics that a claim may use.
    pub fn in_claims() -> impl Iterator<Item = Self> + Clone {
        Self::all().filter(|metric| metric.item().in_claims)
    }

    /// Whether it compares student and teacher rather than describing one model.
    pub fn is_fidelity(self) -> bool {
        matches!(self.item().source, Source::Fidelity)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Unit {
    /// The factor that values are multiplied by for display.
    pub fn factor(self) -> f64 {
        if self == Self::Share { 100.0 } else { 1.0 }
    }

    /// The sign after a number in a table, whose heading or note gives the rest of the unit.
    pub fn sign(self) -> &'static str {
        if self == Self::Share { "%" } else { "" }
    }
}

impl Better {
    pub fn word(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
        }
    }
}

/// A value for each metric; `None` where it was not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores([Option<f64>; COUNT]);

impl Scores {
    pub fn of(values: impl IntoIterator<Item = (Metric, f64)>) -> Self {
        let mut scores = Self::default();
        values.into_iter().for_each(|(metric, value)| scores[metric] = Some(value));
        scores
    }

    /// Adds the metrics that are computed from others.
    pub fn with_derived(mut self) -> Self {
        for item in &METRICS {
            if let Source::Derived(from) = item.source {
                self[item.metric] = from(&self);
            }
        }
        self
    }

    /// Overwrites the metrics that `other` has.
    pub fn extend(&mut self, other: &Self) {
        other.there().for_each(|(metric, value)| self[metric] = Some(value));
    }

    /// The measured metrics with their values, in the order of the table.
    pub fn there(&self) -> impl Iterator<Item = (Metric, f64)> {
        Metric::all().filter_map(|metric| Some((metric, self[metric]?)))
    }

    /// The value if it was measured and is finite, else NaN.
    pub fn finite(&self, metric: Metric) -> f64 {
        self[metric].filter(|value| value.is_finite()).unwrap_or(f64::NAN)
    }
}

impl Index<Metric> for Scores {
    type Output = Option<f64>;

    fn index(&self, metric: Metric) -> &Option<f64> {
        &self.0[metric as usize]
    }
}

impl IndexMut<Metric> for Scores {
    fn index_mut(&mut self, metric: Metric) -> &mut Option<f64> {
        &mut self.0[metric as usize]
    }
}

/// As fields of a journal's event.
impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (metric, value) in self.there() {
            map.serialize_entry(metric.name(), &number::Any(value))?;
        }
        map.end()
    }
}

/// From the fields of a journal's event; other fields are ignored.
impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Scores;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("numbers under the names of metrics")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scores, A::Error> {
                let mut scores = Scores::default();
                while let Some(name) = map.next_key::<String>()? {
                    match Metric::named(&name) {
                        Some(metric) => {
                            scores[metric] = Some(map.next_value::<Option<number::Any>>()?.map_or(f64::NAN, |number| number.0));
                        }
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(scores)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads the scores of an evaluation. An error if a required one is missing.
pub(super) fn of_evaluation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scores, D::Error> {
    let scores = Scores::deserialize(deserializer)?;
    let required = METRICS.iter().filter(|item| item.required && matches!(item.source, Source::Evaluation));
    match required.into_iter().find(|item| scores[item.metric].is_none()) {
        Some(item) => Err(D::Error::missing_field(item.name)),
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/frames.md");

    /// Oracle: the table itself. A test in `frames.rs` checks that each metric has a row.
    #[test]
    fn metrics_are_documented_with_their_meaning_and_direction() {
        for item in &METRICS {
            let begin = format!("| `{}` | f64 | {}; {} is better", item.name, item.meaning, item.better.word());
            assert!(PAGE.lines().any(|line| line.starts_with(&begin)), "docs/frames.md lacks a row that begins with\n{begin}");
        }
    }

    #[test]
    fn names_and_headings_of_metrics_are_unique() {
        let all = |of: fn(&Item) -> &'static str| METRICS.iter().map(of).collect::<Vec<_>>();
        for mut names in [all(|item| item.name), all(|item| item.heading), all(|item| item.short_heading)] {
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), METRICS.len());
        }
    }
}
