//! The data part of a run's recipe: everything about what it reads that would change its numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hydrometer_base::choice;
use serde::{Deserialize, Serialize};

use super::format::{Format, Keys};
use super::line_error::OnBadLine;

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecipe {
    /// Split name (`train`, `valid`, `test`) to the SHA-256 of the file's content as stored.
    pub content: BTreeMap<String, String>,
    pub tokenizer: TokenizerRecipe,
    /// Longest sequence in tokens; documents are cut into sequences of at most this length.
    pub context: usize,
    /// How lines become examples; `None` for plain documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<ExampleRecipe>,
    /// How the sequences of a training batch are laid out in its rows.
    #[serde(default, skip_serializing_if = "Packing::is_none")]
    pub packing: Packing,
}

impl DataRecipe {
    /// The same recipe with one sequence per row. It identifies tokens, sequences and all that depends on them but not on
    /// training.
    pub fn unpacked(&self) -> Self {
        Self { packing: Packing::None, ..self.clone() }
    }
}

/// How a line becomes an example: a source to read and a target to predict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleRecipe {
    pub format: Format,
    pub keys: Keys,
    /// Text between source and target; it is read but not predicted.
    pub prompt_eos: String,
    pub truncation: Truncation,
    /// The length to which a target longer than the context is cut, as a share of the context.
    pub target_budget: f64,
    pub eos: Eos,
    /// The end-of-text token, if the tokenizer has it under an unusual name.
    pub eos_token: Option<String>,
    /// The ids that end a text, the one to append first, if the checkpoint's files name others than the token with a usual name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<u32>,
    pub input: Input,
}

choice! {
    /// What shares a row of a batch.
    #[derive(Default)]
    Packing {
        /// One sequence per row, padded.
        #[default]
        None = "none",
        /// As many sequences as fit into the context, from one document or several. Attention does not cross their boundaries.
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
        /// Never cut: it is an error.
        None = "none",
    }
}

choice! {
    /// When the end-of-text token is appended to a target.
    Eos {
        /// Unless it is already there or the target was cut.
        Once = "once",
        /// Always, as metaseq does.
        Append = "append",
        None = "none",
    }
}

choice! {
    /// What a student reads as the target if the teacher's logprobs are recorded; also the hard labels.
    Input {
        /// The sampled tokens, which the teacher read too.
        Sampled = "sampled",
        /// The most likely token of each row, as metaseq does: not what the teacher read.
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

/// Paths of the data, and how it is read; not part of any identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFiles {
    /// `train`, `valid`, `test`; or `all`, from which these are derived.
    pub splits: BTreeMap<String, PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub format: Format,
    pub keys: Keys,
    pub on_bad_line: OnBadLine,
    /// The end-of-text tokens of examples.
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
