//! The supported formats, one file per format; docs/data-formats.md has an example of each.

mod finish;
mod generated;
mod metaseq;
pub mod openai;
mod pairs;
mod prompt;
mod vllm;

use serde::{Deserialize, Serialize};

use super::example::{Example, Segment};
use super::json::Json;
use super::line_error::{Kind, LineError};
use crate::line_error::LinePos;

macro_rules! formats {
    ($($(#[$meta:meta])* $format:ident = $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Format { $($(#[$meta])* #[serde(rename = $name)] $format),* }
        impl Format {
            pub const ALL: &[Format] = &[$(Format::$format),*];

            pub fn name(self) -> &'static str {
                match self { $(Format::$format => $name),* }
            }
        }
    };
}

formats! {
    /// Plain text; documents are cut at blank lines.
    Text = "text",
    /// A `text` per line.
    Jsonl = "jsonl",
    /// `src` and `tgt`.
    SrcTgt = "src-tgt-jsonl",
    /// `prompt` and `completion`.
    PromptCompletion = "prompt-completion-jsonl",
    /// metaseq's: `src` and `top_logprobs` or `top_logits`, or `prompt_text` and `beam_results`.
    Metaseq = "metaseq-jsonl",
    /// Completions and chat completions with `logprobs`.
    OpenAi = "openai-jsonl",
    /// `prompt_logprobs`, or `outputs` with `logprobs`.
    Vllm = "vllm-jsonl",
    /// What `hydrometer generate` writes: `prompt_ids` and `ids`, and maybe `top_logprobs`.
    Generated = "generated-jsonl",
}

/// Names of a line's keys, where they differ from the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Keys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Keys {
    fn source<'a>(&'a self, default: &'a str) -> &'a str {
        self.source.as_deref().unwrap_or(default)
    }

    fn target<'a>(&'a self, default: &'a str) -> &'a str {
        self.target.as_deref().unwrap_or(default)
    }
}

impl Format {
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }

    /// Whether lines are documents, which are predicted whole and cut at the context. Otherwise each line is one example.
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Text | Self::Jsonl)
    }

    /// Whether lines have a teacher's logprobs beside the text.
    pub fn has_answers(self) -> bool {
        matches!(self, Self::Metaseq | Self::OpenAi | Self::Vllm | Self::Generated)
    }

    /// Detects the format by the keys of a line.
    pub fn of(line: &Json) -> Option<Self> {
        let within = prompt::response(line);
        // Of a question with a choice of answers, they are texts.
        let choice = within.get("choices").and_then(|choices| choices.list("choices").ok()?.first());
        let choice = choice.filter(|choice| matches!(choice, Json::Object(_)));
        let has_answers = |json: &Json| json.has("prompt_logprobs");
        let first = |key: &str| line.get(key).and_then(|list| list.list(key).ok()?.first());
        Some(match line {
            _ if generated::is(line) => Self::Generated,
            _ if line.has("top_logprobs") || line.has("top_logits") || line.has("beam_results") => Self::Metaseq,
            _ if has_answers(line) || choice.is_some_and(has_answers) => Self::Vllm,
            _ if first("outputs").is_some_and(|output| output.has("token_ids")) => Self::Vllm,
            _ if choice.is_some() || within.has("logprobs") => Self::OpenAi,
            _ if line.has("src") && line.has("tgt") => Self::SrcTgt,
            _ if line.has("prompt") && line.has("completion") => Self::PromptCompletion,
            _ if line.has("text") => Self::Jsonl,
            // An API's error in place of an answer.
            _ if openai::refusal(line).is_some() => Self::OpenAi,
            _ => return None,
        })
    }

    /// Parses the example of a line.
    pub fn parse(self, line: &str, place: &LinePos, keys: &Keys) -> Result<Example, LineError> {
        let json = Json::object(line)?;
        let (id, place) = (id(&json, place), place.clone());
        let mut example = Example { id, place, source: None, target: None, answers: None, cut: false };
        match self {
            Self::Text | Self::Jsonl => {
                let key = keys.target("text");
                example.target = Some(Segment::Text(json.need(key)?.text(key)?.to_string()));
            }
            Self::SrcTgt => pairs::parse(&json, keys.source("src"), keys.target("tgt"), &mut example)?,
            Self::PromptCompletion => pairs::parse(&json, keys.source("prompt"), keys.target("completion"), &mut example)?,
            Self::Metaseq => metaseq::parse(&json, keys, &mut example)?,
            Self::OpenAi => openai::parse(&json, keys, &mut example)?,
            Self::Vllm => vllm::parse(&json, keys, &mut example)?,
            Self::Generated => generated::parse(&json, keys, &mut example)?,
        }
        let empty = |piece: &Segment| match piece {
            Segment::Text(text) => text.trim().is_empty(),
            Segment::Tokens(tokens) => tokens.is_empty(),
        };
        if example.target.as_ref().is_some_and(empty) {
            return Err(LineError::new(Kind::EmptyText, "there is no text to learn from"));
        }
        Ok(example)
    }
}

