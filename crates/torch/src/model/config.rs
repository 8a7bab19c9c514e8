//! The shape of a decoder, and its cost in parameters and FLOPs.

use serde::{Deserialize, Serialize};

use super::variant::{Positions, Variant};

/// Hyper-parameters of a decoder, named as in a Llama's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// Has no effect if positions are learned.
    pub rope_theta: f64,
    /// Epsilon of every norm, LayerNorm included.
    pub rms_norm_eps: f64,
    /// Standard deviation of the initial weights; for projections into the residual stream it is divided by √(2·layers).
    pub initializer_range: f64,
    /// Differences from a Llama with tied embeddings. Left out of a recipe's JSON if there are none, so that the identity of such
    /// a run does not change.
    #[serde(default, skip_serializing_if = "Variant::is_plain")]
    pub variant: Variant,
}

impl ModelConfig {
    /// Number of features of one attention head.
    pub fn head_dim(&self) -> usize {
        self.variant.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Number of features of a token's embedding, and of the input of the output head.
    pub fn embedding_size(&self) -> usize {
        self.variant.embedding_size.unwrap_or(self.hidden_size)
    }

    /// Checks this shape, and whether it can be sharded over `tp` ranks. The error is one sentence without a full stop.
    pub fn check(&self, tp: usize) -> Result<(), String> {
        let Self { hidden_size: d, num_attention_heads: heads, num_key_value_heads: kv, .. } = *self;
        let rotary = self.variant.positions == Positions::Rotary;
        let odd = rotary && heads > 0 && !self.head_dim().is_multiple_of(2);
        match self.variant.head_dim {
            None if heads == 0 || d % heads != 0 || odd => {
                let even = if rotary { "an even" } else { "a" };
                return Err(format!("hidden_size {d} must be num_attention_heads {heads} times {even} head size"));
            }
            Some(size) if odd => return Err(format!("head_dim {size} must be even")),
            _ => {}
        }
        if heads == 0 || kv == 0 || heads % kv != 0 {
            return Err(format!("num_attention_heads {heads} must be a multiple of num_key_value_heads {kv}"));
        }
        if heads % tp != 0 {
            return Err(format!("num_attention_heads {heads} does not divide over tp = {tp}"));
        }
        if kv % tp != 0 && !tp.is_multiple_of(kv) {
            return Err(format!("num_key_value_heads {kv} neither divides over tp = {tp} nor goes into it"));
        }
        for (what, count) in [("vocab_size", self.vocab_size), ("intermediate_size", self.intermediate_size)] {
            if count < tp {
                return Err(format!("{what} {count} is smaller than tp = {tp}"));
            }
        }
        Ok(())
    }

    /// Checks sequences of `context` tokens against this shape. The error is one sentence without a full stop.
    pub fn check_context(&self, context: usize) -> Result<(), String> {
        match self.variant.positions {
            Positions::Learned { count, .. } if context > count => {
                Err(format!("context {context} is longer than the {count} positions that the model has learned"))
            }
            _ => Ok(()),
        }
    }
}
