//! An example as read from a line of any format: a source to read, a target to learn, and the teacher's logprobs if they are
//! recorded.

use super::json::Json;
use super::line_error::LineError;
use crate::line_error::LinePos;

/// One line of data: a document, or a source with its target.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The line's own id, else its number.
    pub id: String,
    pub place: LinePos,
    /// Text that is read but not predicted. `None` for a document, which is predicted whole and may be cut.
    pub source: Option<Segment>,
    /// Text that is learned; `None` if the line has logprobs alone.
    pub target: Option<Segment>,
    pub answers: Option<Answers>,
    /// Whether the target ends because of a length limit, not because its author ended it there.
    pub cut: bool,
}

/// A part of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    Text(String),
    /// Text as tokenised by the teacher.
    Tokens(Vec<Token>),
}

/// A token as a log writes it: its id, bytes and text as far as given. The most reliable is used: id before bytes before text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub id: Option<u64>,
    pub text: Option<String>,
    /// Never empty.
    pub bytes: Option<Vec<u8>>,
    /// Whether it is known only to end the text.
    pub ends: bool,
}

/// A teacher's logprobs or logits for the tokens of the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    pub scores: Scores,
    /// One row per token; `None` where the teacher gives none, as for the first token of a prompt.
    pub rows: Vec<Option<Vec<Entry>>>,
    pub beside: Beside,
}

/// The texts that a line gives beside its tokens; the tokens are checked against them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    pub source: Option<String>,
    pub target: Option<String>,
    /// Whether a stop string may have been removed from the target's text, but not from its tokens.
    pub stopped: bool,
}

/// Whether the scores of ids are logprobs or logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    Logprobs,
    Logits,
}

/// A listed token with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub token: Token,
    /// −∞ carries no weight.
    pub score: f64,
    /// The logprob given beside a logit.
    pub logprob: Option<f64>,
}

impl Token {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    pub fn id(id: u64) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// A token by the string that stands for its text: `token_id:17` if a server was configured to write ids (vLLM's
    /// `return_tokens_as_token_ids`), `bytes:\xe2\x80` if its bytes are not text (OpenAI's completions).
    pub fn named(text: &str) -> Self {
        if let Some(id) = text.strip_prefix("token_id:").and_then(|id| id.parse().ok()) {
            return Self::id(id);
        }
        let bytes = text.strip_prefix("bytes:").and_then(|spelled| {
            spelled.split("\\x").skip(1).map(|hex| u8::from_str_radix(hex, 16).ok()).collect::<Option<Vec<u8>>>()
        });
        Self { bytes: bytes.filter(|bytes| !bytes.is_empty()), ..Self::text(text) }
    }

    /// A token in a list, given by its text or its id.
    pub fn listed(json: &Json, key: &str) -> Result<Self, LineError> {
        match json {
            Json::Whole(_) => json.id(key).map(Self::id),
            other => other.text(key).map(Self::named),
        }
    }

    /// Whether both are the same token, by the most reliable name that both have.
    pub fn is(&self, other: &Self) -> bool {
        match (self.id, other.id, &self.bytes, &other.bytes) {
            (Some(id), Some(other), ..) => id == other,
            (.., Some(bytes), Some(other)) => bytes == other,
            _ => self.text.is_some() && self.text == other.text,
        }
    }

    /// Whether its text may stand for other tokens too: it is a part of a character, or hidden.
    pub fn is_unclear(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.is_empty() || text.contains('\u{fffd}'))
    }

    /// For messages: the text, else the id.
    pub fn shown(&self) -> String {
        match (&self.text, self.id) {
            (Some(text), _) => format!("{text:?}"),
            (None, Some(id)) => format!("id {id}"),
            (None, None) => "without id or text".to_string(),
        }
    }
}

impl Segment {
    /// The text, or ids where it is not known.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Tokens(tokens) => {
                let word = |token: &Token| {
                    token.text.clone().unwrap_or_else(|| token.id.map_or(String::new(), |id| format!("\u{1}{id}")))
                };
                tokens.iter().map(word).collect()
            }
        }
    }
}

impl Example {
    /// What decides its split if one file provides all splits: its source, so that a prompt never occurs in two splits.
    pub fn split_text(&self) -> String {
        let source = self.source.as_ref().map(Segment::text).filter(|text| !text.trim().is_empty());
        source.or_else(|| self.target.as_ref().map(Segment::text)).unwrap_or_default()
    }
}
