//! Hugging Face checkpoints, to and from the decoder. Each family has one file, which maps its `config.json` and tensor names.

mod export;
mod fields;
mod gpt2;
mod llama;
mod opt;
mod qwen2;
mod qwen3;
mod special;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{sha256_file, sha256_hex};
use hydrometer_base::user_error;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::parameters::{Parameter, parameters};
use super::variant::{Family, Positions};
use super::weights::{Weights, frozen};
use super::{Decoder, ModelConfig};
use crate::dist::Mesh;
use fields::Fields;
use tensors::Tensors;

pub use export::{export, export_with};
pub use fields::MOST_LAYERS;
pub use special::SpecialTokens;

/// Where a family's checkpoints store a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    pub name: String,
    /// Stored as `[in, out]`.
    pub transposed: bool,
    /// Index and number of equal parts of the stored tensor, along the output dimension.
    pub part: (i64, i64),
}

impl TensorSlot {
    fn whole(name: &str) -> Self {
        Self { name: name.to_string(), transposed: false, part: (0, 1) }
    }

    fn part(self, index: i64, of: i64) -> Self {
        Self { part: (index, of), ..self }
    }

    /// Shape of the stored tensor that holds a parameter of shape `shape`.
    fn stored(&self, shape: &[i64]) -> Vec<i64> {
        let mut stored = shape.to_vec();
        stored[0] *= self.part.1;
        if self.transposed {
            stored.reverse();
        }
        stored
    }
}

impl Family {
    fn named(fields: &Fields) -> Result<Self> {
        match fields.text("model_type", "")?.as_str() {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            "gpt2" => Ok(Self::Gpt2),
            "opt" => Ok(Self::Opt),
            other => {
                Err(fields.mistake(format!("model_type = {other:?} is not supported, only gpt2, llama, opt, qwen2 and qwen3")))
            }
        }
    }

    fn config(self, fields: &Fields) -> Result<ModelConfig> {
        match self {
            Self::Llama => llama::config(fields),
            Self::Qwen2 => qwen2::config(fields),
            Self::Qwen3 => qwen3::config(fields),
            Self::Gpt2 => gpt2::config(fields),
            Self::Opt => opt::config(fields),
        }
    }

    /// A `config.json` for `config`, which must be of this family.
    fn fields(self, config: &ModelConfig) -> Value {
        match self {
            Self::Llama => llama::fields(config),
            Self::Qwen2 => qwen2::fields(config),
            Self::Qwen3 => qwen3::fields(config),
            Self::Gpt2 => gpt2::fields(config),
            Self::Opt => opt::fields(config),
        }
    }

    /// Where the decoder's parameter with this name is stored.
    pub fn place(self, parameter: &str) -> TensorSlot {
        match self {
            Self::Llama => llama::place(parameter),
            Self::Qwen2 => qwen2::place(parameter),
            Self::Qwen3 => qwen3::place(parameter),
            Self::Gpt2 => gpt2::place(parameter),
            Self::Opt => opt::place(parameter),
        }
    }
}

/// A checkpoint folder with a supported configuration and exactly the expected tensors. Weights are read on demand.
pub struct Checkpoint {
    pub folder: PathBuf,
    pub config: ModelConfig,
    tensors: Tensors,
    /// The blocks that are kept, in their order; `None` for all.
    layers: Option<Vec<usize>>,
}

/// Opens the checkpoint in `folder`: `config.json` with one or several safetensors files. Anything unsupported, missing or
/// inconsistent is a [`hydrometer_base::UserError`] that names the field or the tensor.
pub fn open(folder: &Path) -> Result<Checkpoint> {
    let fields = Fields::read(folder)?;
    let config = Family::named(&fields)?.config(&fields)?;
    fields.finish()?;
    config.check(1).map_err(|why| fields.mistake(why))?;
    let checkpoint = Checkpoint { folder: folder.to_path_buf(), config, tensors: Tensors::open(folder)?, layers: None };
    checkpoint.check()?;
    Ok(checkpoint)
}

impl Checkpoint {
    /// Keeps only these blocks of the model, in this order.
    pub fn keep_layers(mut self, layers: &[usize]) -> Result<Self> {
        let count = self.config.num_hidden_layers;
        if let Some(layer) = layers.iter().find(|&&layer| layer >= count) {
            return Err(user_error!("{}: there is no layer {layer}, only 0 to {}", self.folder.display(), count - 1));
        }
        self.config.num_hidden_layers = layers.len();
        self.layers = Some(layers.to_vec());
        Ok(self)
    }

    /// A hash of the names and bytes of the weight files, in hex. It identifies the weights independently of the folder.
    pub fn content(&self) -> Result<String> {
        let mut list = String::new();
        for file in self.tensors.files() {
            list += &format!("{} {}\n", sha256_file(&file)?, file.file_name().unwrap_or_default().to_string_lossy());
        }
        Ok(sha256_hex(list.as_bytes()))
    }

