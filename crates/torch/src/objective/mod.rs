//! How far apart student and teacher are: every objective once as an f64 reference, once fast in the chunked head.
//!
//! Formulas, gradients and their sources stand in docs/objectives.md; [`reference`] says the same in code that can be read.

pub mod case;
mod draw;
mod exchange;
pub mod head;
mod kernels;
mod listed_ids;
pub mod predict;
pub mod reference;
mod rows;
pub mod targets;
mod terms;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// What an arm minimises: (1 − λ)·objective + λ·hard-ce, meant over the target tokens of the global batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub objective: Objective,
    /// λ: the weight of cross-entropy on the labels, at temperature 1.
    pub lambda: f64,
    /// Whether value and gradient of the objective (not of the hard term) are multiplied by τ², as Hinton et al. 2015
    /// suggest, so that the gradient keeps its size when τ changes.
    pub temperature_squared: bool,
}

/// How a student is compared with its targets, of one token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Objective {
    /// Cross-entropy on the label.
    HardCe,
    /// Cross-entropy on the teacher's probabilities.
    SoftCe { tail: Tail, temperature: f64 },
    /// KL(teacher ‖ student): soft-ce less the entropy of what it compares with.
    KlForward { tail: Tail, temperature: f64 },
    /// KL(student ‖ teacher), on the teacher's ids and one more outcome, "something else".
    KlReverse { temperature: f64 },
    /// β·KL(teacher ‖ m) + (1 − β)·KL(student ‖ m) with m = β·teacher + (1 − β)·student, on the same outcomes.
    Jsd { beta: f64, temperature: f64 },
    /// Squared difference of the teacher's logits. `centered` removes the mean over the ids compared from both sides;
    /// `mse_mean` divides by their number.
    LogitMse { centered: bool, mse_mean: bool },
    /// Squared difference of the log-probabilities.
    LogprobMse { mse_mean: bool, temperature: f64 },
}

/// What becomes of the teacher's mass R = 1 − M outside its top-k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// Dropped: loss M·lse − Σ w u.
    Raw,
    /// The seed's: logs `raw`, descends along p − w.
    Metaseq,
    /// Dropped, and the rest scaled to one.
    Renormalize,
    /// Dropped, and both sides scaled to one over the k ids: the student's mass elsewhere is not penalised.
    DoubleRenormalize,
    /// One more outcome, "something else", on both sides.
    Bucket,
    /// Spread evenly over the other V − k ids.
    Uniform,
    /// None is left: the ids are draws from the whole teacher, their weights unbiased and of sum one.
    Sampled,
}

impl Tail {
    pub const ALL: [Tail; 7] =
        [Tail::Raw, Tail::Metaseq, Tail::Renormalize, Tail::DoubleRenormalize, Tail::Bucket, Tail::Uniform, Tail::Sampled];

    pub fn name(self) -> &'static str {
        match self {
            Tail::Raw => "raw",
            Tail::Metaseq => "metaseq",
            Tail::Renormalize => "renormalize",
            Tail::DoubleRenormalize => "double-renormalize",
            Tail::Bucket => "bucket",
            Tail::Uniform => "uniform",
            Tail::Sampled => "sampled",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tail| tail.name() == name)
    }
}

impl Objective {
    pub const NAMES: [&str; 7] = ["hard-ce", "soft-ce", "kl-forward", "kl-reverse", "jsd", "logit-mse", "logprob-mse"];

    pub fn name(self) -> &'static str {
        match self {
            Objective::HardCe => "hard-ce",
            Objective::SoftCe { .. } => "soft-ce",
            Objective::KlForward { .. } => "kl-forward",
            Objective::KlReverse { .. } => "kl-reverse",
            Objective::Jsd { .. } => "jsd",
            Objective::LogitMse { .. } => "logit-mse",
            Objective::LogprobMse { .. } => "logprob-mse",
        }
    }

    pub fn needs_teacher(self) -> bool {
        self != Objective::HardCe
    }

    /// τ, where the objective has one.
    pub fn temperature(self) -> Option<f64> {
        match self {
            Objective::SoftCe { temperature, .. }
            | Objective::KlForward { temperature, .. }
            | Objective::KlReverse { temperature }
            | Objective::Jsd { temperature, .. }
            | Objective::LogprobMse { temperature, .. } => Some(temperature),
            Objective::HardCe | Objective::LogitMse { .. } => None,
        }
    }

    /// The tail, where the objective has a choice of one.
    pub fn tail(self) -> Option<Tail> {
        match self {
            Objective::SoftCe { tail, .. } | Objective::KlForward { tail, .. } => Some(tail),
            _ => None,
        }
    }

    /// Whether the teacher's logits are compared, rather than its log-probabilities.
    pub fn compares_logits(self) -> bool {
        matches!(self, Objective::LogitMse { .. })
    }
}

impl From<Objective> for Loss {
    fn from(objective: Objective) -> Self {
        Self { objective, lambda: 0.0, temperature_squared: false }
    }
}

impl Loss {
    /// What the objective's value and gradient are multiplied by.
    pub fn objective_weight(&self) -> f64 {
        let temperature = self.objective.temperature().filter(|_| self.temperature_squared);
        (1.0 - self.hard_weight()) * temperature.map_or(1.0, |temperature| temperature.powi(2))
    }

    /// What cross-entropy on the labels is multiplied by, beside the objective.
    pub fn hard_weight(&self) -> f64 {
        if self.objective == Objective::HardCe { 0.0 } else { self.lambda }
    }
}

/// Temperatures at which losses and gradients of ordinary logits fit single precision.
pub const TEMPERATURES: RangeInclusive<f64> = 1e-6..=1e6;
/// The same in words.
pub const TEMPERATURES_WORDS: &str = "a number from 1e-6 to 1e6";

/// The least weight that the teacher's "something else" has in `kl-reverse`, where none would make the loss infinite: cached
/// log-probabilities are rounded, and their sum does not tell less.
pub const MIN_TAIL_MASS: f64 = 1e-6;
