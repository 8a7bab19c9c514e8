//! The scores of a task by name, and the value of each for one prompt.

use std::fmt;

use hydrometer_base::suggest::unknown;
use hydrometer_base::text::quoted;
use serde::{Deserialize, Serialize};

use crate::answer::Criterion;
use crate::distinct::distinct;
use crate::pass::pass_at_k;
use crate::rouge::Rouge;

/// Largest k of pass@k.
const K_MAX: usize = 10_000;

/// What is measured on the samples of a prompt. A higher value is better, except for `Truncated`, `TeacherNll` and `ExposureBias`.
/// Serialized as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Score {
    /// The share of samples that are correct.
    Correct(Criterion),
    /// The probability that at least one of `k` samples is correct.
    PassAt { k: usize, by: Criterion },
    /// F of the overlap with the best reference, averaged over the samples.
    Rouge(Rouge),
    /// Different unigrams of all samples, per word.
    Distinct1,
    /// Different bigrams of all samples, per word.
    Distinct2,
    /// The share of samples that reached the limit of new tokens.
    Truncated,
    /// The teacher's NLL per token of what was written. A model computes it.
    TeacherNll,
    /// Excess accumulated error (ExAccErr) of free-running against teacher-forced text. A model computes it.
    ExposureBias,
}

/// One completion of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    pub text: &'a str,
    /// Whether it ended at the limit of new tokens instead of an end token or stop string.
    pub truncated: bool,
}

/// Why a prompt has no value of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscored {
    NoSamples,
    NoReferences,
    FewerSamplesThanK,
    NeedsModel,
}

impl fmt::Display for Unscored {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::NoSamples => "the prompt has no samples",
            Self::NoReferences => "the prompt has no references",
            Self::FewerSamplesThanK => "the prompt has fewer samples than k",
            Self::NeedsModel => "the score needs a model",
        })
    }
}

impl std::error::Error for Unscored {}

impl From<Score> for String {
    fn from(score: Score) -> Self {
        score.name()
    }
}

impl TryFrom<String> for Score {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
    }
}

impl Score {
    /// The scores with fixed names: all but pass@k.
    pub const NAMED: [Self; 11] = [
        Self::Correct(Criterion::Exact),
        Self::Correct(Criterion::FirstNumber),
        Self::Correct(Criterion::LastNumber),
        // First, so that it is suggested for `rougeL`.
        Self::Rouge(Rouge::LongestSubsequence),
        Self::Rouge(Rouge::Unigrams),
        Self::Rouge(Rouge::Bigrams),
        Self::Distinct1,
        Self::Distinct2,
        Self::Truncated,
        Self::TeacherNll,
        Self::ExposureBias,
    ];

