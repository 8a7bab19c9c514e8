//! A split as token ids, prepared once and kept under `runs/`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tokenizers::Tokenizer;

use super::corpus::{Document, documents};
use super::tokenizer;
use crate::experiment::DataFiles;
use crate::experiment::recipe::{DataRecipe, TokenizerRecipe};
use crate::record::store::{replace_bytes, sha256_hex};
use crate::user_error;

/// The documents of a split as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizedSplit {
    pub ids: Vec<u32>,
    /// Document i is `ids[offsets[i] .. offsets[i + 1]]`.
    pub offsets: Vec<u64>,
    /// Bytes of text that the predicted tokens of each document stand for.
    pub bytes: Vec<u64>,
    pub names: Vec<String>,
}

impl TokenizedSplit {
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn document(&self, index: usize) -> &[u32] {
        &self.ids[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// Tokenises `documents`; those too short to predict anything in are left out. Ids must be below `vocab_size`.
    pub fn encode(documents: Vec<Document>, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self> {
        let mut split = Self { offsets: vec![0], ..Self::default() };
        for Document { id, text } in documents {
            let encoding = tokenizer.encode(text.as_str(), true).map_err(|error| anyhow!("{id}: {error}"))?;
            let ids = encoding.get_ids();
            if ids.len() < 2 {
                continue;
            }
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(user_error!("token id {id} is outside the vocabulary of {vocab_size}"));
            }
            // The first token is not predicted: where it is text (no BOS), its bytes do not count.
            let unpredicted = encoding.get_offsets().first().map_or(0, |&(start, end)| end - start);
            split.ids.extend(ids);
            split.offsets.push(split.ids.len() as u64);
            split.bytes.push((text.len() - unpredicted) as u64);
            split.names.push(id);
        }
        Ok(split)
    }

    /// Reads a file that [`prepare`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let damaged = || anyhow!("{} is damaged; delete it and run again", path.display());
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(bytes.len() > 64, damaged());
        let (body, checksum) = bytes.split_at(bytes.len() - 64);
        ensure!(sha256_hex(body).as_bytes() == checksum, damaged());
        let tensors = SafeTensors::deserialize(body).map_err(|_| damaged())?;
        let u64s = |name: &str| -> Result<Vec<u64>> {
            let tensor = tensors.tensor(name).map_err(|_| damaged())?;
            Ok(tensor.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
        };
        let ids = tensors.tensor("ids").map_err(|_| damaged())?;
        let names = tensors.tensor("names").map_err(|_| damaged())?;
        Ok(Self {
            ids: ids.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect(),
            offsets: u64s("offsets")?,
            bytes: u64s("bytes")?,
            names: serde_json::from_slice(names.data()).map_err(|_| damaged())?,
        })
    }

    /// Writes a file that [`TokenizedSplit::read`] reads.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let (offsets, bytes, names) = (u64s(&self.offsets), u64s(&self.bytes), serde_json::to_vec(&self.names)?);
        let tensors = [
            ("ids", TensorView::new(Dtype::U32, vec![self.ids.len()], &ids)?),
            ("offsets", TensorView::new(Dtype::U64, vec![self.offsets.len()], &offsets)?),
            ("bytes", TensorView::new(Dtype::U64, vec![self.bytes.len()], &bytes)?),
            ("names", TensorView::new(Dtype::U8, vec![names.len()], &names)?),
        ];
        let mut body = safetensors::serialize(tensors, None::<HashMap<String, String>>)?;
        let checksum = sha256_hex(&body);
        body.extend(checksum.as_bytes());
        replace_bytes(path, &body)
    }
}

/// Tokenises `splits` into `folder` (named by the recipe's identity) unless they are there; trains the tokenizer first where
/// the recipe asks for one.
pub fn prepare(recipe: &DataRecipe, files: &DataFiles, splits: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let missing: Vec<&str> =
        splits.iter().copied().filter(|split| TokenizedSplit::read(&folder.join(format!("{split}.tokens"))).is_err()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let saved = folder.join("tokenizer.json");
    let tokenizer = match (&recipe.tokenizer, &files.tokenizer) {
        (TokenizerRecipe::File { .. }, Some(path)) => {
            // For whoever exports what was trained on these tokens.
            replace_bytes(&saved, &fs::read(path)?)?;
            tokenizer::open(path)?
        }
        (TokenizerRecipe::File { .. }, None) => return Err(user_error!("the tokenizer file is not known")),
        (TokenizerRecipe::Bpe { .. }, _) if saved.exists() => tokenizer::open(&saved)?,
        (TokenizerRecipe::Bpe { vocab_size }, _) => {
            let tokenizer = tokenizer::train(&documents(files, "train")?, *vocab_size)?;
            let json = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
            replace_bytes(&saved, json.as_bytes())?;
            tokenizer
        }
    };
    for split in missing {
        let tokenized = TokenizedSplit::encode(documents(files, split)?, &tokenizer, recipe.tokenizer.vocab_size())?;
        ensure!(!tokenized.is_empty(), user_error!("the {split} split has no text"));
        tokenized.write(&folder.join(format!("{split}.tokens")))?;
    }
    Ok(())
}
