//! A run's recipe: everything that would change its numbers, resolved, and nothing else.
//!
//! Paths, device, parallelism and names are not in it; they are execution and display. The hash of a recipe is its identity.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::data::format::{Format, Keys};
use crate::model::config::ModelConfig;
use crate::model::hf;
use crate::objective::Loss;
use crate::record::store::sha256_hex;

/// What a run reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecipe {
    /// Split name (`train`, `valid`, `test`) to the SHA-256 of the file's content as stored.
    pub content: BTreeMap<String, String>,
    pub tokenizer: TokenizerRecipe,
    /// Longest sequence in tokens; documents are cut into sequences of at most this length.
    pub context: usize,
    /// How lines become examples, where they are no plain documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<ExampleRecipe>,
    /// How the sequences of a batch lie in its rows, in training.
    #[serde(default, skip_serializing_if = "Packing::is_none")]
    pub packing: Packing,
}

impl DataRecipe {
    /// The same, a sequence a row: what tokens and sequences are known by, and all that follows from them without training.
    pub fn unpacked(&self) -> Self {
        Self { packing: Packing::None, ..self.clone() }
    }
}

/// How a line becomes an example: a source to read, a target to predict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleRecipe {
    pub format: Format,
    pub keys: Keys,
    /// Text between source and target; it is read, not predicted.
    pub prompt_eos: String,
    pub truncation: Truncation,
    /// What a target longer than the context is cut to, as a share of the context.
    pub target_budget: f64,
    pub eos: Eos,
    /// The token that ends a text, where the tokenizer has it by an unusual name.
    pub eos_token: Option<String>,
    /// The ids that end a text, the one to append first, where the checkpoint's files name others than the token by a usual name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<u32>,
    pub input: Input,
}

macro_rules! choice {
    ($(#[$meta:meta])* $choice:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $choice { $($(#[$variant_meta])* #[serde(rename = $name)] $variant),* }
        impl $choice {
            pub const NAMES: &[&str] = &[$($name),*];

            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

choice! {
    /// What shares a row of a batch.
    #[derive(Default)]
    Packing {
        /// Nothing: a sequence a row, the shorter ones padded.
        #[default]
        None = "none",
        /// Sequences, of one document or several, as many as the context has room for; each is read by itself.
        Documents = "documents",
    }
}

impl Packing {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

choice! {
    /// Where a source that does not fit is cut.
    Truncation {
        Left = "left",
        Right = "right",
        /// Nowhere: it is an error.
        None = "none",
    }
}

choice! {
    /// The token that ends a text, after a target.
    Eos {
        /// Added unless it is there or the target was cut.
        Once = "once",
        /// Always added, as the seed does.
        Append = "append",
        None = "none",
    }
}

choice! {
    /// What a student reads of a target whose teacher's answers are recorded, and what hard labels are.
    Input {
        /// The tokens that the teacher went on from.
        Sampled = "sampled",
        /// The likeliest token of each row, as the seed does: not what the teacher has read.
        TeacherArgmax = "teacher-argmax",
    }
}

choice! {
    /// As what an endpoint is sent what it is to judge.
    Sent {
        /// Documents as text: the teacher reads a document whole.
        Text = "text",
        /// Sequences as ids: the teacher reads what the student does.
        Tokens = "tokens",
    }
}

choice! {
    /// Of which token a row of answers to an echoed prompt tells.
    EchoRows {
        /// The one that it stands beside.
        Own = "own",
        /// The one that follows: llama-cpp-python, where nothing is put before a text.
        Next = "next",
    }
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerRecipe {
    /// A byte-level BPE of this vocabulary size (special tokens included), trained on the train split.
    Bpe { vocab_size: usize },
    /// A `tokenizer.json` with this SHA-256 and vocabulary size.
    File { sha256: String, vocab_size: usize },
}

impl TokenizerRecipe {
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bpe { vocab_size } | Self::File { vocab_size, .. } => *vocab_size,
        }
    }
}

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

/// Number format of weights and activations in forward and backward; masters and optimizer are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    Bf16,
}

impl Precision {
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::F32 => tch::Kind::Float,
            Self::Bf16 => tch::Kind::BFloat16,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
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

/// A file of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedRecipe {
    /// SHA-256 of the file's content as stored.
    pub content: String,
    pub format: Format,
}

/// A model behind an API. Nobody can hash its weights: it is known by its name, wherever it is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRecipe {
    pub model: String,
    pub sent: Sent,
    pub echo_rows: EchoRows,
    /// The experiment's `revision`: bumped where another model came to be served by that name.
    pub revision: String,
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

/// The first 8 hex digits of the SHA-256 of `recipe` as JSON with sorted keys: equal on every machine.
pub fn identity(recipe: &impl Serialize) -> String {
    let value = serde_json::to_value(recipe).expect("recipes are plain data");
    // serde_json's maps are sorted unless its `preserve_order` feature is on, which a test watches.
    sha256_hex(value.to_string().as_bytes())[..8].to_string()
}
