//! A run's recipe: everything that would change its numbers, resolved, and nothing else.
//!
//! Paths, device, parallelism and names are not in it; they are execution and display. The hash of a recipe is its identity.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::identity::identity;
use hydrometer_data::batch::DataView;
use hydrometer_data::recipe::DataRecipe;
use hydrometer_torch::model::config::ModelConfig;
use hydrometer_torch::model::{Precision, hf};
use hydrometer_torch::objective::Loss;
use serde::{Deserialize, Serialize};

use crate::teacher::recipe::{EndpointRecipe, RecordedRecipe};

/// AdamW (Loshchilov & Hutter 2019) under linear warm-up and cosine decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerRecipe {
    /// Peak learning rate.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled, on matrices only.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 never clips.
    pub clip: f64,
    /// Fraction of the updates over which the learning rate rises linearly.
    pub warmup: f64,
    /// The learning rate at the end, as a fraction of the peak.
    pub final_lr: f64,
}

/// When and on what a run is evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecipe {
    /// Target tokens between evaluations; the end is always evaluated.
    pub every: u64,
    /// Split name.
    pub on: String,
}

/// The teacher's part in a student's recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherRecipe {
    /// How the teacher itself is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<Box<TrainRecipe>>,
    /// Where its answers come from, if they are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedRecipe>,
    /// Whom it is asked of, if it is behind an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRecipe>,
    /// Targets kept per token.
    pub top_k: usize,
}

/// A checkpoint that training starts from, by its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRecipe {
    /// See [`hf::Checkpoint::content`].
    pub content: String,
    /// Its blocks that are kept, in this order; all where there is no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

impl StartRecipe {
    /// The checkpoint in `folder`, less the blocks that are not kept.
    pub fn open(&self, folder: &Path) -> Result<hf::Checkpoint> {
        let whole = hf::open(folder)?;
        match &self.layers {
            Some(layers) => whole.keep_layers(layers),
            None => Ok(whole),
        }
    }
}

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRecipe {
    pub data: DataRecipe,
    pub model: ModelConfig,
    /// Where training starts; from random weights, where this is absent. A recipe of no tokens is the checkpoint itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartRecipe>,
    pub loss: Loss,
    pub teacher: Option<TeacherRecipe>,
    /// Target tokens to train on, exactly.
    pub tokens: u64,
    /// Target tokens per update, exactly (the last update takes what is left).
    pub batch: u64,
    pub optimizer: OptimizerRecipe,
    /// Initial weights and order of the data.
    pub seed: u64,
    pub precision: Precision,
    pub eval: EvalRecipe,
    /// The experiment's `revision`.
    pub revision: String,
}

impl TrainRecipe {
    /// What it sees of its data.
    pub fn view(&self) -> DataView {
        DataView { tokens: self.tokens, batch: self.batch, seed: self.seed }
    }

    /// Whether this is a checkpoint as it lies, not trained any further.
    pub fn is_untrained(&self) -> bool {
        self.tokens == 0
    }

    /// What the answers of this run's final weights are known by: those of a checkpoint that is not trained do not depend on
    /// anything else.
    pub fn answers_identity(&self) -> String {
        match (&self.start, self.tokens) {
            (Some(start), 0) => checkpoint_identity(start, self.precision),
            _ => identity(self),
        }
    }

    pub fn updates(&self) -> u64 {
        self.tokens.div_ceil(self.batch)
    }

    /// FLOPs of training: see [`ModelConfig::train_flops_per_token`].
    pub fn train_flops(&self) -> f64 {
        self.tokens as f64 * self.model.train_flops_per_token(self.data.context)
    }

    /// FLOPs of the teacher behind this run: its training, and one forward pass over this run's targets. Recorded answers, and
    /// those of an endpoint, cost none here.
    pub fn teacher_flops(&self) -> f64 {
        self.teacher.as_ref().and_then(|teacher| teacher.trained.as_ref()).map_or(0.0, |trained| {
            let forward = trained.model.forward_flops_per_token(self.data.context);
            trained.train_flops() + self.tokens as f64 * forward
        })
    }
}

/// What the answers of a checkpoint are known by.
pub fn checkpoint_identity(start: &StartRecipe, precision: Precision) -> String {
    identity(&(start, precision))
}
