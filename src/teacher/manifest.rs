//! The manifest of a cache: `cache.json` in its folder, and as a hash in every block, so that targets of another teacher or for
//! other tokens are refused wherever they are found.

use std::fs;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::{replace_bytes, sha256_hex, uncreated};
use hydrometer_base::user_error;
use serde::{Deserialize, Serialize};

use super::pack::id_bits;
use super::target_spec::TargetSpec;

pub const FILE: &str = "cache.json";
/// Version of the blocks' layout and of the arithmetic behind their content.
const FORMAT: u32 = 4;

/// Which teacher a cache belongs to, in which tokens, and what it stores per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheManifest {
    format: u32,
    /// Identity of the teacher: a hash of its recipe, or of its checkpoint's content.
    pub teacher: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
    /// Number of ids over which the teacher's probabilities are normalised.
    pub vocab_size: usize,
    pub kept: TargetSpec,
}

impl CacheManifest {
    pub fn new(teacher: String, tokenizer: String, vocab_size: usize, kept: TargetSpec) -> Self {
        Self { format: FORMAT, teacher, tokenizer, vocab_size, kept }
    }

    /// 16 hex digits, used in file names.
    pub fn hash(&self) -> String {
        sha256_hex(&serde_json::to_vec(self).expect("titles are plain data"))[..16].to_string()
    }

    /// Number of bits per id.
    pub fn id_bits(&self) -> u32 {
        id_bits(self.vocab_size)
    }

    /// Writes `cache.json` into `folder`; refuses a folder that has a different one.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).map_err(|error| uncreated(folder, error))?;
        if folder.join(FILE).exists() {
            return self.check(&Self::read(folder)?, folder);
        }
        replace_bytes(&folder.join(FILE), format!("{:#}\n", serde_json::to_value(self)?).as_bytes())
    }

    /// Reads the manifest of the cache in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path)
            .map_err(|error| user_error!("{}: not a teacher cache, it has no {FILE}: {error}", folder.display()))?;
        let title: Self = serde_json::from_str(&text).map_err(|error| {
            user_error!(
                "{} is not the manifest of a teacher cache: {error}; delete the folder and run the teacher again",
                path.display()
            )
        })?;
        if title.format != FORMAT {
            let found = title.format;
            return Err(user_error!(
                "{}: the cache has format {found}, this program reads {FORMAT}; run the teacher again",
                path.display()
            ));
        }
        Ok(title)
    }

    /// An error if the manifest `found` of a cache in `folder` is not this one; it names what differs.
    pub fn check(&self, found: &Self, folder: &Path) -> Result<()> {
        let what = match found {
            _ if found == self => return Ok(()),
            _ if found.teacher != self.teacher => format!("is of teacher {}, not {}", found.teacher, self.teacher),
            _ if found.tokenizer != self.tokenizer => format!("is for tokenizer {}, not {}", found.tokenizer, self.tokenizer),
            _ if found.vocab_size != self.vocab_size => {
                format!("is over {} ids, not {}", found.vocab_size, self.vocab_size)
            }
            _ => format!("keeps {}, not {}", found.kept.words(), self.kept.words()),
        };
        Err(user_error!("{}: the teacher cache {what}; use another folder", folder.display()))
    }
}
