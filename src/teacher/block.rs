//! A block of a teacher cache: the targets of some sequences, each readable separately.
//!
//! A safetensors file named by the SHA-256 of its bytes, so damage is detected when it is opened. The targets of a sequence are a
//! bit stream (see [`super::pack`]) that begins at a byte boundary: for each token its top-k ids, their logprobs, and its draws.
//! Logsumexps are stored separately in f32. With top-k ids of b bits, a token takes about k·(b + 12) bits, plus 4 bytes per
//! temperature.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hydrometer_base::fs::{replace_bytes, sha256_hex, unreadable};
use hydrometer_base::user_error;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::manifest::CacheManifest;
use super::pack::{Reader, Writer};

/// Teacher targets for a range of tokens, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// The top-k ids, best first.
    pub ids: Vec<u32>,
    /// Their `logit − lse` at τ = 1.
    pub logprobs: Vec<f32>,
    /// logsumexp(z/τ) at each temperature.
    pub lse: Vec<f32>,
    /// The ids drawn at each draw temperature.
    pub draws: Vec<u32>,
}

impl Answers {
    /// Appends the targets of the tokens that follow.
    pub fn append(&mut self, mut next: Answers) {
        self.ids.append(&mut next.ids);
        self.logprobs.append(&mut next.logprobs);
        self.lse.append(&mut next.lse);
        self.draws.append(&mut next.draws);
    }
}

/// Targets of some sequences, ready to be written.
#[derive(Default)]
pub struct Block {
    pub keys: Vec<[u8; 16]>,
    /// Number of targets of each sequence.
    pub lengths: Vec<u64>,
    pub answers: Answers,
}

impl Block {
    /// Writes the block into `folder`, as part of the cache with manifest `title`.
    pub fn write(&self, folder: &Path, title: &CacheManifest) -> Result<()> {
        let (top_k, drawn) = (title.kept.top_k, title.kept.drawn());
        let tokens = self.lengths.iter().sum::<u64>() as usize;
        let Answers { ids, logprobs, lse, draws } = &self.answers;
        let counts = [ids.len(), logprobs.len(), lse.len(), draws.len()];
        let wanted = [top_k, top_k, title.kept.temperatures.len(), drawn].map(|each| each * tokens);
        ensure!(counts == wanted, "a block of {tokens} tokens has {counts:?} numbers, not {wanted:?}");
        let (mut writer, mut ends) = (Writer::default(), Vec::new());
        let (mut token, mut order) = (0, Vec::new());
        for &length in &self.lengths {
            for token in token..token + length as usize {
                let own = token * top_k..(token + 1) * top_k;
                // A teacher pass yields them sorted; recorded logprobs may not be.
                order.clear();
                order.extend(own);
                order.sort_by(|&a, &b| logprobs[b].total_cmp(&logprobs[a]));
                order.iter().for_each(|&at| writer.id(ids[at], title.id_bits()));
                writer.logprobs(order.iter().map(|&at| logprobs[at]));
                draws[token * drawn..(token + 1) * drawn].iter().for_each(|&id| writer.id(id, title.id_bits()));
            }
            token += length as usize;
            ends.extend(writer.align().to_le_bytes());
        }
        let lengths: Vec<u8> = self.lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        let lse: Vec<u8> = lse.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (n, keys) = (self.keys.len(), self.keys.concat());
        let tensors = [
            ("keys", TensorView::new(Dtype::U8, vec![n, 16], &keys)?),
            ("lengths", TensorView::new(Dtype::U64, vec![n], &lengths)?),
            ("ends", TensorView::new(Dtype::U64, vec![n], &ends)?),
            ("answers", TensorView::new(Dtype::U8, vec![writer.bytes.len()], &writer.bytes)?),
            ("lse", TensorView::new(Dtype::F32, vec![tokens, title.kept.temperatures.len()], &lse)?),
        ];
        let bytes = safetensors::serialize(tensors, Some(HashMap::from([("cache".to_string(), title.hash())])))?;
        fs::create_dir_all(folder)?;
        replace_bytes(&folder.join(format!("{}.block", &sha256_hex(&bytes)[..32])), &bytes)
    }
}

