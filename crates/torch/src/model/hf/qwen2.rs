//! Qwen2 and Qwen2.5: a Llama with biases on queries, keys and values.

use anyhow::Result;
use serde_json::json;

use super::fields::Fields;
use super::llama;
use crate::model::ModelConfig;
use crate::model::variant::{Biases, Family, Variant};

pub use super::llama::{fields, place};

pub fn config(fields: &Fields) -> Result<ModelConfig> {
    let config = llama::gated(fields, Variant { family: Family::Qwen2, biases: Biases::QueryKeyValue, ..Variant::default() })?;
    fields.only("use_mrope", json!(false))?;
    fields.full_attention(config.num_hidden_layers)?;
    Ok(config)
}
