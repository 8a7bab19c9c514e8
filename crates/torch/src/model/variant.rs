//! How a decoder differs from a Llama with tied embeddings.

use serde::{Deserialize, Serialize};

/// Differences from a Llama with tied embeddings, which is the default. A field at its default is left out of a recipe's JSON, so
/// a field added later does not change any identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Variant {
    /// The family whose names its checkpoints use.
    #[serde(skip_serializing_if = "is_default")]
    pub family: Family,
    #[serde(skip_serializing_if = "is_default")]
    pub norm: NormKind,
    /// Norms are applied after the residual sum instead of before the block (OPT-350m's `do_layer_norm_before = false`).
    #[serde(skip_serializing_if = "is_default")]
    pub post_norm: bool,
    /// There is no norm after the last block.
    #[serde(skip_serializing_if = "is_default")]
    pub no_final_norm: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub positions: Positions,
    /// Longest sequence that the checkpoint was trained on, if known; rotary positions continue beyond it.
    #[serde(skip_serializing_if = "is_default")]
    pub trained_positions: Option<usize>,
    #[serde(skip_serializing_if = "is_default")]
    pub feed_forward: FeedForward,
    #[serde(skip_serializing_if = "is_default")]
    pub biases: Biases,
    /// RMSNorm over the features of each query and key head, before rotation (Qwen3).
    #[serde(skip_serializing_if = "is_default")]
    pub query_key_norm: bool,
    /// Number of features of a head, if it is not `hidden_size / num_attention_heads`.
    #[serde(skip_serializing_if = "is_default")]
    pub head_dim: Option<usize>,
    /// Number of features of embedding and output head, if projections connect them to `hidden_size` (OPT's
    /// `word_embed_proj_dim`).
    #[serde(skip_serializing_if = "is_default")]
    pub embedding_size: Option<usize>,
    /// The output head has a weight of its own.
    #[serde(skip_serializing_if = "is_default")]
    pub untied_head: bool,
}

impl Variant {
    /// Whether this is a Llama with tied embeddings.
    pub fn is_plain(&self) -> bool {
        is_default(self)
    }
}

/// A family of Hugging Face checkpoints; SmolLM2 and TinyLlama are Llamas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    #[default]
    Llama,
    Qwen2,
    Qwen3,
    Gpt2,
    Opt,
}

/// The kind of every norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// A weight, no bias (Zhang & Sennrich 2019).
    #[default]
    Rms,
    /// A weight and a bias (Ba et al. 2016).
    Layer,
}

/// How positions are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// Rotated queries and keys (Su et al. 2021).
    #[default]
    Rotary,
    /// A learned row for each of `count` positions, after `offset` unused rows (OPT has 2).
    Learned { count: usize, offset: usize },
}

/// The feed-forward layer and its activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// Gated by SiLU (Shazeer 2020).
    #[default]
    SwiGlu,
    Gelu,
    /// GELU in its tanh approximation, `gelu_new`.
    GeluTanh,
    Relu,
}

/// Which linear layers of a block add a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Biases {
    #[default]
    None,
    /// Queries, keys and values (Qwen2).
    QueryKeyValue,
    /// All of them (GPT-2, OPT).
    All,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn a_default_variant_is_not_serialised() {
        let plain = ModelConfig {
            vocab_size: 2048,
            hidden_size: 96,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            initializer_range: 0.02,
            variant: Variant::default(),
        };
        let json = r#"{"vocab_size":2048,"hidden_size":96,"intermediate_size":256,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"rope_theta":10000.0,"rms_norm_eps":1e-5,"initializer_range":0.02}"#;
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(serde_json::to_value(&plain).unwrap(), value(json));
        assert_eq!(serde_json::from_str::<ModelConfig>(json).unwrap(), plain);
        let odd = Variant { positions: Positions::Learned { count: 64, offset: 2 }, post_norm: true, ..Variant::default() };
        assert_eq!(
            serde_json::to_value(&odd).unwrap(),
            value(r#"{"post_norm":true,"positions":{"learned":{"count":64,"offset":2}}}"#)
        );
    }
}
