//! The part of a run's recipe that says what it reads and how: everything about data that would change its numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hydrometer_base::choice;
use serde::{Deserialize, Serialize};

use super::format::{Format, Keys};
use super::line_error::OnBadLine;

/// What a run reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecipe {
    /// Split name (`train`, `valid`, `test`) to the SHA-256 of the file's content as stored.
    pub content: BTreeMap<String, String>,
    pub tokenizer: TokenizerRecipe,
    /// Longest sequence in tokens; documents are cut into sequences of at most this length.
    pub context: usize,
    /// How lines become examples, where they are no plain documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<ExampleRecipe>,
    /// How the sequences of a batch lie in its rows, in training.
    #[serde(default, skip_serializing_if = "Packing::is_none")]
    pub packing: Packing,
}

impl DataRecipe {
    /// The same, a sequence a row: what tokens and sequences are known by, and all that follows from them without training.
    pub fn unpacked(&self) -> Self {
        Self { packing: Packing::None, ..self.clone() }
    }
}

/// How a line becomes an example: a source to read, a target to predict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleRecipe {
    pub format: Format,
    pub keys: Keys,
    /// Text between source and target; it is read, not predicted.
    pub prompt_eos: String,
    pub truncation: Truncation,
    /// What a target longer than the context is cut to, as a share of the context.
    pub target_budget: f64,
    pub eos: Eos,
    /// The token that ends a text, where the tokenizer has it by an unusual name.
    pub eos_token: Option<String>,
    /// The ids that end a text, the one to append first, where the checkpoint's files name others than the token by a usual name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<u32>,
    pub input: Input,
}

choice! {
    /// What shares a row of a batch.
    #[derive(Default)]
    Packing {
        /// Nothing: a sequence a row, the shorter ones padded.
        #[default]
        None = "none",
        /// Sequences, of one document or several, as many as the context has room for; each is read by itself.
        Documents = "documents",
    }
}

impl Packing {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

choice! {
    /// Where a source that does not fit is cut.
    Truncation {
        Left = "left",
        Right = "right",
        /// Nowhere: it is an error.
        None = "none",
    }
}

choice! {
    /// The token that ends a text, after a target.
    Eos {
        /// Added unless it is there or the target was cut.
        Once = "once",
        /// Always added, as the seed does.
        Append = "append",
        None = "none",
    }
}

choice! {
    /// What a student reads of a target whose teacher's answers are recorded, and what hard labels are.
    Input {
        /// The tokens that the teacher went on from.
        Sampled = "sampled",
        /// The likeliest token of each row, as the seed does: not what the teacher has read.
        TeacherArgmax = "teacher-argmax",
    }
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerRecipe {
    /// A byte-level BPE of this vocabulary size (special tokens included), trained on the train split.
    Bpe { vocab_size: usize },
    /// A `tokenizer.json` with this SHA-256 and vocabulary size.
    File { sha256: String, vocab_size: usize },
}

impl TokenizerRecipe {
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bpe { vocab_size } | Self::File { vocab_size, .. } => *vocab_size,
        }
    }
}

/// Where the data is and how it is read; not part of any identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFiles {
    /// `train`, `valid`, `test`; or `all`, from which they are derived.
    pub splits: BTreeMap<String, PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub format: Format,
    pub keys: Keys,
    pub on_bad_line: OnBadLine,
    /// Of examples, what ends a text.
    #[serde(default)]
    pub ends: Option<Ends>,
}

/// The tokens that end a text, and who says so; for people. What counts is in the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// The first is the one that is appended.
    pub ids: Vec<u32>,
    pub tokens: Vec<String>,
    /// Where it is from: file names, or a few words.
    pub from: String,
    /// What was said and not followed, a clause each.
    pub ignored: Vec<String>,
}
