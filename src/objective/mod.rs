//! How far apart student and teacher are: every objective once as an f64 reference, once fast in the chunked head.

pub mod head;
pub mod reference;
pub mod targets;

use serde::{Deserialize, Serialize};

/// What an arm minimises. Formulas and gradients stand in [`reference`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Objective {
    /// Cross-entropy on the labels.
    HardCe,
    /// Cross-entropy on the teacher's top-k probabilities.
    SoftCe { tail: Tail, temperature: f64 },
    /// Squared difference of the teacher's top-k logits. `centered` removes the mean over the k ids from both sides;
    /// `mse_mean` divides by k.
    LogitMse { centered: bool, mse_mean: bool },
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
    /// One more outcome, "something else", on both sides.
    Bucket,
    /// Spread evenly over the other V − k ids.
    Uniform,
}

impl Tail {
    pub const ALL: [Tail; 5] = [Tail::Raw, Tail::Metaseq, Tail::Renormalize, Tail::Bucket, Tail::Uniform];

    pub fn name(self) -> &'static str {
        match self {
            Tail::Raw => "raw",
            Tail::Metaseq => "metaseq",
            Tail::Renormalize => "renormalize",
            Tail::Bucket => "bucket",
            Tail::Uniform => "uniform",
        }
    }
}

impl Objective {
    pub fn needs_teacher(self) -> bool {
        self != Objective::HardCe
    }
}
