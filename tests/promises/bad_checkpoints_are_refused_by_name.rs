//! Every mistake in a checkpoint folder gives exit code 2 and one line that names the field or tensor.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::folder;
use super::lab::program;

/// Asserts that `hydrometer eval` refuses a copy of `checkpoint` after `change`, with all `messages` in one line.
fn refused(checkpoint: &str, change: impl Fn(&Path), more: &[&str], messages: &[&str]) {
    let lab = TempDir::new().unwrap();
    for entry in fs::read_dir(folder(checkpoint)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, lab.path().join(path.file_name().unwrap())).unwrap();
    }
    change(lab.path());
    let mut command = program();
    command.arg("eval").arg("--model").arg(lab.path()).arg("--data").arg(folder("text.jsonl"));
    let output = command.args(more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{messages:?}: {said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    for message in messages {
        assert!(said.contains(message), "said: {said}\nexpected: {message}");
    }
}

/// [`refused`] after `edit` of its config.json.
fn misread(checkpoint: &str, edit: impl Fn(&mut Value), message: &str) {
    let change = |folder: &Path| {
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    };
    refused(checkpoint, change, &[], &[message]);
}

fn with_field(checkpoint: &str, field: &str, value: Value, message: &str) {
    misread(checkpoint, |config| config[field] = value.clone(), message);
}

#[test]
fn unsupported_settings_that_would_change_the_numbers_are_refused() {
    for (checkpoint, field, value, message) in [
        ("llama", "model_type", json!("mistral"), "model_type = \"mistral\" is not supported"),
        ("llama", "rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 }), "rope_scaling."),
        ("llama", "rope_parameters", json!({ "rope_type": "yarn", "rope_theta": 1e4 }), "rope_parameters.rope_type = \"yarn\""),
        ("llama", "rope_parameters", json!({ "rope_theta": 1e4, "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        ("llama", "attention_bias", json!(true), "attention_bias = true is not supported"),
        ("llama", "mlp_bias", json!(true), "mlp_bias = true is not supported"),
        ("llama", "hidden_act", json!("gelu"), "hidden_act = \"gelu\" is not supported"),
        ("llama", "sliding_window", json!(16), "the field sliding_window is not supported"),
        ("llama", "logit_scale", json!(0.5), "the field logit_scale is not supported"),
        ("llama", "final_logit_softcapping", json!(30.0), "the field final_logit_softcapping is not supported"),
        ("llama", "quantization_config", json!({ "bits": 4 }), "the field quantization_config is not supported"),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "layer_types"),
        ("qwen3", "attention_bias", json!(true), "attention_bias = true is not supported"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx = true is not supported"),
        ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights = false is not supported"),
        ("gpt2", "activation_function", json!("silu"), "activation_function = \"silu\" is not supported"),
        ("opt-norm-before", "enable_bias", json!(false), "enable_bias = false is not supported"),
    ] {
        with_field(checkpoint, field, value, message);
    }
}

#[test]
fn an_active_sliding_window_is_refused() {
    let window = |config: &mut Value| {
        config["use_sliding_window"] = json!(true);
        config["sliding_window"] = json!(8);
        config["max_window_layers"] = json!(1);
    };
    misread("qwen2", window, "use_sliding_window = true is not supported: sliding_window would be in force");
}

#[test]
fn missing_fields_and_wrong_types_are_refused() {
    with_field("llama", "hidden_size", Value::Null, "hidden_size is missing");
    with_field("gpt2", "n_head", json!("four"), "n_head is \"four\", not a whole number");
    with_field("qwen2", "num_key_value_heads", json!(3), "must be a multiple of num_key_value_heads 3");
}

#[test]
fn tensors_that_contradict_the_config_are_refused() {
    let tensor = "tensor transformer.h.0.mlp.c_fc.weight has shape [24, 96], but config.json makes it [24, 95]";
    with_field("gpt2", "n_inner", json!(95), tensor);
    with_field("smollm2", "tie_word_embeddings", json!(false), "tensor lm_head.weight is missing");
    with_field("llama", "tie_word_embeddings", json!(true), "lm_head.weight differs from the embedding");
    with_field("llama", "num_hidden_layers", json!(1), "is not part of the model that config.json describes");
    with_field("llama", "num_hidden_layers", json!(3), "tensor model.layers.2.input_layernorm.weight is missing");
}

#[test]
fn truncated_and_scrambled_safetensors_are_refused() {
    for (keep, message) in
        [(40_000, "model.safetensors: truncated: tensor "), (100, "truncated: the header takes"), (3, "truncated")]
    {
        let cut = |folder: &Path| {
            let path = folder.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..keep]).unwrap();
        };
        refused("qwen2", cut, &[], &[message]);
    }
    let scramble = |folder: &Path| fs::write(folder.join("model.safetensors"), [255u8; 64]).unwrap();
    refused("qwen2", scramble, &[], &["not a safetensors file"]);
}

#[test]
fn missing_shards_and_tensors_are_named() {
    let lose = |folder: &Path| fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    refused("llama", lose, &[], &["model-00002-of-00002.safetensors"]);
    let swap = |folder: &Path| {
        let path = folder.join("model.safetensors.index.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"model.norm.weight\"", "\"model.nrm.weight\"")).unwrap();
    };
    refused("llama", swap, &[], &["tensor model.nrm.weight is missing, though the index lists it"]);
}

/// The NaN is the last value of the last tensor in the file.
#[test]
fn weights_that_are_not_finite_are_refused_at_any_number_of_ranks() {
    let poison = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&path, bytes).unwrap();
    };
    for tp in ["1", "2"] {
        refused("gpt2", poison, &["--tp", tp], &["tensor transformer.wte.weight holds numbers that are not finite"]);
    }
}

#[test]
fn checkpoints_with_only_pickled_weights_are_refused() {
    let pickle = |folder: &Path| fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    refused("gpt2", pickle, &[], &["no model.safetensors", "pickled weights are not read"]);
}

#[test]
fn options_that_the_checkpoint_cannot_satisfy_are_refused() {
    let nothing = |_: &Path| {};
    refused("gpt2", nothing, &["--context", "65"], &["context 65 is longer than the 64 positions that the model has learned"]);
    refused("gpt2", nothing, &["--tp", "3"], &["num_attention_heads 4 does not divide over tp = 3"]);
    refused("gpt2", nothing, &["--context", "32", "--stride", "33"], &["--stride 33 is larger than the context of 32"]);
    refused("gpt2", nothing, &["--device", "tpu"], &["unknown device \"tpu\""]);
    let no_tokenizer = |folder: &Path| fs::remove_file(folder.join("tokenizer.json")).unwrap();
    refused("gpt2", no_tokenizer, &[], &["no tokenizer.json"]);
    let no_config = |folder: &Path| fs::remove_file(folder.join("config.json")).unwrap();
    refused("gpt2", no_config, &[], &["config.json"]);
}