    /// The score called `name`: `exact-match`, `pass@4`, `pass@4-number-last`, ... The error is a clause with a suggestion.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(score) = Self::NAMED.into_iter().find(|score| score.name() == name) {
            return Ok(score);
        }
        match name.strip_prefix("pass@") {
            Some(rest) => pass_at(name, rest),
            None => {
                let known = known(name);
                Err(unknown("score", name, &known.iter().map(String::as_str).collect::<Vec<_>>()))
            }
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::Correct(criterion) => criterion.name().to_string(),
            Self::PassAt { k, by: Criterion::Exact } => format!("pass@{k}"),
            Self::PassAt { k, by } => format!("pass@{k}-{}", by.name()),
            Self::Rouge(rouge) => rouge.name().to_string(),
            Self::Distinct1 => "distinct-1".to_string(),
            Self::Distinct2 => "distinct-2".to_string(),
            Self::Truncated => "truncated".to_string(),
            Self::TeacherNll => "teacher-nll".to_string(),
            Self::ExposureBias => "exposure-bias".to_string(),
        }
    }

    /// The name as an identifier of a claim's expression: `exact_match`, `pass_at_4`.
    pub fn identifier(self) -> String {
        self.name().replace('@', "_at_").replace('-', "_")
    }

    /// The score with this [`identifier`](Self::identifier).
    pub fn of_identifier(identifier: &str) -> Option<Self> {
        let named = Self::NAMED.into_iter().find(|score| score.identifier() == identifier);
        let pass = || Self::parse(&format!("pass@{}", identifier.strip_prefix("pass_at_")?.replace('_', "-"))).ok();
        named.or_else(pass).filter(|score| score.identifier() == identifier)
    }

    /// Whether a lower value is better.
    pub fn is_better_lower(self) -> bool {
        matches!(self, Self::Truncated | Self::TeacherNll | Self::ExposureBias)
    }

    /// Whether `value` can be a value of it.
    pub fn can_be(self, value: f64) -> bool {
        match self {
            Self::ExposureBias => value.is_finite(),
            Self::TeacherNll => value.is_finite() && value >= 0.0,
            _ => (0.0..=1.0).contains(&value),
        }
    }

    /// Whether its value depends on references.
    pub fn needs_references(self) -> bool {
        matches!(self, Self::Correct(_) | Self::PassAt { .. } | Self::Rouge(_) | Self::ExposureBias)
    }

    /// Whether a model computes it; [`Score::value`] cannot.
    pub fn needs_model(self) -> bool {
        matches!(self, Self::TeacherNll | Self::ExposureBias)
    }

    /// The smallest number of samples per prompt that it needs.
    pub fn samples(self) -> usize {
        if let Self::PassAt { k, .. } = self { k } else { 1 }
    }

    /// How answers are compared with references, if they are.
    pub fn criterion(self) -> Option<Criterion> {
        match self {
            Self::Correct(criterion) | Self::PassAt { by: criterion, .. } => Some(criterion),
            _ => None,
        }
    }

    /// An error if no answer could agree with `reference`; it is a clause that says why.
    pub fn check_reference(self, reference: &str) -> Result<(), String> {
        match self.criterion().is_none_or(|criterion| criterion.applies_to(reference)) {
            true => Ok(()),
            false => Err(format!("{} compares numbers, but the reference {} has none", self.name(), quoted(reference))),
        }
    }

    /// The value of a prompt with these samples and references.
    pub fn value(self, samples: &[Sample], references: &[&str]) -> Result<f64, Unscored> {
        if self.needs_model() {
            return Err(Unscored::NeedsModel);
        }
        if samples.is_empty() {
            return Err(Unscored::NoSamples);
        }
        if self.needs_references() && references.is_empty() {
            return Err(Unscored::NoReferences);
        }
        let correct =
            |criterion: Criterion| samples.iter().filter(|sample| criterion.accepts_any(sample.text, references)).count();
        let count = samples.len() as f64;
        let texts = || samples.iter().map(|sample| sample.text).collect::<Vec<_>>();
        match self {
            Self::Correct(criterion) => Ok(correct(criterion) as f64 / count),
            Self::PassAt { k, by } => pass_at_k(samples.len(), correct(by), k).ok_or(Unscored::FewerSamplesThanK),
            Self::Rouge(rouge) => Ok(samples.iter().map(|sample| rouge.best(sample.text, references).f).sum::<f64>() / count),
            Self::Distinct1 => Ok(distinct(&texts(), 1)),
            Self::Distinct2 => Ok(distinct(&texts(), 2)),
            Self::Truncated => Ok(samples.iter().filter(|sample| sample.truncated).count() as f64 / count),
            Self::TeacherNll | Self::ExposureBias => Err(Unscored::NeedsModel),
        }
    }
}

/// The pass@k of `name`, which has `rest` after the `@`: `4`, or `4-number-last`.
fn pass_at(name: &str, rest: &str) -> Result<Score, String> {
    let (count, criterion) = rest.split_once('-').map_or((rest, None), |(count, by)| (count, Some(by)));
    let k = count.parse().ok().filter(|k| (1..=K_MAX).contains(k) && count.bytes().all(|byte| byte.is_ascii_digit()));
    let k = k.ok_or_else(|| format!("{} needs a whole number from 1 to {K_MAX} after the @, e.g. \"pass@4\"", quoted(name)))?;
    let by = match criterion {
        None => Criterion::Exact,
        Some(by) => {
            Criterion::named(by).ok_or_else(|| unknown("criterion of pass@k", by, &Criterion::ALL.map(Criterion::name)))?
        }
    };
    Ok(Score::PassAt { k, by })
}

