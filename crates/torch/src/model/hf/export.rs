//! Exports a model as a Hugging Face folder: `config.json`, safetensors under the family's names, tokenizer and special tokens.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::user_error;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tch::{Device, Tensor};

use super::TensorSlot;
use super::special::SpecialTokens;
use crate::dist::Mesh;
use crate::model::{ModelConfig, Weights};

/// Name, shape and bytes of a tensor as it is stored.
type StoredTensor<'a> = (&'a str, Vec<i64>, Vec<u8>);

/// Exports `weights` of `config` to `folder`, which must be new or empty, in f32, with at most `file_bytes` per file (a larger
/// tensor gets a file of its own), a copy of `tokenizer`, and the special tokens that the files beside it declare. A collective
/// call: every rank must call it; the first one writes.
pub fn export(
    folder: &Path,
    config: &ModelConfig,
    weights: &Weights,
    tokenizer: Option<&Path>,
    file_bytes: u64,
    mesh: &Mesh,
) -> Result<()> {
    let special = tokenizer.map(|path| SpecialTokens::of(path, path.parent(), None)).transpose()?;
    export_with(folder, config, weights, special.as_ref(), file_bytes, mesh)
}

/// Like [`export`], with a tokenizer whose special tokens are `special`.
pub fn export_with(
    folder: &Path,
    config: &ModelConfig,
    weights: &Weights,
    special: Option<&SpecialTokens>,
    file_bytes: u64,
    mesh: &Mesh,
) -> Result<()> {
    let family = config.variant.family;
    if mesh.is_first() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if fs::read_dir(folder)?.next().is_some() {
            return Err(user_error!("{} is not empty; export to a new folder", folder.display()));
        }
    }
    let places: Vec<TensorSlot> = weights.parameters.iter().map(|parameter| family.place(&parameter.name)).collect();
    let stored = |index: usize| places[index].stored(&weights.parameters[index].shape);
    let (files, file_of) = plan(places.iter().enumerate().map(|(i, p)| (&p.name, stored(i))), file_bytes);
    let name = |file: usize| match files.len() {
        1 => "model.safetensors".to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", file + 1),
    };

    let mut parts: HashMap<&str, Vec<Tensor>> = HashMap::new();
    let mut ready: HashMap<usize, Vec<StoredTensor>> = HashMap::new();
    for (index, place) in places.iter().enumerate() {
        let full = weights.full(&weights.master, index, mesh)?;
        if !mesh.is_first() {
            continue;
        }
        // Parts of a stored tensor come in order.
        let collected = parts.entry(&place.name).or_default();
        collected.push(full.to_device(Device::Cpu));
        if (collected.len() as i64) < place.part.1 {
            continue;
        }
        let whole = Tensor::cat(&parts.remove(place.name.as_str()).unwrap_or_default(), 0);
        let whole = if place.transposed { whole.tr() } else { whole };
        let values = Vec::<f32>::try_from(whole.contiguous().flatten(0, -1))?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let file = file_of[place.name.as_str()];
        let waiting = ready.entry(file).or_default();
        waiting.push((&place.name, whole.size(), bytes));
        if waiting.len() == files[file] {
            write(&folder.join(name(file)), &ready.remove(&file).unwrap_or_default())?;
        }
    }
    if !mesh.is_first() {
        return Ok(());
    }
    if files.len() > 1 {
        let total: i64 = weights.parameters.iter().map(|p| 4 * p.shape.iter().product::<i64>()).sum();
        let map: BTreeMap<&str, String> = file_of.iter().map(|(tensor, &file)| (*tensor, name(file))).collect();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        replace_bytes(&folder.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    let mut fields = family.fields(config);
    if let Some(special) = special {
        special.write(folder)?;
        special.complete(&mut fields);
    }
    fields["dtype"] = json!("float32");
    // Written last: a folder with a config.json is complete.
    replace_bytes(&folder.join("config.json"), format!("{fields:#}\n").as_bytes())
}

/// The file for each stored tensor, and the number of tensors per file.
fn plan<'a>(stored: impl Iterator<Item = (&'a String, Vec<i64>)>, file_bytes: u64) -> (Vec<usize>, HashMap<&'a str, usize>) {
    let (mut files, mut file_of, mut filled) = (vec![0], HashMap::new(), 0);
    for (name, shape) in stored {
        if file_of.contains_key(name.as_str()) {
            continue;
        }
        let bytes = 4 * shape.iter().product::<i64>() as u64;
        if filled > 0 && filled + bytes > file_bytes {
            files.push(0);
            filled = 0;
        }
        filled += bytes;
        *files.last_mut().expect("at least one file") += 1;
        file_of.insert(name.as_str(), files.len() - 1);
    }
    (files, file_of)
}

fn write(path: &Path, tensors: &[(&str, Vec<i64>, Vec<u8>)]) -> Result<()> {
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let shape = shape.iter().map(|&n| n as usize).collect();
            Ok((*name, TensorView::new(Dtype::F32, shape, bytes)?))
        })
        .collect::<Result<_>>()?;
    // transformers requires the framework that wrote the file.
    let note = HashMap::from([("format".to_string(), "pt".to_string())]);
    replace_bytes(path, &safetensors::serialize(views, Some(note))?)
}
