//! The teacher cache. It stores for every target token the k most likely ids with their logprobs and the logsumexp, or ids drawn
//! from the full distribution, or both.
//!
//! A folder of blocks (see [`super::block`]) that hold whole sequences, found by a hash of their tokens. So the cache does not
//! depend on the order, batch, RNG seed or parallelism of its readers. Blocks are only ever added: an interrupted pass, or a run
//! that needs more sequences, adds what is missing.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hydrometer_base::fs::{sha256_file, unreadable};
use hydrometer_data::batch::Row;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::objective::targets::Teacher;
use hydrometer_torch::objective::{Objective, Tail};
use tch::{Device, Kind, Tensor};

use super::block::{Answers, BlockEntry, OpenBlock};
use super::manifest::{self, CacheManifest};

/// An open cache.
pub struct Cache {
    pub title: CacheManifest,
    blocks: Vec<OpenBlock>,
    index: HashMap<[u8; 16], (usize, BlockEntry)>,
    /// Size of all blocks on disk.
    pub bytes: u64,
}

impl Cache {
    /// Opens all blocks of `folder` (none if it does not exist), and verifies their checksums and their manifest.
    pub fn open(folder: &Path, title: &CacheManifest) -> Result<Self> {
        let mut cache = Self { title: title.clone(), blocks: Vec::new(), index: HashMap::new(), bytes: 0 };
        let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(cache),
            Err(error) => return Err(unreadable(folder, error)),
        };
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "block"));
        paths.sort();
        for path in paths {
            let (block, places) = OpenBlock::open(&path, title)?;
            let number = cache.blocks.len();
            cache.index.extend(places.into_iter().map(|(key, place)| (key, (number, place))));
            cache.blocks.push(block);
            cache.bytes += fs::metadata(&path)?.len();
        }
        Ok(cache)
    }

    /// Deletes the damaged blocks of `folder` and a damaged manifest, so that the next pass rebuilds them; returns their paths.
    /// If the folder's name shows that it is the cache of `title`, any other manifest in it is damage too; otherwise it belongs
    /// to another cache and is left alone.
    pub fn remove_corrupt(folder: &Path, title: &CacheManifest) -> Result<Vec<PathBuf>> {
        let mut damaged = Vec::new();
        let named = folder.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&format!("-{}", &title.hash()[..8])));
        let is_title = |bytes: &[u8]| match named {
            true => serde_json::from_slice::<CacheManifest>(bytes).is_ok_and(|found| found == *title),
            false => serde_json::from_slice::<serde_json::Value>(bytes).is_ok(),
        };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(damaged),
            entries => entries.map_err(|error| unreadable(folder, error))?,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ours = path.extension().is_some_and(|extension| extension == "block") || path.ends_with(manifest::FILE);
            let whole = match ours && path.is_file() {
                true if path.ends_with(manifest::FILE) => is_title(&fs::read(&path)?),
                true => sha256_file(&path)?[..32] == name,
                false => !ours,
            };
            if !whole {
                let deleted = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
                deleted.with_context(|| format!("{} is damaged and cannot be deleted", path.display()))?;
                damaged.push(path);
            }
        }
        damaged.sort();
        Ok(damaged)
    }

    /// Whether the cache holds the sequence with this [`Sequence::key`].
    pub fn contains(&self, key: &[u8; 16]) -> bool {
        self.index.contains_key(key)
    }

    /// Number of target tokens of all sequences.
    pub fn targets(&self) -> u64 {
        self.index.values().map(|(_, place)| place.targets).sum()
    }

    /// The teacher targets for the counted targets of `row`.
    pub fn read(&self, row: &Row, split: &TokenizedSplit) -> Result<Answers> {
        let place = self.index.get(&row.sequence.key(split));
        let &(block, place) = place.ok_or_else(|| anyhow!("the teacher cache lacks a sequence that is asked for"))?;
        ensure!(row.to as u64 <= place.targets, "the teacher cache holds a shorter sequence than is asked for");
        self.blocks[block].read(place, row.from, row.to, &self.title)
    }

    /// The teacher targets for an arm with `objective` at the counted tokens of `rows`: the `k` most likely ids, or k draws.
    pub fn answers(
        &self,
        rows: &[Row],
        split: &TokenizedSplit,
        objective: Objective,
        k: usize,
        device: Device,
    ) -> Result<Teacher> {
        let temperature = objective.temperature().unwrap_or(1.0);
        match objective.tail() {
            Some(Tail::Sampled) => self.drawn_targets(rows, split, k, temperature, device),
            _ => self.best_targets(rows, split, k, temperature, device),
        }
    }

    fn best_targets(&self, rows: &[Row], split: &TokenizedSplit, k: usize, temperature: f64, device: Device) -> Result<Teacher> {
        let kept = &self.title.kept;
        let (unit, column) = (column(&kept.temperatures, 1.0)?, column(&kept.temperatures, temperature)?);
        ensure!(k <= kept.top_k, "the teacher cache has the top {}, not {k}", kept.top_k);
        let (mut ids, mut logits, mut lses, mut short) = (Vec::new(), Vec::new(), Vec::new(), false);
        for row in rows {
            let Answers { ids: all, logprobs, lse, .. } = self.read(row, split)?;
            for (token, lse) in lse.chunks(kept.temperatures.len()).enumerate() {
                let best = token * kept.top_k..token * kept.top_k + k;
                ids.extend(all[best.clone()].iter().map(|&id| i64::from(id)));
                short |= logprobs[best.clone()].contains(&f32::NEG_INFINITY);
                logits.extend(logprobs[best].iter().map(|logprob| logprob + lse[unit]));
                lses.push(lse[column]);
            }
        }
        let n = lses.len() as i64;
        let shaped = |t: Tensor| t.view([n, k as i64]).to_device(device);
        let lse_n1 = Tensor::from_slice(&lses).unsqueeze(1).to_device(device);
        let (ids_nk, logits_nk) = (shaped(Tensor::from_slice(&ids)), shaped(Tensor::from_slice(&logits)));
        if short {
            // A recorded row with fewer ids repeats one of them without weight, which must not count as another outcome.
            let logprobs_nk = &logits_nk / temperature - &lse_n1;
            return Ok(Teacher::listed(ids_nk, Some(logprobs_nk), Some(logits_nk)));
        }
        Ok(Teacher::from_logits(ids_nk, logits_nk, &lse_n1, temperature))
    }

    /// Each draw has weight 1/k: using fewer of them is unbiased too.
    fn drawn_targets(&self, rows: &[Row], split: &TokenizedSplit, k: usize, temperature: f64, device: Device) -> Result<Teacher> {
        let kept = &self.title.kept;
        let start = column(&kept.draw_temperatures, temperature)? * kept.draws;
        ensure!(k <= kept.draws, "the teacher cache has {} draws, not {k}", kept.draws);
        let mut ids: Vec<i64> = Vec::new();
        for row in rows {
            let draws = self.read(row, split)?.draws;
            ids.extend(draws.chunks(kept.drawn()).flat_map(|token| &token[start..start + k]).map(|&id| i64::from(id)));
        }
        let ids_nk = Tensor::from_slice(&ids).view([-1, k as i64]).to_device(device);
        let logprobs_nk = ids_nk.zeros_like().to_kind(Kind::Float) - (k as f64).ln();
        Ok(Teacher::listed(ids_nk, Some(logprobs_nk), None))
    }
}

fn column(temperatures: &[f64], temperature: f64) -> Result<usize> {
    let found = temperatures.iter().position(|&t| t == temperature);
    found.ok_or_else(|| anyhow!("the teacher cache was not made for temperature {temperature}"))
}
