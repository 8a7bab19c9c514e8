//! Published configuration files, with all their unused fields.

use super::*;
use crate::model::Variant;
use crate::model::variant::{Biases, FeedForward, NormKind, Positions};

fn understood(json: &str) -> ModelConfig {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    let fields = Fields::read(folder.path()).unwrap();
    let config = Family::named(&fields).unwrap().config(&fields).unwrap();
    fields.finish().unwrap();
    config.check(1).unwrap();
    config
}

#[test]
fn smollm2_135m() {
    let config = understood(
        r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0,
        "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": true,
        "vocab_size": 49152}"#,
    );
    assert_eq!((config.parameter_count(), config.rope_theta, config.variant.untied_head), (134_515_008, 100_000.0, false));
}

#[test]
fn tinyllama_1b() {
    let config = understood(
        r#"{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632, "max_position_embeddings": 2048,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false,
        "torch_dtype": "float32", "transformers_version": "4.31.0.dev0", "use_cache": true, "vocab_size": 32000}"#,
    );
    assert_eq!((config.parameter_count(), config.variant.untied_head), (1_100_048_384, true));
}

#[test]
fn qwen2_5_half_b() {
    let config = understood(
        r#"{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
        "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 151936}"#,
    );
    assert_eq!((config.parameter_count(), config.variant.biases), (494_032_768, Biases::QueryKeyValue));
}

#[test]
fn qwen3_0_6b() {
    let config = understood(
        r#"{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936}"#,
    );
    assert_eq!((config.parameter_count(), config.head_dim()), (596_049_920, 128));
}

#[test]
fn gpt2_medium() {
    let config = understood(
        r#"{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
        "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024, "n_special": 0,
        "predict_special_tokens": true, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257}"#,
    );
    assert_eq!((config.parameter_count(), config.variant.feed_forward), (354_823_168, FeedForward::GeluTanh));
}

#[test]
fn opt_350m() {
    let config = understood(
        r#"{"_name_or_path": "opt-350m", "_remove_final_layer_norm": false, "activation_dropout": 0.0,
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 2,
        "do_layer_norm_before": false, "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096, "hidden_size": 1024,
        "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 16,
        "num_hidden_layers": 24, "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16",
        "transformers_version": "4.20.0.dev0", "use_cache": true, "vocab_size": 50272, "word_embed_proj_dim": 512}"#,
    );
    assert_eq!(config.parameter_count(), 331_196_416);
    let Variant { norm, post_norm, no_final_norm, positions, embedding_size, .. } = config.variant;
    assert_eq!((norm, post_norm, no_final_norm, embedding_size), (NormKind::Layer, true, true, Some(512)));
    assert_eq!(positions, Positions::Learned { count: 2048, offset: 2 });
}
