//! The recipe of a task: what a student is asked to write, how, and how that is scored.

use std::collections::BTreeMap;

use hydrometer_data::format::{Format, Keys};
use hydrometer_score::Score;
use hydrometer_torch::generate::{Beams, Sampling};
use serde::{Deserialize, Serialize};

/// `[task.NAME]`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecipe {
    /// SHA-256 of the files of prompts and shots, by split; `all` if one path provides every split.
    pub content: BTreeMap<String, String>,
    pub format: Format,
    pub keys: Keys,
    /// Text after the prompt, tokenized separately.
    pub prompt_eos: String,
    /// The split of the prompts.
    pub on: String,
    /// Number of prompts, from the beginning of the split.
    pub prompts: usize,
    /// Completions of each prompt.
    pub samples: usize,
    pub decode: Decode,
    pub max_new_tokens: usize,
    /// Strings that end a completion, and are cut off with all that follows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Examples from the train split before each prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shots: usize,
    /// A Jinja template that renders prompt and shots; `None` for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    pub score: Vec<Score>,
}

/// A prompt as a model reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPrompt {
    pub id: String,
    /// File and line, for messages.
    pub place: String,
    pub input: String,
    pub references: Vec<String>,
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decode {
    /// The likeliest token.
    Greedy,
    /// The likeliest of the texts that a search with this many beams finds.
    Beams(usize),
    /// Drawn at `temperature` from the `top_k` likeliest tokens, and from the fewest likeliest whose probabilities sum to `top_p`.
    Sample {
        temperature: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_k: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_p: Option<f64>,
    },
}

impl Decode {
    /// As the generator takes it.
    pub fn settings(self) -> (Sampling, Option<Beams>) {
        match self {
            Self::Greedy => (Sampling::GREEDY, None),
            Self::Beams(count) => (Sampling::GREEDY, Some(Beams { count, length_penalty: 1.0 })),
            Self::Sample { temperature, top_k, top_p } => (Sampling { temperature, top_k, top_p, listed: 0 }, None),
        }
    }

    /// In a few words, for people.
    pub fn words(self) -> String {
        match self {
            Self::Greedy => "greedy".to_string(),
            Self::Beams(beams) => format!("{beams} beams"),
            Self::Sample { temperature, top_k, top_p } => {
                let top_k = top_k.map(|k| format!(", top-k {k}")).unwrap_or_default();
                let top_p = top_p.map(|p| format!(", top-p {p}")).unwrap_or_default();
                format!("temperature {temperature}{top_k}{top_p}")
            }
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
