//! The teacher cache: for every target token the k most likely ids, their logits and the logsumexp.
//!
//! A folder of blocks. A block is a safetensors file named by the SHA-256 of its bytes, so damage shows on opening; it holds
//! whole sequences, found by a hash of their tokens, so the cache does not depend on order, batch, seed or parallelism of
//! whoever reads it. Blocks only ever get added: a pass that was interrupted, or a run that needs more sequences, adds what
//! is missing.
//!
//! Values are kept as `logit − lse` in half precision (11 significant bits of a log-probability, so a probability is off by at
//! most 2⁻¹¹·|ln p|, relatively), ids in 2 bytes (4 if the vocabulary needs them), lse in f32: k·4 + 4·τ bytes a token for
//! vocabularies up to 65,536.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Tensor};

use crate::data::batch::Row;
use crate::data::tokens::TokenizedSplit;
use crate::objective::targets::Teacher;
use crate::record::store::{replace_bytes, sha256_file, sha256_hex};
use crate::user_error;

/// The answers for some sequences, ready to be written.
#[derive(Default)]
pub struct Block {
    pub keys: Vec<[u8; 16]>,
    /// Targets of each sequence.
    pub lengths: Vec<u64>,
    pub ids: Vec<u32>,
    /// `logit − lse` at τ = 1.
    pub logprobs: Vec<f16>,
    /// logsumexp at each temperature, by token.
    pub lse: Vec<f32>,
}

impl Block {
    /// Writes the block into `folder` for top `k` over `vocab_size` ids.
    pub fn write(&self, folder: &Path, k: usize, temperatures: &[f64], vocab_size: usize) -> Result<()> {
        let tokens = self.lengths.iter().sum::<u64>() as usize;
        let narrow = vocab_size <= 1 << 16;
        let ids: Vec<u8> = if narrow {
            self.ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect()
        } else {
            self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
        };
        let keys: Vec<u8> = self.keys.concat();
        let lengths: Vec<u8> = self.lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        let logprobs: Vec<u8> = self.logprobs.iter().flat_map(|x| x.to_le_bytes()).collect();
        let lse: Vec<u8> = self.lse.iter().flat_map(|x| x.to_le_bytes()).collect();
        let n = self.keys.len();
        let tensors = [
            ("keys", TensorView::new(Dtype::U8, vec![n, 16], &keys)?),
            ("lengths", TensorView::new(Dtype::U64, vec![n], &lengths)?),
            ("ids", TensorView::new(if narrow { Dtype::U16 } else { Dtype::U32 }, vec![tokens, k], &ids)?),
            ("logprobs", TensorView::new(Dtype::F16, vec![tokens, k], &logprobs)?),
            ("lse", TensorView::new(Dtype::F32, vec![tokens, temperatures.len()], &lse)?),
        ];
        let bytes = safetensors::serialize(tensors, None::<HashMap<String, String>>)?;
        fs::create_dir_all(folder)?;
        replace_bytes(&folder.join(format!("{}.block", &sha256_hex(&bytes)[..32])), &bytes)
    }
}

/// An open cache.
pub struct Cache {
    blocks: Vec<OpenBlock>,
    index: HashMap<[u8; 16], Place>,
    /// Ids kept per token.
    k: usize,
    temperatures: Vec<f64>,
}

struct OpenBlock {
    file: File,
    wide: bool,
    /// File offsets of the tensors.
    ids: u64,
    logprobs: u64,
    lse: u64,
}

#[derive(Clone, Copy)]
struct Place {
    block: usize,
    first_token: u64,
    targets: u64,
}

