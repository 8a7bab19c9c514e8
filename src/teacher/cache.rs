//! The teacher cache: for every target token the k most likely ids, their logits and the logsumexp; or ids drawn from the whole
//! distribution; or both.
//!
//! A folder of blocks. A block is a safetensors file named by the SHA-256 of its bytes, so damage shows on opening; it holds
//! whole sequences, found by a hash of their tokens, so the cache does not depend on order, batch, seed or parallelism of
//! whoever reads it. Blocks only ever get added: a pass that was interrupted, or a run that needs more sequences, adds what
//! is missing.
//!
//! Values are kept as `logit − lse` in half precision (11 significant bits of a log-probability, so a probability is off by at
//! most 2⁻¹¹·|ln p|, relatively), ids in 2 bytes (4 if the vocabulary needs them), lse in f32: k·4 + 4·τ bytes a token for
//! vocabularies up to 65,536. A draw is an id and no more: 2 bytes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use super::kept::{Kept, narrow};
use crate::data::batch::Row;
use crate::data::tokens::TokenizedSplit;
use crate::objective::targets::Teacher;
use crate::objective::{Objective, Tail};
use crate::record::store::{replace_bytes, sha256_hex};
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
    /// Drawn ids at each temperature of draws, by token.
    pub draws: Vec<u32>,
}