/// Names to suggest for `name`: those of all scores, and pass@k with its own k if it has one.
fn known(name: &str) -> Vec<String> {
    let own = name.split_once('@').map(|(_, rest)| format!("pass@{rest}")).filter(|pass| Score::parse(pass).is_ok());
    let mut names = Score::NAMED.map(Score::name).to_vec();
    names.insert(3, own.unwrap_or_else(|| "pass@4".to_string()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples<'a>(texts: &[&'a str]) -> Vec<Sample<'a>> {
        texts.iter().map(|text| Sample { text, truncated: text.ends_with('-') }).collect()
    }

    #[test]
    fn every_score_is_parsed_from_its_name() {
        let names = "exact-match number-first number-last pass@4 pass@1 pass@16-number-last pass@2-number-first rouge-1 rouge-2 \
                     rouge-l distinct-1 distinct-2 truncated teacher-nll exposure-bias";
        for name in names.split(' ') {
            assert_eq!(Score::parse(name).unwrap().name(), name);
        }
        assert_eq!(Score::parse("pass@4-exact-match").unwrap().name(), "pass@4");
        assert_eq!(Score::parse("pass@4-number-last").unwrap().identifier(), "pass_at_4_number_last");
        assert_eq!(Score::parse("rouge-l").unwrap().identifier(), "rouge_l");
        for name in names.split(' ') {
            let score = Score::parse(name).unwrap();
            assert_eq!(Score::of_identifier(&score.identifier()), Some(score));
        }
        for wrong in ["exact-match", "pass_at_", "pass_at_0", "pass_at_4_exact_match", "pass@4", "nll"] {
            assert_eq!(Score::of_identifier(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_outside_the_range_of_a_score_are_recognized() {
        let can_be = |name: &str, value: f64| Score::parse(name).unwrap().can_be(value);
        assert!(
            can_be("exact-match", 0.0) && can_be("pass@4", 1.0) && can_be("teacher-nll", 7.5) && can_be("exposure-bias", -0.1)
        );
        assert!(!can_be("exact-match", 1.1) && !can_be("rouge-l", -0.1) && !can_be("distinct-1", f64::NAN));
        assert!(!can_be("teacher-nll", -1.0) && !can_be("teacher-nll", f64::INFINITY));
    }

    #[test]
    fn misspelt_names_get_a_suggestion() {
        let cases = [
            ("exact_match", "unknown score \"exact_match\"; did you mean \"exact-match\"?"),
            ("pas@8", "unknown score \"pas@8\"; did you mean \"pass@8\"?"),
            (
                "pass-at-4",
                "unknown score \"pass-at-4\"; known are exact-match, number-first, number-last, pass@4, rouge-l, rouge-1, \
              rouge-2, distinct-1, distinct-2, truncated, teacher-nll, exposure-bias",
            ),
            ("rougeL", "unknown score \"rougeL\"; did you mean \"rouge-l\"?"),
            ("pass@", "\"pass@\" needs a whole number from 1 to 10000 after the @, e.g. \"pass@4\""),
            ("pass@0", "\"pass@0\" needs a whole number from 1 to 10000 after the @, e.g. \"pass@4\""),
            ("pass@+4", "\"pass@+4\" needs a whole number from 1 to 10000 after the @, e.g. \"pass@4\""),
            ("pass@4-number", "unknown criterion of pass@k \"number\"; known are exact-match, number-first, number-last"),
        ];
        for (name, wanted) in cases {
            assert_eq!(Score::parse(name).unwrap_err(), wanted);
        }
    }

    /// Oracle: computed by hand from the definitions in docs/scores.md.
    #[test]
    fn a_prompt_has_one_value_of_each_score() {
        let four = samples(&["7", "8", " 7\n", "it is 7 or 9-"]);
        let cases = [
            ("exact-match", 2.0 / 4.0),
            ("number-first", 3.0 / 4.0),
            ("number-last", 2.0 / 4.0),
            ("pass@1", 2.0 / 4.0),
            // Of the 6 pairs, one has no correct sample.
            ("pass@2", 5.0 / 6.0),
            ("pass@4", 1.0),
            ("pass@2-number-first", 1.0),
            // F is 1, 0, 1, and 1/3 (precision 1/5, recall 1).
            ("rouge-1", (1.0 + 1.0 + 1.0 / 3.0) / 4.0),
            ("rouge-2", 0.0),
            ("rouge-l", (1.0 + 1.0 + 1.0 / 3.0) / 4.0),
            // 8 words: 7, 8, it, is, or, 9-; the pairs of the last.
            ("distinct-1", 6.0 / 8.0),
            ("distinct-2", 4.0 / 8.0),
            ("truncated", 1.0 / 4.0),
        ];
        for (name, wanted) in cases {
            let found = Score::parse(name).unwrap().value(&four, &["7"]).unwrap();
            assert!((found - wanted).abs() < 1e-12, "{name}: {found}, wanted {wanted}");
        }
        let either = Score::parse("exact-match").unwrap().value(&four, &["7", "8"]);
        assert_eq!(either, Ok(3.0 / 4.0), "any reference");
    }

    #[test]
    fn what_has_no_value_says_why() {
        let one = samples(&["7"]);
        let value = |name: &str, samples: &[Sample], references: &[&str]| Score::parse(name).unwrap().value(samples, references);
        assert_eq!(value("pass@2", &one, &["7"]), Err(Unscored::FewerSamplesThanK));
        assert_eq!(value("exact-match", &one, &[]), Err(Unscored::NoReferences));
        assert_eq!(value("rouge-1", &[], &["7"]), Err(Unscored::NoSamples));
        assert_eq!(value("teacher-nll", &one, &["7"]), Err(Unscored::NeedsModel));
        assert_eq!(value("distinct-1", &one, &[]), Ok(1.0));
        assert!(Score::parse("number-last").unwrap().check_reference("seven").is_err());
        assert!(Score::parse("number-last").unwrap().check_reference("7").is_ok());
    }
}