fn id(json: &Json, place: &LinePos) -> String {
    let named = ["id", "instance_idx", "custom_id", "request_id"].iter().find_map(|key| match json.get(key)? {
        Json::Text(text) => Some(text.clone()),
        Json::Whole(n) => Some(n.to_string()),
        _ => None,
    });
    named.unwrap_or_else(|| place.number.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    pub fn place() -> LinePos {
        LinePos { path: Arc::from(Path::new("x.jsonl")), number: 7, offset: 0 }
    }

    const PAGE: &str = include_str!("../../../../docs/data-formats.md");

    /// The first column of the table whose header starts with `begin`.
    fn table(begin: &str) -> Vec<&'static str> {
        let (_, rest) = PAGE.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
        rest.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn the_page_lists_every_format_and_every_kind_of_damage() {
        let formats: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
        assert_eq!(table("| format | one line holds | trained on |"), formats);
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(table("| kind | what it is |"), kinds);
    }

    #[test]
    fn every_line_on_the_page_is_read_in_its_format() {
        let mut lines = 0;
        for section in PAGE.split("\n### ").skip(1) {
            let format = Format::named(section.lines().next().unwrap_or_default()).unwrap();
            for line in section.lines().filter(|line| line.starts_with('{')) {
                assert_eq!(Format::of(&Json::object(line).unwrap()), Some(format), "{line}");
                let example = format.parse(line, &place(), &Keys::default()).unwrap_or_else(|damage| panic!("{line}: {damage}"));
                assert!(example.answers.is_some_and(|answers| !answers.rows.is_empty()), "{line}");
                lines += 1;
            }
        }
        assert_eq!(lines, 8);
    }

    #[test]
    fn the_format_of_a_line_is_detected() {
        let cases = [
            (r#"{"text": "a"}"#, Format::Jsonl),
            (r#"{"src": "a", "tgt": "b"}"#, Format::SrcTgt),
            (r#"{"prompt": "a", "completion": "b"}"#, Format::PromptCompletion),
            (r#"{"src": "a", "tgt": "b", "top_logprobs": []}"#, Format::Metaseq),
            (r#"{"src": "a", "top_logits": []}"#, Format::Metaseq),
            (r#"{"prompt_text": "a", "beam_results": {}}"#, Format::Metaseq),
            (r#"{"prompt": "a", "choices": [{"text": "b", "logprobs": {}}]}"#, Format::OpenAi),
            (r#"{"custom_id": "1", "response": {"body": {"choices": [{}]}}}"#, Format::OpenAi),
            (r#"{"source": "a", "text": "b", "logprobs": {"tokens": []}}"#, Format::OpenAi),
            (r#"{"prompt": "a", "prompt_logprobs": [null]}"#, Format::Vllm),
            (r#"{"choices": [{"prompt_logprobs": [null], "text": ""}]}"#, Format::Vllm),
            (r#"{"prompt": "a", "outputs": [{"token_ids": [1]}]}"#, Format::Vllm),
        ];
        for (line, format) in cases {
            assert_eq!(Format::of(&Json::object(line).unwrap()), Some(format), "{line}");
        }
        assert_eq!(Format::of(&Json::object(r#"{"txt": 1}"#).unwrap()), None);
    }
}
