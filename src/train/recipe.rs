//! A run's recipe: everything that would change its numbers, resolved, and nothing else.
//!
//! Paths, device, parallelism and names are not part of it; they belong to execution and display. The hash of a recipe is its
//! identity.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::identity::identity;
use hydrometer_data::batch::DataView;
use hydrometer_data::recipe::DataRecipe;
use hydrometer_torch::model::config::ModelConfig;
use hydrometer_torch::model::{Precision, hf};
use hydrometer_torch::objective::Loss;
use serde::{Deserialize, Serialize};

use crate::eval::writing::WritingModel;
use crate::teacher::recipe::{EndpointRecipe, RecordedRecipe};

/// AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerRecipe {
    /// Peak learning rate.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled; on matrices only.
    pub weight_decay: f64,
    /// Maximum gradient norm; 0 disables clipping.
    pub clip: f64,
    /// Fraction of the updates over which the learning rate rises linearly.
    pub warmup: f64,
    /// The learning rate at the end, as a fraction of the peak.
    pub final_lr: f64,
}

/// When and on what a run is evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecipe {
    /// Target tokens between evaluations; the end of the run is always evaluated.
    pub every: u64,
    /// Split name.
    pub on: String,
}

/// The teacher in a student's recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherRecipe {
    /// How the teacher itself is trained, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<Box<TrainRecipe>>,
    /// Where its logprobs come from, if they are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedRecipe>,
    /// The endpoint that it is behind, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointRecipe>,
    /// Number of targets stored per token.
    pub top_k: usize,
}

/// A checkpoint that training starts from, identified by its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRecipe {
    /// See [`hf::Checkpoint::content`].
    pub content: String,
    /// The blocks that are kept, in this order; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

impl StartRecipe {
    /// Opens the checkpoint in `folder`, without the blocks that are not kept.
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
    /// The checkpoint that training starts from; `None` for random weights. A recipe of 0 tokens is the checkpoint itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartRecipe>,
    pub loss: Loss,
    pub teacher: Option<TeacherRecipe>,
    /// Number of target tokens to train on, exactly.
    pub tokens: u64,
    /// Number of target tokens per update, exactly (the last update takes the rest).
    pub batch: u64,
    pub optimizer: OptimizerRecipe,
    /// RNG seed of the initial weights and the order of the data.
    pub seed: u64,
    pub precision: Precision,
    pub eval: EvalRecipe,
    /// The experiment's `revision`.
    pub revision: String,
}

impl TrainRecipe {
    /// What generation needs to know of the model.
    pub fn writing(&self) -> WritingModel<'_> {
        let examples = self.data.examples.as_ref();
        WritingModel { vocab_size: self.model.vocab_size, context: self.data.context, examples, seed: self.seed }
    }

    /// What it sees of its data.
    pub fn view(&self) -> DataView {
        DataView { tokens: self.tokens, batch: self.batch, seed: self.seed }
    }

    /// Whether this is an unmodified checkpoint, without any training.
    pub fn is_untrained(&self) -> bool {
        self.tokens == 0
    }

    /// The identity of the teacher targets of this run's final weights. Those of an untrained checkpoint depend on the checkpoint
    /// and the precision alone.
    pub fn answers_identity(&self) -> String {
        match (&self.start, self.tokens) {
            (Some(start), 0) => checkpoint_identity(start, self.precision),
            _ => identity(self),
        }
    }

    /// Number of optimizer updates.
    pub fn updates(&self) -> u64 {
        self.tokens.div_ceil(self.batch)
    }

    /// FLOPs of training: see [`ModelConfig::train_flops_per_token`].
    pub fn train_flops(&self) -> f64 {
        self.tokens as f64 * self.model.train_flops_per_token(self.data.context)
    }

    /// FLOPs of this run's teacher: its training, and one forward pass over this run's targets. Recorded logprobs and those of an
    /// endpoint count as 0.
    pub fn teacher_flops(&self) -> f64 {
        self.teacher.as_ref().and_then(|teacher| teacher.trained.as_ref()).map_or(0.0, |trained| {
            let forward = trained.model.forward_flops_per_token(self.data.context);
            trained.train_flops() + self.tokens as f64 * forward
        })
    }
}

/// The identity of the teacher targets of a checkpoint.
pub fn checkpoint_identity(start: &StartRecipe, precision: Precision) -> String {
    identity(&(start, precision))
}