impl Block {
    /// Writes the block into `folder`, for ids below `vocab_size`.
    pub fn write(&self, folder: &Path, kept: &Kept, vocab_size: usize) -> Result<()> {
        let tokens = self.lengths.iter().sum::<u64>() as usize;
        let narrow = narrow(vocab_size);
        let id_bytes = |ids: &[u32]| -> Vec<u8> {
            if narrow {
                ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect()
            } else {
                ids.iter().flat_map(|id| id.to_le_bytes()).collect()
            }
        };
        let (ids, draws) = (id_bytes(&self.ids), id_bytes(&self.draws));
        let keys: Vec<u8> = self.keys.concat();
        let lengths: Vec<u8> = self.lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        let logprobs: Vec<u8> = self.logprobs.iter().flat_map(|x| x.to_le_bytes()).collect();
        let lse: Vec<u8> = self.lse.iter().flat_map(|x| x.to_le_bytes()).collect();
        let n = self.keys.len();
        let id = if narrow { Dtype::U16 } else { Dtype::U32 };
        let drawn = kept.draw_temperatures.len() * kept.draws;
        let tensors = [
            ("keys", TensorView::new(Dtype::U8, vec![n, 16], &keys)?),
            ("lengths", TensorView::new(Dtype::U64, vec![n], &lengths)?),
            ("ids", TensorView::new(id, vec![tokens, kept.top_k], &ids)?),
            ("logprobs", TensorView::new(Dtype::F16, vec![tokens, kept.top_k], &logprobs)?),
            ("lse", TensorView::new(Dtype::F32, vec![tokens, kept.temperatures.len()], &lse)?),
            ("draws", TensorView::new(id, vec![tokens, drawn], &draws)?),
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
    kept: Kept,
}

struct OpenBlock {
    file: File,
    wide: bool,
    /// File offsets of the tensors.
    ids: u64,
    logprobs: u64,
    lse: u64,
    draws: u64,
}

#[derive(Clone, Copy)]
struct Place {
    block: usize,
    first_token: u64,
    targets: u64,
}

impl Cache {
    /// Opens all blocks of `folder` (none if it does not exist) and checks every byte of them.
    pub fn open(folder: &Path, kept: &Kept) -> Result<Self> {
        let mut cache = Self { blocks: Vec::new(), index: HashMap::new(), kept: kept.clone() };
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

    fn add(&mut self, path: &Path) -> Result<()> {
        let damaged = || user_error!("teacher cache block {} is damaged; delete it and run again", path.display());
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(sha256_hex(&bytes)[..32] == name, damaged());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
        let tensor = |name: &str| tensors.tensor(name).map_err(|_| damaged());
        let offset = |view: &TensorView| view.data().as_ptr() as u64 - bytes.as_ptr() as u64;
        let (keys, lengths, ids) = (tensor("keys")?, tensor("lengths")?, tensor("ids")?);
        let (logprobs, lse, draws) = (tensor("logprobs")?, tensor("lse")?, tensor("draws")?);
        let widths = [ids.shape()[1], lse.shape()[1], draws.shape()[1]];
        ensure!(widths == [self.kept.top_k, self.kept.temperatures.len(), self.drawn()], damaged());
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
            draws: offset(&draws),
        });
        Ok(())
    }

    pub fn contains(&self, key: &[u8; 16]) -> bool {
        self.index.contains_key(key)
    }

    /// What an arm with `objective` compares with at the counted tokens of `rows`: the `k` best ids, or as many draws.
    pub fn answers(
        &self,
        rows: &[Row],
        split: &TokenizedSplit,
        objective: Objective,
        k: usize,
        device: Device,
    ) -> Result<Teacher> {
        match objective.tail() {
            Some(Tail::Sampled) => self.drawn_targets(rows, split, k, objective.temperature(), device),
            _ => self.best_targets(rows, split, k, objective.temperature(), device),
        }
    }

    fn best_targets(&self, rows: &[Row], split: &TokenizedSplit, k: usize, temperature: f64, device: Device) -> Result<Teacher> {
        let Kept { top_k, temperatures, .. } = &self.kept;
        let column = column(temperatures, temperature).ok_or_else(|| anyhow!("the cache has no lse at {temperature}"))?;
        let unit = column_of_one(temperatures)?;
        ensure!(k <= *top_k, "the teacher cache has the top {top_k}, not {k}");
        let (mut ids, mut logits, mut lses) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let stretch = self.stretch(row, split)?;
            let row_ids = stretch.ids(stretch.block.ids, *top_k)?;
            let logprob_bytes = stretch.bytes(stretch.block.logprobs, top_k * 2)?;
            let lse_bytes = stretch.bytes(stretch.block.lse, temperatures.len() * 4)?;
            let lse_at = |token: usize, column: usize| {
                let at = (token * temperatures.len() + column) * 4;
                f32::from_le_bytes(lse_bytes[at..at + 4].try_into().expect("4 bytes"))
            };
            for token in 0..stretch.count {
                for at in token * top_k..token * top_k + k {
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

    /// Draws weigh 1/k each: a smaller number of them is as unbiased as all that are kept.
    fn drawn_targets(&self, rows: &[Row], split: &TokenizedSplit, k: usize, temperature: f64, device: Device) -> Result<Teacher> {
        let Kept { draws, draw_temperatures, .. } = &self.kept;
        let column = column(draw_temperatures, temperature).ok_or_else(|| anyhow!("the cache has no draws at {temperature}"))?;
        ensure!(k <= *draws, "the teacher cache has {draws} draws, not {k}");
        let mut ids: Vec<i64> = Vec::new();
        for row in rows {
            let stretch = self.stretch(row, split)?;
            let all = stretch.ids(stretch.block.draws, self.drawn())?;
            ids.extend(all.chunks(self.drawn()).flat_map(|token| &token[column * draws..column * draws + k]));
        }
        let ids_nk = Tensor::from_slice(&ids).view([-1, k as i64]).to_device(device);
        let logprobs_nk = Tensor::full_like(&ids_nk, 0).to_kind(Kind::Float) - (k as f64).ln();
        Ok(Teacher::listed(ids_nk, Some(logprobs_nk), None))
    }

    /// Drawn ids a token.
    fn drawn(&self) -> usize {
        self.kept.draws * self.kept.draw_temperatures.len()
    }

    /// Where the counted tokens of `row` lie.
    fn stretch(&self, row: &Row, split: &TokenizedSplit) -> Result<Stretch<'_>> {
        let place = self.index.get(&row.sequence.key(split));
        let place = place.ok_or_else(|| anyhow!("the teacher cache lacks a sequence that this run trains on"))?;
        ensure!(row.to as u64 <= place.targets, "the teacher cache holds a shorter sequence than this run trains on");
        let first = place.first_token + row.from as u64;
        Ok(Stretch { block: &self.blocks[place.block], first, count: row.targets() })
    }
}

/// Tokens that follow one another in a block.
struct Stretch<'a> {
    block: &'a OpenBlock,
    first: u64,
    count: usize,
}

impl Stretch<'_> {
    /// Their part of the tensor that begins at `start`, of `width` bytes a token.
    fn bytes(&self, start: u64, width: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; self.count * width];
        let at = start + self.first * width as u64;
        self.block.file.read_exact_at(&mut buffer, at).context("cannot read the teacher cache")?;
        Ok(buffer)
    }

    /// Their part of a tensor of `each` ids a token.
    fn ids(&self, start: u64, each: usize) -> Result<Vec<i64>> {
        let bytes = self.bytes(start, each * if self.block.wide { 4 } else { 2 })?;
        Ok(if self.block.wide {
            bytes.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes(b.try_into().expect("4 bytes")))).collect()
        } else {
            bytes.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes(b.try_into().expect("2 bytes")))).collect()
        })
    }
}

fn column(temperatures: &[f64], temperature: f64) -> Option<usize> {
    temperatures.iter().position(|&t| t == temperature)
}

fn column_of_one(temperatures: &[f64]) -> Result<usize> {
    column(temperatures, 1.0).context("the teacher cache has no lse at temperature 1")
}
