//! Qwen3: a Llama with a norm on every query and key head, and an explicit head size.

use anyhow::Result;
use serde_json::json;

use super::fields::Fields;
use super::llama;
use crate::model::ModelConfig;
use crate::model::variant::{Family, Variant};

pub use super::llama::{fields, place};

/// transformers' default head size.
const HEAD_DIM: usize = 128;

pub fn config(fields: &Fields) -> Result<ModelConfig> {
    fields.only("attention_bias", json!(false))?;
    let mut config = llama::gated(fields, Variant { family: Family::Qwen3, query_key_norm: true, ..Variant::default() })?;
    if fields.get("head_dim").is_none() && HEAD_DIM * config.num_attention_heads != config.hidden_size {
        config.variant.head_dim = Some(HEAD_DIM);
    }
    fields.full_attention(config.num_hidden_layers)?;
    Ok(config)
}
