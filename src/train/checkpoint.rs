//! Checkpoints: whole tensors under Hugging Face's names in one safetensors file, whatever the parallelism, with a checksum.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use super::optimizer::AdamW;
use crate::dist::Mesh;
use crate::model::{ModelConfig, Weights};
use crate::record::store::{replace_bytes, sha256_hex};

/// Saves weights and, if given, the optimizer; every rank calls, the first writes. The SHA-256 goes to `<path>.sha256`, as
/// `sha256sum -c` reads it.
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
    // The checkpoint carries its own checksum beside it; a pair that does not match is refused, never half-used.
    replace_bytes(path, &bytes)?;
    replace_bytes(&sidecar(path), checksum.as_bytes())
}

/// Fresh [`Weights`] from a checkpoint.
pub fn load_weights(path: &Path, config: &ModelConfig, kind: Kind, mesh: &Mesh) -> Result<Weights> {
    let bytes = verified(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Weights::build(config, kind, mesh, |parameter| read(&tensors, &parameter.name, &parameter.shape))
}

/// Restores weights and optimizer in place.
pub fn resume(path: &Path, weights: &Weights, optimizer: &mut AdamW, mesh: &Mesh) -> Result<()> {
    let bytes = verified(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    for (index, parameter) in weights.parameters.iter().enumerate() {
        for (prefix, flat) in [("", &weights.master), ("exp_avg.", &optimizer.exp_avg), ("exp_avg_sq.", &optimizer.exp_avg_sq)] {
            let full = read(&tensors, &format!("{prefix}{}", parameter.name), &parameter.shape)?;
            weights.load(flat, index, &full.to_device(mesh.device), mesh);
        }
    }
    weights.refresh_leaves();
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let updates = header.metadata().as_ref().and_then(|note| note.get("updates")?.parse().ok());
    optimizer.updates = updates.ok_or_else(|| anyhow!("{} does not tell its updates", path.display()))?;
    Ok(())
}

fn sidecar(path: &Path) -> std::path::PathBuf {
    path.with_extension("safetensors.sha256")
}

fn verified(path: &Path) -> Result<Vec<u8>> {
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
