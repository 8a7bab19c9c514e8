//! The fields of a `config.json`. Each field is either used, required to be off, or known not to affect the numbers. Any other
//! field is an error that names it, so no setting is silently ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::guard::read_file;
use hydrometer_base::user_error;
use hydrometer_data::content::recognise_other_kind;
use hydrometer_data::lines::BOM;
use serde_json::{Map, Value, json};

/// Largest size of any dimension; keeps products of three sizes within 64 bits.
const MAX_SIZE: u64 = 1 << 20;
/// Maximum number of layers.
pub const MOST_LAYERS: u64 = 4096;

/// Bookkeeping, generation, training and file format: fields that do not affect evaluation on given tokens.
const WITHOUT_EFFECT: [&str; 51] = [
    "architectures",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// A `config.json`, which records the fields that were read.
pub struct Fields {
    pub path: PathBuf,
    map: Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

impl Fields {
    /// Reads the `config.json` in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let bytes = read_file(&path)
            .map_err(|error| user_error!("{}: {error}; give a folder with a Hugging Face checkpoint", path.display()))?;
        match serde_json::from_slice(bytes.strip_prefix(BOM).unwrap_or(&bytes)) {
            Ok(Value::Object(map)) => Ok(Self { path, map, asked: RefCell::default() }),
            Ok(_) => Err(user_error!("{}: expected a JSON object", path.display())),
            Err(error) => {
                Err(user_error!("{}: {}", path.display(), recognise_other_kind(&bytes).unwrap_or_else(|| error.to_string())))
            }
        }
    }

    /// A user error about this file.
    pub fn mistake(&self, what: impl std::fmt::Display) -> anyhow::Error {
        user_error!("{}: {what}", self.path.display())
    }

    /// The value of `field`; null counts as absent.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(field.to_string());
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn whole(&self, field: &str, most: u64) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=most).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.mistake(format!("{field} is {value}, not a whole number from 1 to {most}"))),
        }
    }

    /// A size that may be absent.
    pub fn optional_size(&self, field: &str) -> Result<Option<usize>> {
        self.whole(field, MAX_SIZE)
    }

    pub fn size(&self, field: &str) -> Result<usize> {
        self.optional_size(field)?.ok_or_else(|| self.mistake(format!("{field} is missing")))
    }

    pub fn layers(&self, field: &str) -> Result<usize> {
        self.whole(field, MOST_LAYERS)?.ok_or_else(|| self.mistake(format!("{field} is missing")))
    }

    /// A number above 0.
    pub fn number(&self, field: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(field) else { return Ok(default) };
        self.positive(field, value)
    }

    fn positive(&self, field: &str, value: &Value) -> Result<f64> {
        let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
        number.ok_or_else(|| self.mistake(format!("{field} is {value}, not a number above 0")))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.mistake(format!("{field} is {value}, not true or false")))
    }

    pub fn text(&self, field: &str, default: &str) -> Result<String> {
        let Some(value) = self.get(field) else { return Ok(default.to_string()) };
        let text = value.as_str().map(str::to_string);
        text.ok_or_else(|| self.mistake(format!("{field} is {value}, not a string")))
    }

    /// An error unless `field` is absent or `supported`: any other value would change the numbers.
    pub fn only(&self, field: &str, supported: Value) -> Result<()> {
        match self.get(field) {
            Some(value) if *value != supported && value.as_f64().is_none_or(|number| Some(number) != supported.as_f64()) => {
                Err(self.mistake(format!("{field} = {value} is not supported, only {supported}")))
            }
            _ => Ok(()),
        }
    }

    /// The base of rotary positions, from any of the fields that transformers has used for it. Every other kind of rotary scaling
    /// is refused.
    pub fn rope_theta(&self) -> Result<f64> {
        let mut theta = self.number("rope_theta", 10_000.0)?;
        self.only("partial_rotary_factor", json!(1.0))?;
        self.only("rope_interleaved", json!(false))?;
        for group in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(group) else { continue };
            let Some(map) = value.as_object() else {
                return Err(self.mistake(format!("{group} is {value}, not an object")));
            };
            for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                match key.as_str() {
                    "rope_theta" => theta = self.positive(&format!("{group}.rope_theta"), value)?,
                    "rope_type" | "type" if value == "default" => {}
                    "partial_rotary_factor" if value.as_f64() == Some(1.0) => {}
                    _ => return Err(self.mistake(format!("{group}.{key} = {value} is not supported"))),
                }
            }
        }
        Ok(theta)
    }

    /// An error unless attention is full, that is, without a sliding window, in all `layers` layers.
    pub fn full_attention(&self, layers: usize) -> Result<()> {
        let from = self.get("max_window_layers").and_then(Value::as_u64);
        let window = self.get("sliding_window").is_some();
        if self.flag("use_sliding_window", false)? && window && from.is_none_or(|from| from < layers as u64) {
            return Err(self.mistake("use_sliding_window = true is not supported: sliding_window would be in force"));
        }
        match self.get("layer_types") {
            Some(types) if types.as_array().is_none_or(|types| types.iter().any(|kind| kind != "full_attention")) => {
                Err(self.mistake("layer_types has other layers than full_attention, which are not supported"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses fields that were never read and might change the numbers.
    pub fn finish(&self) -> Result<()> {
        for field in ["is_encoder_decoder", "add_cross_attention"] {
            self.only(field, json!(false))?;
        }
        self.only("pruned_heads", json!({}))?;
        let asked = self.asked.borrow();
        let unknown = self.map.iter().find(|(field, value)| {
            // `layerdrop`, `attn_pdrop`, `bos_token_id`.
            let harmless = WITHOUT_EFFECT.contains(&field.as_str())
                || ["drop", "dropout", "_token_id"].iter().any(|end| field.ends_with(end))
                || field.starts_with('_');
            !value.is_null() && !asked.contains(*field) && !harmless
        });
        match unknown {
            Some((field, _)) => Err(self.mistake(format!(
                "the field {field} is not supported: it might change the numbers; remove it if you know that it does not"
            ))),
            None => Ok(()),
        }
    }
}
