//! Checkpoints: full tensors under Hugging Face's names in one safetensors file, independent of the parallelism, with a checksum.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hydrometer_base::fs::{replace_bytes, sha256_file, sha256_hex};
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::weights::{Leaf, frozen};
use hydrometer_torch::model::{ModelConfig, Weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use super::optimizer::AdamW;

/// Saves weights and, if given, the optimizer. Every rank must call it; the first one writes. The SHA-256 is written to
/// `<path>.sha256`, in the format of `sha256sum -c`.
pub fn save(path: &Path, weights: &Weights, optimizer: Option<&AdamW>, mesh: &Mesh) -> Result<()> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |prefix: &str, flat: &Tensor| -> Result<()> {
        for (index, parameter) in weights.parameters.iter().enumerate() {
            let full = weights.full(flat, index, mesh)?;
            if mesh.is_first() {
                let values = Vec::<f32>::try_from(full.to_device(Device::Cpu).flatten(0, -1))?;
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let shape = parameter.shape.iter().map(|&n| n as usize).collect();
                tensors.push((format!("{prefix}{}", parameter.name), shape, bytes));
            }
        }
        Ok(())
    };
    add("", &weights.master)?;
    let mut updates = 0;
    if let Some(optimizer) = optimizer {
        add("exp_avg.", &optimizer.exp_avg)?;
        add("exp_avg_sq.", &optimizer.exp_avg_sq)?;
        updates = optimizer.updates;
    }
    if !mesh.is_first() {
        return Ok(());
    }
    let views: Vec<(String, TensorView)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<_>>()?;
    let note = HashMap::from([("updates".to_string(), updates.to_string())]);
    let bytes = safetensors::serialize(views, Some(note))?;
    let name = path.file_name().context("a file name")?.to_string_lossy();
    let checksum = format!("{}  {name}\n", sha256_hex(&bytes));
    // The checksum is written first: once the checkpoint exists, it is complete. A pair that does not match is refused.
    replace_bytes(&sidecar(path), checksum.as_bytes())?;
    replace_bytes(path, &bytes)
}

/// The path of the checkpoint after `step`.
pub fn path_of(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoint-{step:08}.safetensors"))
}

/// The steps after which `folder` has checkpoints, newest first.
pub fn steps(folder: &Path) -> Vec<u64> {
    let step = |name: &str| name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut steps: Vec<u64> = entries.filter_map(|entry| step(&entry.file_name().to_string_lossy())).collect();
    steps.sort_by(|a, b| b.cmp(a));
    steps
}

/// Deletes all but the newest `keep` checkpoints of `folder`, with their checksums.
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    steps(folder).into_iter().skip(keep).try_for_each(|step| remove(folder, step))
}

/// Deletes the checkpoints of `folder` after `step`.
pub fn remove_after(folder: &Path, step: u64) -> Result<()> {
    steps(folder).into_iter().filter(|&found| found > step).try_for_each(|step| remove(folder, step))
}

fn remove(folder: &Path, step: u64) -> Result<()> {
    let path = path_of(folder, step);
    fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
    let _ = fs::remove_file(sidecar(&path));
    Ok(())
}

/// Whether the checkpoint at `path` exists and matches its checksum.
pub fn verify_checksum(path: &Path) -> bool {
    let recorded = fs::read_to_string(sidecar(path)).unwrap_or_default();
    sha256_file(path).is_ok_and(|found| recorded.starts_with(&found))
}

/// New [`Weights`] from a checkpoint.
pub fn load_weights(path: &Path, config: &ModelConfig, kind: Kind, mesh: &Mesh) -> Result<Weights> {
    let bytes = verified(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Weights::build(config, kind, mesh, |parameter| read(&tensors, &parameter.name, &parameter.shape))
}

/// This rank's parameters of a checkpoint, for a model that is not trained.
pub fn load_frozen(path: &Path, config: &ModelConfig, kind: Kind, mesh: &Mesh) -> Result<Vec<Leaf>> {
    let bytes = verified(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    frozen(config, kind, mesh, |parameter| read(&tensors, &parameter.name, &parameter.shape))
}

/// Restores weights and optimizer in place from `bytes`, which [`verified`] gave of `path`.
pub fn restore(path: &Path, bytes: &[u8], weights: &Weights, optimizer: &mut AdamW, mesh: &Mesh) -> Result<()> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    for (index, parameter) in weights.parameters.iter().enumerate() {
        for (prefix, flat) in [("", &weights.master), ("exp_avg.", &optimizer.exp_avg), ("exp_avg_sq.", &optimizer.exp_avg_sq)] {
            let full = read(&tensors, &format!("{prefix}{}", parameter.name), &parameter.shape)?;
            weights.load(flat, index, &full.to_device(mesh.device), mesh);
        }
    }
    weights.refresh_leaves();
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let updates = header.metadata().as_ref().and_then(|note| note.get("updates")?.parse().ok());
    optimizer.updates = updates.ok_or_else(|| anyhow!("{} does not record its number of updates", path.display()))?;
    Ok(())
}

fn sidecar(path: &Path) -> PathBuf {
    path.with_extension("safetensors.sha256")
}

/// The bytes of the checkpoint at `path`; an error if they do not match its checksum.
pub fn verified(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let checksum = fs::read_to_string(sidecar(path)).with_context(|| format!("{} has no checksum", path.display()))?;
    ensure!(checksum.starts_with(&sha256_hex(&bytes)), "{} is damaged: its checksum does not match", path.display());
    Ok(bytes)
}

fn read(tensors: &SafeTensors, name: &str, shape: &[i64]) -> Result<Tensor> {
    let view = tensors.tensor(name).map_err(|error| anyhow!("{name}: {error}"))?;
    let found: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
    ensure!(view.dtype() == Dtype::F32 && found == shape, "{name} is {:?} {found:?}, not F32 {shape:?}", view.dtype());
    Ok(Tensor::from_data_size(view.data(), shape, Kind::Float))
}
