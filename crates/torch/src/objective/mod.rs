//! Loss functions and the fused output head. Every objective exists twice: as an f64 reference, and in the fast chunked head.
//!
//! Formulas, gradients and their sources are in docs/objectives.md; [`reference`] states the same in readable code.

pub mod case;
mod dense;
mod draw;
mod exchange;
pub mod head;
mod listed_ids;
mod logit_gradient;
pub mod predict;
pub mod reference;
pub mod rows;
pub mod shares;
pub mod targets;
mod terms;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// The loss of an arm: (1 − λ)·objective + λ·hard-ce, averaged over the target tokens of the global batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub objective: Objective,
    /// λ: the weight of cross-entropy on the labels, at temperature 1.
    pub lambda: f64,
    /// Whether value and gradient of the objective (not of the hard term) are multiplied by τ², as Hinton et al. 2015 suggest, so
    /// that the gradient keeps its magnitude when τ changes.
    pub temperature_squared: bool,
}

/// The loss of one token, given the student's logits and the targets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Objective {
    /// Cross-entropy on the label.
    HardCe {
        /// ε: the target is 1 − ε on the label plus ε/V on each of the V ids, the label included.
        #[serde(default, skip_serializing_if = "is_zero")]
        label_smoothing: f64,
    },
    /// Cross-entropy on the teacher's probabilities.
    SoftCe { tail: Tail, temperature: f64 },
    /// KL(teacher ‖ m) with m = α·teacher + (1 − α)·student. Without skew it is soft-ce minus the entropy of its target.
    KlForward {
        tail: Tail,
        temperature: f64,
        /// α, at least 0 and below 1.
        #[serde(default, skip_serializing_if = "is_zero")]
        skew: f64,
    },
    /// KL(student ‖ m) with m = (1 − α)·teacher + α·student.
    KlReverse {
        #[serde(default = "bucket", skip_serializing_if = "is_bucket")]
        tail: Tail,
        temperature: f64,
        /// α, at least 0 and below 1.
        #[serde(default, skip_serializing_if = "is_zero")]
        skew: f64,
    },
    /// A divergence estimated from one id per token, which the student itself has drawn from its softmax at this temperature: the id that
    /// the teacher lists, with its log-probability. Reported as `kl-reverse`.
    SampledKl { estimator: Estimator, temperature: f64 },
    /// β·KL(teacher ‖ m) + (1 − β)·KL(student ‖ m) with m = β·teacher + (1 − β)·student, over the same outcomes.
    Jsd { beta: f64, temperature: f64 },
    /// Squared difference from the teacher's logits. `centered` subtracts the mean over the compared ids from both sides;
    /// `mse_mean` divides by their number.
    LogitMse { centered: bool, mse_mean: bool },
    /// Squared difference from the teacher's logprobs.
    LogprobMse { mse_mean: bool, temperature: f64 },
}

/// How the teacher's mass R = 1 − M outside its top-k is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// Dropped: loss M·lse − Σ w u.
    Raw,
    /// metaseq's: reports the loss of `raw`, but descends along p − w.
    Metaseq,
    /// Dropped, and the teacher's k probabilities rescaled to sum to one.
    Renormalize,
    /// Dropped, and both sides rescaled to one over the k ids: the student's mass elsewhere is not penalised.
    DoubleRenormalize,
    /// One more outcome, "something else", on both sides.
    Bucket,
    /// Spread evenly over the other V − k ids.
    Uniform,
    /// There is none: the ids are draws from the whole distribution of the teacher, with unbiased weights that sum to one.
    Sampled,
}

/// An estimate of a KL from an id y that the student has drawn, with L = ln t(y) − ln s(y) of the teacher's t and the student's s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// Value −L; descends −L·∇ln s(y), the policy gradient of KL(student ‖ teacher): its value has no gradient of its own in expectation.
    K1,
    /// Value L²/2, and the gradient of that, which is the same.
    K2,
    /// Value e^L − 1 − L, and the gradient of that, which is that of KL(teacher ‖ student) in expectation.
    K3AsLoss,
}

impl Estimator {
    pub const ALL: [Estimator; 3] = [Estimator::K1, Estimator::K2, Estimator::K3AsLoss];

    pub fn name(self) -> &'static str {
        match self {
            Estimator::K1 => "k1",
            Estimator::K2 => "k2",
            Estimator::K3AsLoss => "k3-as-loss",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|estimator| estimator.name() == name)
    }
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

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn bucket() -> Tail {
    Tail::Bucket
}

fn is_bucket(tail: &Tail) -> bool {
    *tail == Tail::Bucket
}

impl Objective {
    /// Cross-entropy on the label, without smoothing.
    pub const HARD_CE: Objective = Objective::HardCe { label_smoothing: 0.0 };
    pub const NAMES: [&str; 7] = ["hard-ce", "soft-ce", "kl-forward", "kl-reverse", "jsd", "logit-mse", "logprob-mse"];

