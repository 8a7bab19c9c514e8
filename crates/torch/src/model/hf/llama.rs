//! Llama and models that share its architecture (SmolLM2, TinyLlama). The decoder uses the same parameter names.

use anyhow::Result;
use serde_json::{Value, json};

use super::TensorSlot;
use super::fields::Fields;
use crate::model::ModelConfig;
use crate::model::variant::{Family, Variant};

pub fn config(fields: &Fields) -> Result<ModelConfig> {
    for field in ["attention_bias", "mlp_bias"] {
        fields.only(field, json!(false))?;
    }
    gated(fields, Variant::default())
}

/// The shape that Llama, Qwen2 and Qwen3 share, with `variant` applied.
pub fn gated(fields: &Fields, variant: Variant) -> Result<ModelConfig> {
    fields.only("hidden_act", json!("silu"))?;
    let (hidden_size, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let head_dim = fields.optional_size("head_dim")?.filter(|size| size * heads != hidden_size);
    Ok(ModelConfig {
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_hidden_layers: fields.layers("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(heads),
        rope_theta: fields.rope_theta()?,
        rms_norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        initializer_range: fields.number("initializer_range", 0.02)?,
        variant: Variant {
            trained_positions: fields.optional_size("max_position_embeddings")?,
            untied_head: !fields.flag("tie_word_embeddings", false)?,
            head_dim,
            ..variant
        },
    })
}

/// The fields that [`gated`] reads, as transformers writes them.
pub fn fields(config: &ModelConfig) -> Value {
    let (model_type, architecture) = match config.variant.family {
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        _ => ("llama", "LlamaForCausalLM"),
    };
    let mut fields = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": !config.variant.untied_head,
    });
    // If this were left out, Qwen3 would use its own default.
    if config.variant.head_dim.is_some() || config.variant.family == Family::Qwen3 {
        fields["head_dim"] = json!(config.head_dim());
    }
    if let Some(positions) = config.variant.trained_positions {
        fields["max_position_embeddings"] = json!(positions);
    }
    fields
}

pub fn place(parameter: &str) -> TensorSlot {
    TensorSlot::whole(parameter)
}
