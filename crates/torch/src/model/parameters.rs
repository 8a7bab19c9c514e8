//! The parameters of a decoder by name, with shape, sharding and initial values.

use super::config::ModelConfig;
use super::variant::{Biases, FeedForward, NormKind, Positions};

/// How a parameter is split over the tensor-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shard {
    /// Whole on every rank; all ranks see the same gradient.
    Replicated,
    /// Along dimension 0: output features (column parallel in Megatron's terms), vocabulary rows.
    Dim0,
    /// Along dimension 1: input features (row parallel in Megatron's terms).
    Dim1,
    /// Along dimension 0 into this many heads. If there are fewer heads than ranks, neighbours hold the same head, and each sees
    /// the gradient of its own queries.
    Heads(usize),
    /// Whole on every rank; each rank sees the gradient of its own heads.
    ReplicatedPartial,
}

/// A parameter of the whole model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// As in a Hugging Face Llama checkpoint, for every family.
    pub name: String,
    pub shape: Vec<i64>,
    pub shard: Shard,
    /// Standard deviation of the initial values; `None` means all ones (norms).
    pub init_std: Option<f64>,
}

/// All parameters, in the order of the forward pass.
pub fn parameters(config: &ModelConfig) -> Vec<Parameter> {
    let variant = &config.variant;
    let (d, ff) = (config.hidden_size as i64, config.intermediate_size as i64);
    let (vocab, embedding) = (config.vocab_size as i64, config.embedding_size() as i64);
    let head = config.head_dim() as i64;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let std = config.initializer_range;
    let residual_std = std / (2.0 * config.num_hidden_layers as f64).sqrt();

    let mut all = List(Vec::new());
    all.matrix("model.embed_tokens", [vocab, embedding], Shard::Dim0, std);
    if embedding != d {
        all.matrix("model.project_in", [d, embedding], Shard::Replicated, std);
    }
    if let Positions::Learned { count, offset } = variant.positions {
        all.matrix("model.embed_positions", [(count + offset) as i64, d], Shard::Replicated, std);
    }
    for layer in 0..config.num_hidden_layers {
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        let query_key_value = variant.biases != Biases::None;
        let others = variant.biases == Biases::All;
        all.norm(&at("input_layernorm"), d, variant.norm, Shard::Replicated);
        all.linear(&at("self_attn.q_proj"), [heads as i64 * head, d], Shard::Dim0, std, query_key_value);
        for part in ["self_attn.k_proj", "self_attn.v_proj"] {
            all.linear(&at(part), [kv_heads as i64 * head, d], Shard::Heads(kv_heads), std, query_key_value);
        }
        if variant.query_key_norm {
            all.norm(&at("self_attn.q_norm"), head, NormKind::Rms, Shard::ReplicatedPartial);
            all.norm(&at("self_attn.k_norm"), head, NormKind::Rms, Shard::ReplicatedPartial);
        }
        all.linear(&at("self_attn.o_proj"), [d, heads as i64 * head], Shard::Dim1, residual_std, others);
        all.norm(&at("post_attention_layernorm"), d, variant.norm, Shard::Replicated);
        if variant.feed_forward == FeedForward::SwiGlu {
            all.linear(&at("mlp.gate_proj"), [ff, d], Shard::Dim0, std, others);
        }
        all.linear(&at("mlp.up_proj"), [ff, d], Shard::Dim0, std, others);
        all.linear(&at("mlp.down_proj"), [d, ff], Shard::Dim1, residual_std, others);
    }
    if !variant.no_final_norm {
        all.norm("model.norm", d, variant.norm, Shard::Replicated);
    }
    if embedding != d {
        all.matrix("model.project_out", [embedding, d], Shard::Replicated, std);
    }
    if variant.untied_head {
        all.matrix("lm_head", [vocab, embedding], Shard::Dim0, std);
    }
    all.0
}

struct List(Vec<Parameter>);

impl List {
    fn add(&mut self, name: String, shape: Vec<i64>, shard: Shard, init_std: Option<f64>) {
        self.0.push(Parameter { name, shape, shard, init_std });
    }

    fn matrix(&mut self, layer: &str, shape: [i64; 2], shard: Shard, std: f64) {
        self.add(format!("{layer}.weight"), shape.to_vec(), shard, Some(std));
    }

    /// A matrix and, if `biased`, its bias. The bias of a row-parallel product is added once, after the sum over the ranks.
    fn linear(&mut self, layer: &str, shape: [i64; 2], shard: Shard, std: f64, biased: bool) {
        self.matrix(layer, shape, shard, std);
        if biased {
            let shard = if shard == Shard::Dim1 { Shard::Replicated } else { shard };
            self.add(format!("{layer}.bias"), vec![shape[0]], shard, Some(0.0));
        }
    }

    fn norm(&mut self, layer: &str, size: i64, kind: NormKind, shard: Shard) {
        self.add(format!("{layer}.weight"), vec![size], shard, None);
        if kind == NormKind::Layer {
            self.add(format!("{layer}.bias"), vec![size], shard, Some(0.0));
        }
    }
}
