//! Where a cache that was made by itself came from: the texts it answers for, cut as they were, and where the teacher lay. Not
//! part of what the cache is: a hint to whoever looks into it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{replace_bytes, sha256_hex};
use hydrometer_base::user_error;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::model::Precision;
use serde::{Deserialize, Serialize};

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
    /// The API behind which it was, where it is no checkpoint of ours; `model` is then where its tokenizer lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The file of its tokens, beside this.
    text: String,
}

impl Source {
    /// A text that the checkpoint in `model` went through.
    pub fn new(model: &Path, data: &Path, precision: Precision, context: usize) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Self { model: absolute(model), data: absolute(data), precision, context, endpoint: None, text: String::new() }
    }

    /// A text that was judged behind the API at `endpoint`, in the tokens of the tokenizer in `folder`.
    pub fn asked(folder: &Path, data: &Path, context: usize, endpoint: &str) -> Self {
        Self { endpoint: Some(endpoint.to_string()), ..Self::new(folder, data, Precision::F32, context) }
    }

    /// Adds this, as `split`, to the sources of the cache in `folder`.
    pub fn add(self, folder: &Path, split: &TokenizedSplit) -> Result<()> {
        let ids: Vec<u8> = split.ids.iter().chain([self.context as u32]).flat_map(|id| id.to_le_bytes()).collect();
        let source = Self { text: format!("text-{}.tokens", &sha256_hex(&ids)[..8]), ..self };
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
        serde_json::from_str(&text)
            .map_err(|error| user_error!("{} is damaged: {error}; delete it and teach again", path.display()))
    }

    pub fn split(&self, folder: &Path) -> Result<TokenizedSplit> {
        TokenizedSplit::read(&folder.join(&self.text))
    }
}
