//! The shape of a Llama-style decoder, its parameters by name, and what it costs.

use serde::{Deserialize, Serialize};

/// Hyper-parameters of a decoder, named as in Hugging Face's `config.json`. Embeddings are tied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub rope_theta: f64,
    pub rms_norm_eps: f64,
    /// Standard deviation of initial weights; projections into the residual stream get it divided by √(2·layers).
    pub initializer_range: f64,
}

/// How a parameter is split over the tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shard {
    Replicated,
    /// Along dimension 0: output features (column parallel in Megatron's words), vocabulary rows.
    Rows,
    /// Along dimension 1: input features (row parallel in Megatron's words).
    Columns,
}

/// A parameter of the whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// As in a Hugging Face Llama checkpoint.
    pub name: String,
    pub shape: Vec<i64>,
    pub shard: Shard,
    /// Standard deviation of the initial values; `None` starts at one (norms).
    pub init_std: Option<f64>,
}

impl ModelConfig {
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// What is wrong with this shape, or with sharding it over `tp` ranks; one sentence without a full stop.
    pub fn check(&self, tp: usize) -> Result<(), String> {
        let Self { hidden_size: d, num_attention_heads: heads, num_key_value_heads: kv, .. } = *self;
        if heads == 0 || d % heads != 0 || !(d / heads).is_multiple_of(2) {
            return Err(format!("hidden_size {d} must be num_attention_heads {heads} times an even head size"));
        }
        if kv == 0 || heads % kv != 0 {
            return Err(format!("num_attention_heads {heads} must be a multiple of num_key_value_heads {kv}"));
        }
        for (what, count) in [("num_key_value_heads", kv), ("intermediate_size", self.intermediate_size)] {
            if count % tp != 0 {
                return Err(format!("{what} {count} does not divide over tp = {tp}"));
            }
        }
        if self.vocab_size < tp {
            return Err(format!("vocab_size {} is smaller than tp = {tp}", self.vocab_size));
        }
        Ok(())
    }

    /// Every parameter, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<Parameter> {
        let (d, ff) = (self.hidden_size as i64, self.intermediate_size as i64);
        let kv = (self.num_key_value_heads * self.head_dim()) as i64;
        let std = self.initializer_range;
        let residual_std = std / (2.0 * self.num_hidden_layers as f64).sqrt();
        let matrix =
            |name: String, rows, columns, shard, std| Parameter { name, shape: vec![rows, columns], shard, init_std: Some(std) };
        let norm = |name: String| Parameter { name, shape: vec![d], shard: Shard::Replicated, init_std: None };
        let mut all = vec![matrix("model.embed_tokens.weight".into(), self.vocab_size as i64, d, Shard::Rows, std)];
        for layer in 0..self.num_hidden_layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            all.extend([
                norm(at("input_layernorm")),
                matrix(at("self_attn.q_proj"), d, d, Shard::Rows, std),
                matrix(at("self_attn.k_proj"), kv, d, Shard::Rows, std),
                matrix(at("self_attn.v_proj"), kv, d, Shard::Rows, std),
                matrix(at("self_attn.o_proj"), d, d, Shard::Columns, residual_std),
                norm(at("post_attention_layernorm")),
                matrix(at("mlp.gate_proj"), ff, d, Shard::Rows, std),
                matrix(at("mlp.up_proj"), ff, d, Shard::Rows, std),
                matrix(at("mlp.down_proj"), d, ff, Shard::Columns, residual_std),
            ]);
        }
        all.push(norm("model.norm.weight".into()));
        all
    }

    /// Parameters of the whole model, the tied embedding counted once.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(|p| p.shape.iter().product::<i64>() as u64).sum()
    }

    /// FLOPs of a forward pass per token: 2 per weight of every matrix product (the output head counts, the embedding
    /// lookup does not), plus causal attention, 2·L·d·T for scores and values together (Kaplan et al. 2020, table 1, with
    /// half of the T² pairs).
    pub fn forward_flops_per_token(&self, context: usize) -> f64 {
        let matrices: i64 =
            self.parameters().iter().filter(|p| p.shape.len() == 2).map(|p| p.shape.iter().product::<i64>()).sum();
        let attention = 2.0 * (self.num_hidden_layers * self.hidden_size * context) as f64;
        2.0 * matrices as f64 + attention
    }

    /// FLOPs of forward and backward per token: three times the forward pass.
    pub fn train_flops_per_token(&self, context: usize) -> f64 {
        3.0 * self.forward_flops_per_token(context)
    }
}
