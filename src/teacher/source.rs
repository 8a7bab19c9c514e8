//! The sources of a cache made by `hydrometer teach`: its texts with their tokens, and where the teacher was. Not part of the
//! cache's identity: a hint for inspection.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{replace_bytes, sha256_hex};
use hydrometer_base::user_error;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::model::Precision;
use serde::{Deserialize, Serialize};

const FILE: &str = "sources.json";

/// A text that a teacher has read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The checkpoint's folder.
    pub model: PathBuf,
    pub data: PathBuf,
    pub precision: Precision,
    /// Longest sequence in tokens.
    pub context: usize,
    /// The API that the teacher was behind, if it is not a checkpoint; `model` is then the folder of its tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The file of its tokens, in the same folder.
    text: String,
}

impl Source {
    /// A text that the checkpoint in `model` has read.
    pub fn new(model: &Path, data: &Path, precision: Precision, context: usize) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Self { model: absolute(model), data: absolute(data), precision, context, endpoint: None, text: String::new() }
    }

    /// A text that was scored behind the API at `endpoint`, in the tokens of the tokenizer in `folder`.
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
            .map_err(|error| user_error!("{} is damaged: {error}; delete it and run the teacher again", path.display()))
    }

    /// Reads the tokens of this source.
    pub fn split(&self, folder: &Path) -> Result<TokenizedSplit> {
        TokenizedSplit::read(&folder.join(&self.text))
    }
}