    pub fn name(self) -> &'static str {
        match self {
            Objective::HardCe { .. } => "hard-ce",
            Objective::SoftCe { .. } => "soft-ce",
            Objective::KlForward { .. } => "kl-forward",
            Objective::KlReverse { .. } | Objective::SampledKl { .. } => "kl-reverse",
            Objective::Jsd { .. } => "jsd",
            Objective::LogitMse { .. } => "logit-mse",
            Objective::LogprobMse { .. } => "logprob-mse",
        }
    }

    /// Whether the objective needs teacher targets.
    pub fn needs_teacher(self) -> bool {
        !matches!(self, Objective::HardCe { .. })
    }

    /// τ, if the objective has one.
    pub fn temperature(self) -> Option<f64> {
        match self {
            Objective::SoftCe { temperature, .. }
            | Objective::KlForward { temperature, .. }
            | Objective::KlReverse { temperature, .. }
            | Objective::SampledKl { temperature, .. }
            | Objective::Jsd { temperature, .. }
            | Objective::LogprobMse { temperature, .. } => Some(temperature),
            Objective::HardCe { .. } | Objective::LogitMse { .. } => None,
        }
    }

    /// The tail, if the objective has that setting.
    pub fn tail(self) -> Option<Tail> {
        match self {
            Objective::SoftCe { tail, .. } | Objective::KlForward { tail, .. } | Objective::KlReverse { tail, .. } => Some(tail),
            _ => None,
        }
    }

    /// ε of label smoothing; 0 for every objective on a teacher.
    pub fn label_smoothing(self) -> f64 {
        if let Objective::HardCe { label_smoothing } = self { label_smoothing } else { 0.0 }
    }

    /// α of the skewed divergences.
    pub fn skew(self) -> f64 {
        match self {
            Objective::KlForward { skew, .. } | Objective::KlReverse { skew, .. } => skew,
            _ => 0.0,
        }
    }

    /// The estimator, if the loss is estimated from ids that the student has drawn.
    pub fn estimator(self) -> Option<Estimator> {
        if let Objective::SampledKl { estimator, .. } = self { Some(estimator) } else { None }
    }

    /// Whether the gradient is that of the value.
    pub fn gradient_is_of_the_loss(self) -> bool {
        self.tail() != Some(Tail::Metaseq) && self.estimator() != Some(Estimator::K1)
    }

    /// Why the loss has no definition with its tail and skew, as a clause about the tail.
    pub fn undefined(self) -> Option<&'static str> {
        match self {
            Objective::KlForward { tail: Tail::Metaseq, .. } | Objective::KlReverse { tail: Tail::Metaseq, .. } => {
                Some("is metaseq's soft-ce, which is not a divergence; use it with soft-ce")
            }
            Objective::KlForward { tail: Tail::Sampled, skew, .. } if skew > 0.0 => Some(
                "gives draws, whose weights are unbiased only where the loss is linear in them, and with skew it is not; remove skew, or \
                 use \"bucket\"",
            ),
            Objective::KlReverse { tail: Tail::Sampled, .. } => Some(
                "gives draws of the teacher, but kl-reverse is a mean over ids of the student, most of which are not drawn; use \
                 \"bucket\"",
            ),
            Objective::KlReverse { tail: Tail::Renormalize, skew: 0.0, .. } => Some(
                "gives unlisted ids no mass, where kl-reverse is infinite; use \"double-renormalize\" or \"bucket\", or set skew above 0",
            ),
            _ => None,
        }
    }

    /// Whether the target gives every unlisted id the same mass, and the loss is linear in it.
    pub(crate) fn spreads_evenly(self) -> bool {
        self.label_smoothing() > 0.0 || self.tail() == Some(Tail::Uniform) && !self.spreads_over_all()
    }

    /// Whether the target gives every unlisted id the same mass, and the loss needs each of them separately.
    pub(crate) fn spreads_over_all(self) -> bool {
        self.tail() == Some(Tail::Uniform) && (self.skew() > 0.0 || matches!(self, Objective::KlReverse { .. }))
    }

    /// The minimum of the teacher's mass on "something else".
    pub(crate) fn min_tail_mass(self) -> f64 {
        if matches!(self, Objective::KlReverse { skew: 0.0, .. }) { MIN_TAIL_MASS } else { 0.0 }
    }

    /// Whether the objective compares logits rather than logprobs.
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
    /// The factor of the objective's value and gradient.
    pub fn objective_weight(&self) -> f64 {
        let temperature = self.objective.temperature().filter(|_| self.temperature_squared);
        (1.0 - self.hard_weight()) * temperature.map_or(1.0, |temperature| temperature.powi(2))
    }

    /// The factor of cross-entropy on the labels, added to the objective.
    pub fn hard_weight(&self) -> f64 {
        if self.objective.needs_teacher() { self.lambda } else { 0.0 }
    }
}

/// Temperatures at which losses and gradients of ordinary logits fit into f32.
pub const TEMPERATURES: RangeInclusive<f64> = 1e-6..=1e6;
/// The same range, for messages.
pub const TEMPERATURES_WORDS: &str = "a number from 1e-6 to 1e6";

/// The minimum weight of the teacher's "something else" in `kl-reverse` without skew, whose loss would be infinite without any: stored
/// logprobs are rounded, and a smaller remainder of their sum carries no information.
pub const MIN_TAIL_MASS: f64 = 1e-6;
