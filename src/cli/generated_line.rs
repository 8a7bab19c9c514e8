//! A generated text as a line of JSON: our own format, or that of metaseq's inference.

use anyhow::Result;
use clap::ValueEnum;
use hydrometer_data::prompt_file::Prompt;
use hydrometer_torch::generate::{Listed, Written};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tokenizers::Tokenizer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// Prompt, text, their ids, the log-probability of each id, and why the text ended.
    Jsonl,
    /// The format of metaseq's inference: `prompt_text` and `beam_results`.
    Metaseq,
}

impl LineFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Metaseq => "metaseq",
        }
    }

    /// The line, without its end.
    pub fn line(self, prompt: &Prompt, written: &Written, tokenizer: &Tokenizer) -> Result<String> {
        Ok(match self {
            Self::Jsonl => serde_json::to_string(&Line {
                id: written.prompt,
                sample: written.sample,
                prompt: &prompt.text,
                text: &written.text,
                finish: written.finish.name(),
                prompt_ids: &prompt.ids,
                ids: &written.ids,
                logprobs: &written.logprobs,
                top_logprobs: rows(written, |listed| Scored { id: listed.id, logprob: listed.logprob }),
            })?,
            Self::Metaseq => {
                let spelled = |id: u32| tokenizer.id_to_token(id).unwrap_or_else(|| format!("<{id}>"));
                let beam = Beam {
                    generated_text: &written.text,
                    tokens: written.ids.iter().map(|&id| spelled(id)).collect(),
                    // Of prompt and text together: the tokens of the prompt are read as they were.
                    token_ids: prompt.ids.iter().chain(&written.ids).copied().collect(),
                    finish: written.finish.name(),
                    top_logprobs: rows(written, |listed| (spelled(listed.id), *listed))
                        .map(|rows| rows.into_iter().map(Row).collect()),
                };
                serde_json::to_string(&Inference {
                    instance_idx: written.prompt,
                    sample: written.sample,
                    prompt_text: &prompt.text,
                    beam_results: [beam],
                })?
            }
        })
    }
}

/// What is listed for each id, if anything is.
fn rows<T>(written: &Written, of: impl Fn(&Listed) -> T) -> Option<Vec<Vec<T>>> {
    let listed = written.listed.iter().any(|row| !row.is_empty());
    let row = |row: &Vec<Listed>| row.iter().filter(|listed| listed.logprob.is_finite()).map(&of).collect();
    listed.then(|| written.listed.iter().map(row).collect())
}

#[derive(Serialize)]
struct Line<'a> {
    id: usize,
    sample: usize,
    prompt: &'a str,
    text: &'a str,
    finish: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    logprobs: &'a [f64],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Vec<Scored>>>,
}

#[derive(Serialize)]
struct Scored {
    id: u32,
    logprob: f64,
}

#[derive(Serialize)]
struct Inference<'a> {
    instance_idx: usize,
    sample: usize,
    prompt_text: &'a str,
    beam_results: [Beam<'a>; 1],
}

#[derive(Serialize)]
struct Beam<'a> {
    generated_text: &'a str,
    tokens: Vec<String>,
    token_ids: Vec<u32>,
    finish: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Row>>,
}

/// Ids by their text.
struct Row(Vec<(String, Listed)>);

#[derive(Serialize)]
struct Scores {
    token_id: u32,
    logprob_score: f64,
    logit_score: f32,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, Listed { id, logit, logprob }) in &self.0 {
            map.serialize_entry(text, &Scores { token_id: *id, logprob_score: *logprob, logit_score: *logit })?;
        }
        map.end()
    }
}