impl Cache {
    /// Opens all blocks of `folder` (none if it does not exist) and checks every byte of them.
    pub fn open(folder: &Path, k: usize, temperatures: &[f64]) -> Result<Self> {
        let mut cache = Self { blocks: Vec::new(), index: HashMap::new(), k, temperatures: temperatures.to_vec() };
        let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
            Err(_) => return Ok(cache),
        };
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "block"));
        paths.sort();
        for path in paths {
            cache.add(&path)?;
        }
        Ok(cache)
    }

    /// Deletes the damaged blocks of `folder`, so that a pass makes them again; returns their paths.
    pub fn mend(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut damaged = Vec::new();
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_some_and(|extension| extension == "block") && sha256_file(&path)?[..32] != name {
                fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
                damaged.push(path);
            }
        }
        damaged.sort();
        Ok(damaged)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let damaged = || user_error!("teacher cache block {} is damaged; delete it and run again", path.display());
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(sha256_hex(&bytes)[..32] == name, damaged());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
        let tensor = |name: &str| tensors.tensor(name).map_err(|_| damaged());
        let offset = |view: &TensorView| view.data().as_ptr() as u64 - bytes.as_ptr() as u64;
        let (keys, lengths, ids) = (tensor("keys")?, tensor("lengths")?, tensor("ids")?);
        let (logprobs, lse) = (tensor("logprobs")?, tensor("lse")?);
        ensure!(ids.shape()[1] == self.k && lse.shape()[1] == self.temperatures.len(), damaged());
        let block = self.blocks.len();
        let mut first_token = 0;
        for (key, length) in keys.data().chunks_exact(16).zip(lengths.data().chunks_exact(8)) {
            let targets = u64::from_le_bytes(length.try_into().expect("8 bytes"));
            self.index.insert(key.try_into().expect("16 bytes"), Place { block, first_token, targets });
            first_token += targets;
        }
        self.blocks.push(OpenBlock {
            file: File::open(path)?,
            wide: ids.dtype() == Dtype::U32,
            ids: offset(&ids),
            logprobs: offset(&logprobs),
            lse: offset(&lse),
        });
        Ok(())
    }

    pub fn contains(&self, key: &[u8; 16]) -> bool {
        self.index.contains_key(key)
    }

    /// The `k` best targets of the counted tokens of `rows`, at `temperature`.
    pub fn targets(&self, rows: &[Row], split: &TokenizedSplit, k: usize, temperature: f64, device: Device) -> Result<Teacher> {
        let column = self.temperatures.iter().position(|&t| t == temperature);
        let column = column.ok_or_else(|| anyhow!("the teacher cache has no lse at temperature {temperature}"))?;
        let unit = self.temperatures.iter().position(|&t| t == 1.0).context("the teacher cache has no lse at temperature 1")?;
        let (mut ids, mut logits, mut lses) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let place = self.index.get(&row.sequence.key(split));
            let place = place.ok_or_else(|| anyhow!("the teacher cache lacks a sequence that this run trains on"))?;
            ensure!(row.to as u64 <= place.targets, "the teacher cache holds a shorter sequence than this run trains on");
            let block = &self.blocks[place.block];
            let (first, count) = (place.first_token + row.from as u64, row.targets());
            let bytes = |start: u64, width: usize| -> Result<Vec<u8>> {
                let mut buffer = vec![0; count * width];
                block.file.read_exact_at(&mut buffer, start + first * width as u64).context("cannot read the teacher cache")?;
                Ok(buffer)
            };
            let id_bytes = bytes(block.ids, self.k * if block.wide { 4 } else { 2 })?;
            let row_ids: Vec<i64> = if block.wide {
                id_bytes.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes(b.try_into().expect("4 bytes")))).collect()
            } else {
                id_bytes.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes(b.try_into().expect("2 bytes")))).collect()
            };
            let logprob_bytes = bytes(block.logprobs, self.k * 2)?;
            let lse_bytes = bytes(block.lse, self.temperatures.len() * 4)?;
            let lse_at = |token: usize, column: usize| {
                let at = (token * self.temperatures.len() + column) * 4;
                f32::from_le_bytes(lse_bytes[at..at + 4].try_into().expect("4 bytes"))
            };
            for token in 0..count {
                for j in 0..k {
                    let at = token * self.k + j;
                    ids.push(row_ids[at]);
                    let logprob = f16::from_le_bytes([logprob_bytes[2 * at], logprob_bytes[2 * at + 1]]).to_f32();
                    logits.push(logprob + lse_at(token, unit));
                }
                lses.push(lse_at(token, column));
            }
        }
        let n = lses.len() as i64;
        let shaped = |t: Tensor| t.view([n, k as i64]).to_device(device);
        let lse_n1 = Tensor::from_slice(&lses).unsqueeze(1).to_device(device);
        Ok(Teacher::from_logits(shaped(Tensor::from_slice(&ids)), shaped(Tensor::from_slice(&logits)), &lse_n1, temperature))
    }
}