/// An open block.
pub struct OpenBlock {
    file: File,
    /// Byte offset of the tensors in the file.
    answers: u64,
    lse: u64,
}

/// Where the targets of a sequence are in its block.
#[derive(Clone, Copy, Debug)]
pub struct BlockEntry {
    first_token: u64,
    pub targets: u64,
    start: u64,
    end: u64,
}

/// The sequences of a block by their keys.
pub type Entries = Vec<([u8; 16], BlockEntry)>;

impl OpenBlock {
    /// Opens the block at `path`, verifies its checksum, and lists the sequences in it.
    pub fn open(path: &Path, title: &CacheManifest) -> Result<(Self, Entries)> {
        let damaged = || user_error!("teacher cache block {} is damaged; delete it and run the teacher again", path.display());
        let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(sha256_hex(&bytes)[..32] == name, damaged());
        let tensors = SafeTensors::deserialize(&bytes).map_err(|_| damaged())?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| damaged())?;
        let of = header.metadata().as_ref().and_then(|note| note.get("cache")).map(String::as_str).unwrap_or("none");
        if of != title.hash() {
            let wanted = title.hash();
            return Err(user_error!(
                "{}: the block belongs to cache {of}, not to {wanted}: another teacher, tokenizer or setting; move it away",
                path.display()
            ));
        }
        let tensor = |name: &str| tensors.tensor(name).map_err(|_| damaged());
        let offset = |view: &TensorView| view.data().as_ptr() as u64 - bytes.as_ptr() as u64;
        let u64s = |view: TensorView| -> Vec<u64> {
            view.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
        };
        let (mut first_token, mut start) = (0, 0);
        let (keys, lengths, ends) = (tensor("keys")?, u64s(tensor("lengths")?), u64s(tensor("ends")?));
        // Inconsistent parts could lead to reads out of bounds.
        let tokens = lengths.iter().try_fold(0u64, |sum, &length| sum.checked_add(length)).ok_or_else(damaged)?;
        let lse = tokens.checked_mul(4 * title.kept.temperatures.len() as u64).ok_or_else(damaged)?;
        let counts = keys.data().len() == 16 * lengths.len() && lengths.len() == ends.len();
        let inside = ends.is_sorted() && ends.last().copied().unwrap_or(0) == tensor("answers")?.data().len() as u64;
        ensure!(counts && inside && tensor("lse")?.data().len() as u64 == lse, damaged());
        let places = keys.data().chunks_exact(16).zip(lengths).zip(ends);
        let places = places.map(|((key, targets), end)| {
            let place = BlockEntry { first_token, targets, start, end };
            (first_token, start) = (first_token + targets, end);
            (key.try_into().expect("16 bytes"), place)
        });
        let places = places.collect();
        let open = Self { file: File::open(path)?, answers: offset(&tensor("answers")?), lse: offset(&tensor("lse")?) };
        Ok((open, places))
    }

    /// Reads targets `from .. to` of the sequence at `place`.
    pub fn read(&self, place: BlockEntry, from: usize, to: usize, title: &CacheManifest) -> Result<Answers> {
        let (top_k, drawn, temperatures) = (title.kept.top_k, title.kept.drawn(), title.kept.temperatures.len());
        let read = |start: u64, length: u64| -> Result<Vec<u8>> {
            let mut buffer = vec![0; length as usize];
            self.file.read_exact_at(&mut buffer, start).context("cannot read the teacher cache")?;
            Ok(buffer)
        };
        let packed = read(self.answers + place.start, place.end - place.start)?;
        let mut reader = Reader::new(&packed);
        let mut answers = Answers::default();
        for token in 0..to {
            if token == from {
                answers = Answers::default();
            }
            (0..top_k).for_each(|_| answers.ids.push(reader.id(title.id_bits())));
            reader.logprobs(top_k, |logprob| answers.logprobs.push(logprob));
            (0..drawn).for_each(|_| answers.draws.push(reader.id(title.id_bits())));
        }
        reader.check()?;
        let width = 4 * temperatures as u64;
        let lse = read(self.lse + (place.first_token + from as u64) * width, (to - from) as u64 * width)?;
        answers.lse = lse.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        Ok(answers)
    }
}