    /// The name of a parameter in the checkpoint before any blocks were dropped.
    fn source(&self, parameter: &str) -> String {
        let inside = parameter.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        match (&self.layers, inside.and_then(|(layer, part)| Some((layer.parse::<usize>().ok()?, part)))) {
            (Some(layers), Some((layer, part))) => format!("model.layers.{}.{part}", layers[layer]),
            _ => parameter.to_string(),
        }
    }

    /// The name under which the tensor at `place` is stored. A checkpoint saved without its head lacks the prefix.
    fn find(&self, place: &TensorSlot) -> Option<String> {
        let bare = place.name.strip_prefix("model.").or_else(|| place.name.strip_prefix("transformer."));
        [Some(place.name.as_str()), bare].into_iter().flatten().find(|name| self.tensors.contains(name)).map(str::to_string)
    }

    fn place(&self, parameter: &Parameter) -> Result<(TensorSlot, String)> {
        let place = self.config.variant.family.place(&self.source(&parameter.name));
        let name = self.find(&place);
        let name = name.ok_or_else(|| user_error!("{}: tensor {} is missing", self.folder.display(), place.name))?;
        Ok((place, name))
    }

    /// An error unless every parameter is there in its shape, and nothing else is.
    fn check(&self) -> Result<()> {
        let mut known = HashSet::new();
        for parameter in parameters(&self.config) {
            let (place, name) = self.place(&parameter)?;
            self.tensors.check(&name, &place.stored(&parameter.shape))?;
            known.insert(name);
        }
        // Masks and tables that older versions of transformers saved.
        let table =
            |name: &str| [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|suffix| name.ends_with(suffix));
        for name in self.tensors.names().filter(|name| !known.contains(*name) && !table(name)) {
            let tied = name == "lm_head.weight" && !self.config.variant.untied_head;
            if !tied {
                return Err(user_error!(
                    "{}: tensor {name} is not part of the model that config.json describes",
                    self.folder.display()
                ));
            }
            let embedding = &parameters(&self.config)[0];
            self.tensors.check(name, &embedding.shape)?;
            if self.tensors.read(name)? != self.tensor(embedding)? {
                return Err(user_error!(
                    "{}: lm_head.weight differs from the embedding, but tie_word_embeddings makes them one; correct config.json",
                    self.folder.display()
                ));
            }
        }
        Ok(())
    }

    /// The whole tensor of a parameter, f32 on the CPU. An error unless all of its numbers are finite.
    pub fn tensor(&self, parameter: &Parameter) -> Result<Tensor> {
        let (place, name) = self.place(parameter)?;
        let mut tensor = self.tensors.read(&name)?;
        if !bool::try_from(tensor.isfinite().all())? {
            return Err(user_error!("{}: tensor {name} holds numbers that are not finite", self.folder.display()));
        }
        if place.transposed {
            tensor = tensor.tr();
        }
        let rows = parameter.shape[0];
        Ok(tensor.narrow(0, place.part.0 * rows, rows).contiguous())
    }

    /// Reads every parameter, to check that all numbers are finite.
    pub fn check_numbers(&self) -> Result<()> {
        parameters(&self.config).iter().try_for_each(|parameter| self.tensor(parameter).map(drop))
    }

    /// An error unless `tp` ranks can share the model and sequences of `context` tokens fit it.
    pub fn check_use(&self, tp: usize, context: usize) -> Result<()> {
        let checked = self.config.check(tp).and_then(|()| self.config.check_context(context));
        checked.map_err(|why| user_error!("{}: {why}", self.folder.join("config.json").display()))
    }

    /// The context length that the model was trained with, if the checkpoint states it.
    pub fn longest_context(&self) -> usize {
        match self.config.variant.positions {
            Positions::Learned { count, .. } => count,
            Positions::Rotary => self.config.variant.trained_positions.unwrap_or(usize::MAX),
        }
    }

    /// This rank's share of the weights, for training.
    pub fn weights(&self, kind: Kind, mesh: &Mesh) -> Result<Weights> {
        Weights::build(&self.config, kind, mesh, |parameter| self.tensor(parameter))
    }

    /// This rank's share of the decoder, for evaluation on sequences of up to `context` tokens.
    pub fn decoder(&self, context: usize, kind: Kind, mesh: &Mesh) -> Result<Decoder> {
        let leaves = frozen(&self.config, kind, mesh, |parameter| self.tensor(parameter))?;
        Ok(Decoder::new(&self.config, context, &leaves, mesh))
    }

    /// The path of the checkpoint's `tokenizer.json`.
    pub fn tokenizer(&self) -> Result<PathBuf> {
        let path = self.folder.join("tokenizer.json");
        if path.exists() {
            return Ok(path);
        }
        Err(user_error!(
            "{}: no tokenizer.json; save it with AutoTokenizer(...).save_pretrained of a fast tokenizer",
            path.display()
        ))
    }
}
