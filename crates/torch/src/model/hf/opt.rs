//! OPT: LayerNorm before or after the block, learned positions after two unused rows, biases everywhere, and in one size (350m)
//! a narrower embedding.

use anyhow::Result;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{TensorSlot, gpt2};
use crate::model::ModelConfig;
use crate::model::variant::{Biases, Family, NormKind, Positions, Variant};

/// Rows of the position table before the first position.
const OFFSET: usize = 2;

pub fn config(fields: &Fields) -> Result<ModelConfig> {
    for field in ["enable_bias", "layer_norm_elementwise_affine"] {
        fields.only(field, json!(true))?;
    }
    let (hidden_size, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let norm_before = fields.flag("do_layer_norm_before", true)?;
    Ok(ModelConfig {
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("ffn_dim")?,
        num_hidden_layers: fields.layers("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        rope_theta: 10_000.0,
        // torch's default, which OPT never changes.
        rms_norm_eps: 1e-5,
        initializer_range: fields.number("init_std", 0.02)?,
        variant: Variant {
            family: Family::Opt,
            norm: NormKind::Layer,
            post_norm: !norm_before,
            no_final_norm: !norm_before || fields.flag("_remove_final_layer_norm", false)?,
            positions: Positions::Learned { count: fields.size("max_position_embeddings")?, offset: OFFSET },
            feed_forward: gpt2::feed_forward(fields, "relu")?,
            biases: Biases::All,
            embedding_size: fields.optional_size("word_embed_proj_dim")?.filter(|&size| size != hidden_size),
            untied_head: !fields.flag("tie_word_embeddings", true)?,
            ..Variant::default()
        },
    })
}

pub fn fields(config: &ModelConfig) -> Value {
    let variant = &config.variant;
    let Positions::Learned { count, .. } = variant.positions else { unreachable!("OPT learns its positions") };
    json!({
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "word_embed_proj_dim": config.embedding_size(),
        "ffn_dim": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": count,
        "do_layer_norm_before": !variant.post_norm,
        "_remove_final_layer_norm": variant.no_final_norm && !variant.post_norm,
        "activation_function": gpt2::activation(config),
        "init_std": config.initializer_range,
        "tie_word_embeddings": !variant.untied_head,
    })
}

pub fn place(parameter: &str) -> TensorSlot {
    let Some(rest) = parameter.strip_prefix("model.") else { return TensorSlot::whole(parameter) };
    let name = match rest {
        "norm.weight" => "final_layer_norm.weight".to_string(),
        "norm.bias" => "final_layer_norm.bias".to_string(),
        rest => rest
            .replace("input_layernorm", "self_attn_layer_norm")
            .replace("post_attention_layernorm", "final_layer_norm")
            .replace("self_attn.o_proj", "self_attn.out_proj")
            .replace("mlp.up_proj", "fc1")
            .replace("mlp.down_proj", "fc2"),
    };
    TensorSlot::whole(&format!("model.decoder.{name}"))
}
