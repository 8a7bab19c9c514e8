//! What a claim may measure of an arm: a metric of its last evaluation, or a task's score.

use hydrometer_base::suggest::unknown;
use hydrometer_record::metric::{Metric, Pooling, Unit};
use hydrometer_score::Score;

use crate::metrics::metric_mean;
use crate::scores;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    Metric(Metric),
    Score { score: Score, task: String },
}

/// What the items are that a measure varies over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Items<'a> {
    /// The documents of the held-out text.
    Documents,
    /// The prompts of the task.
    Prompts(&'a str),
    /// None: it is known for the whole text only.
    None,
}

impl Measure {
    /// The measure called `name` in an expression; a score still lacks its task. The error is a clause with a suggestion.
    pub fn named(name: &str) -> Result<Self, String> {
        if let Some(metric) = Metric::in_claims().find(|metric| metric.name() == name) {
            return Ok(Self::Metric(metric));
        }
        if let Some(score) = Score::of_identifier(name) {
            return Ok(Self::Score { score, task: String::new() });
        }
        let pass = Score::PassAt { k: 4, by: hydrometer_score::Criterion::Exact };
        let scores = Score::NAMED.into_iter().chain([pass]).map(Score::identifier);
        let known: Vec<String> = Metric::in_claims().map(|metric| metric.name().to_string()).chain(scores).collect();
        Err(unknown("metric", name, &known.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Its name in an expression.
    pub fn name(&self) -> String {
        match self {
            Self::Metric(metric) => metric.name().to_string(),
            Self::Score { score, .. } => score.identifier(),
        }
    }

    /// Its name in a sentence: `perplexity`, `sums exact-match`.
    pub fn heading(&self) -> String {
        match self {
            Self::Metric(metric) => metric.item().heading.to_string(),
            Self::Score { score, task } => format!("{task} {}", score.name()),
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Self::Metric(metric) => metric.item().unit,
            Self::Score { score, .. } => scores::unit(*score),
        }
    }

    /// A value with its decimals and unit.
    pub fn text(&self, value: f64) -> String {
        match self {
            Self::Metric(metric) => metric_mean(*metric, value),
            Self::Score { score, .. } => scores::value(*score, value),
        }
    }

    pub fn items(&self) -> Items<'_> {
        match self {
            Self::Metric(metric) => match metric.item().pooling {
                Pooling::Documents(_) => Items::Documents,
                Pooling::WholeText => Items::None,
            },
            Self::Score { task, .. } => Items::Prompts(task),
        }
    }

    /// Whether logarithms of its values may be compared. A score can be 0 for a whole run.
    pub fn has_logarithm(&self) -> bool {
        matches!(self, Self::Metric(_))
    }
}
