//! Where a cache that was made by itself came from: the texts it answers for, cut as they were, and where the teacher lay. Not
//! part of what the cache is: a hint to whoever looks into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::data::tokens::TokenizedSplit;
use crate::experiment::recipe::Precision;
use crate::record::store::{replace_bytes, sha256_hex};
use crate::user_error;

const FILE: &str = "sources.json";

/// A text that a teacher went through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The checkpoint's folder.
    pub model: PathBuf,
    pub data: PathBuf,
    pub precision: Precision,
    /// Longest sequence.
    pub context: usize,
    /// The file of its tokens, beside this.
    text: String,
}

impl Source {
    /// Adds `split`, read from `data`, to the sources of the cache in `folder`.
    pub fn add(
        folder: &Path,
        split: &TokenizedSplit,
        model: &Path,
        data: &Path,
        precision: Precision,
        context: usize,
    ) -> Result<()> {
        let ids: Vec<u8> = split.ids.iter().chain([context as u32]).flat_map(|id| id.to_le_bytes()).collect();
        let text = format!("text-{}.tokens", &sha256_hex(&ids)[..8]);
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let source = Self { model: absolute(model), data: absolute(data), precision, context, text };
        let mut all = if folder.join(FILE).exists() { Self::all(folder)? } else { Vec::new() };
        all.retain(|known| known.text != source.text);
        split.write(&folder.join(&source.text))?;
        all.push(source);
        replace_bytes(&folder.join(FILE), serde_json::to_string_pretty(&all)?.as_bytes())
    }

    /// The sources of the cache in `folder`.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).map_err(|error| {
            let made = "caches of experiments have none, `hydrometer teach --out` makes it";
            user_error!("{}: cannot read the texts of the cache: {error}; {made}", path.display())
        })?;
        serde_json::from_str(&text).map_err(|error| user_error!("{}: {error}", path.display()))
    }

    pub fn split(&self, folder: &Path) -> Result<TokenizedSplit> {
        TokenizedSplit::read(&folder.join(&self.text))
    }
}
