//! GPT-2: LayerNorm, learned positions, biases everywhere. Weights of linear layers are stored as `[in, out]`, with queries, keys
//! and values in one tensor.

use anyhow::Result;
use serde_json::{Value, json};

use super::TensorSlot;
use super::fields::Fields;
use crate::model::ModelConfig;
use crate::model::variant::{Biases, Family, FeedForward, NormKind, Positions, Variant};

pub fn config(fields: &Fields) -> Result<ModelConfig> {
    fields.only("scale_attn_weights", json!(true))?;
    fields.only("scale_attn_by_inverse_layer_idx", json!(false))?;
    // The first does not change f32 results; `summary_*` is for classifiers; `n_ctx` repeats `n_positions`; the rest are
    // obsolete.
    for field in ["reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens"] {
        fields.get(field);
    }
    for field in ["type", "use_proj", "activation", "proj_to_labels", "first_dropout"] {
        fields.get(&format!("summary_{field}"));
    }
    let (hidden_size, heads) = (fields.size("n_embd")?, fields.size("n_head")?);
    Ok(ModelConfig {
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.optional_size("n_inner")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: fields.layers("n_layer")?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        rope_theta: 10_000.0,
        rms_norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        initializer_range: fields.number("initializer_range", 0.02)?,
        variant: Variant {
            family: Family::Gpt2,
            norm: NormKind::Layer,
            positions: Positions::Learned { count: fields.size("n_positions")?, offset: 0 },
            feed_forward: feed_forward(fields, "gelu_new")?,
            biases: Biases::All,
            untied_head: !fields.flag("tie_word_embeddings", true)?,
            ..Variant::default()
        },
    })
}

/// The ungated feed-forward named by `activation_function`.
pub fn feed_forward(fields: &Fields, default: &str) -> Result<FeedForward> {
    match fields.text("activation_function", default)?.as_str() {
        "gelu" => Ok(FeedForward::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(FeedForward::GeluTanh),
        "relu" => Ok(FeedForward::Relu),
        other => Err(fields.mistake(format!("activation_function = {other:?} is not supported, only gelu, gelu_new and relu"))),
    }
}

/// The inverse of [`feed_forward`]: the name of the activation function.
pub fn activation(config: &ModelConfig) -> &'static str {
    match config.variant.feed_forward {
        FeedForward::SwiGlu => "silu",
        FeedForward::Gelu => "gelu",
        FeedForward::GeluTanh => "gelu_new",
        FeedForward::Relu => "relu",
    }
}

pub fn fields(config: &ModelConfig) -> Value {
    let Positions::Learned { count, .. } = config.variant.positions else { unreachable!("GPT-2 learns its positions") };
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": count,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "activation_function": activation(config),
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": !config.variant.untied_head,
    })
}

pub fn place(parameter: &str) -> TensorSlot {
    let Some((layer, rest)) = parameter.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return TensorSlot::whole(match parameter {
            "model.embed_tokens.weight" => "transformer.wte.weight",
            "model.embed_positions.weight" => "transformer.wpe.weight",
            "model.norm.weight" => "transformer.ln_f.weight",
            "model.norm.bias" => "transformer.ln_f.bias",
            other => other,
        });
    };
    let (part, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let at = |name: &str| format!("transformer.h.{layer}.{name}.{kind}");
    let product = |name: &str| TensorSlot { transposed: kind == "weight", ..TensorSlot::whole(&at(name)) };
    match part {
        "input_layernorm" => TensorSlot::whole(&at("ln_1")),
        "post_attention_layernorm" => TensorSlot::whole(&at("ln_2")),
        "self_attn.q_proj" => product("attn.c_attn").part(0, 3),
        "self_attn.k_proj" => product("attn.c_attn").part(1, 3),
        "self_attn.v_proj" => product("attn.c_attn").part(2, 3),
        "self_attn.o_proj" => product("attn.c_proj"),
        "mlp.up_proj" => product("mlp.c_fc"),
        "mlp.down_proj" => product("mlp.c_proj"),
        _ => TensorSlot::whole(parameter),
    }
}
