//! An example as a line gives it, whatever the format: a text to read, a text to learn, and a teacher's answers where they are
//! recorded.

use super::json::Json;
use super::line_error::LineError;
use crate::line_error::LinePos;

#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// As the line names it, else its number.
    pub id: String,
    pub place: LinePos,
    /// What is read and not predicted. Without it the line is a document: all of it is predicted, and it may be cut.
    pub source: Option<Segment>,
    /// What is learned; not known where a line has answers alone.
    pub target: Option<Segment>,
    pub answers: Option<Answers>,
    /// Whether the target ends because it could be no longer: its maker did not end it there.
    pub cut: bool,
}

/// A part of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    Text(String),
    /// As the teacher cut it.
    Tokens(Vec<Token>),
}

/// A token as a log writes it: some of its id, its bytes and its text, of which the first is the surest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub id: Option<u64>,
    pub text: Option<String>,
    /// Never empty.
    pub bytes: Option<Vec<u8>>,
    /// Whether all that is known of it is that it ends the text.
    pub ends: bool,
}

/// A teacher's answers for the tokens of the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    pub scores: Scores,
    /// A row a token; `None` where the teacher says nothing of it, as of the first token of a prompt.
    pub rows: Vec<Option<Vec<Entry>>>,
    pub beside: Beside,
}

/// The texts that a line gives beside its tokens, to which these are held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    pub source: Option<String>,
    pub target: Option<String>,
    /// Whether a stop string may have been cut off the target's text, but not off its tokens.
    pub stopped: bool,
}

/// What a teacher gives for an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    Logprobs,
    Logits,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub token: Token,
    /// −∞ carries no weight.
    pub score: f64,
    /// Beside a logit.
    pub logprob: Option<f64>,
}

impl Token {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::default() }
    }

    pub fn id(id: u64) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    /// A token by what stands for its text: `token_id:17` where a server was told to write ids (vLLM's
    /// `return_tokens_as_token_ids`), `bytes:\xe2\x80` where its bytes are no text (OpenAI's completions).
    pub fn named(text: &str) -> Self {
        if let Some(id) = text.strip_prefix("token_id:").and_then(|id| id.parse().ok()) {
            return Self::id(id);
        }
        let bytes = text.strip_prefix("bytes:").and_then(|spelled| {
            spelled.split("\\x").skip(1).map(|hex| u8::from_str_radix(hex, 16).ok()).collect::<Option<Vec<u8>>>()
        });
        Self { bytes: bytes.filter(|bytes| !bytes.is_empty()), ..Self::text(text) }
    }

    /// A token of a list, by its text or its id.
    pub fn listed(json: &Json, key: &str) -> Result<Self, LineError> {
        match json {
            Json::Whole(_) => json.id(key).map(Self::id),
            other => other.text(key).map(Self::named),
        }
    }

    /// Whether both are the same token, by the surest name that both have.
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
    /// The text as far as it is known; ids where it is not.
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
    /// What decides its split, where one file stands for all: its source, so that a prompt never stands on both sides.
    pub fn split_text(&self) -> String {
        let source = self.source.as_ref().map(Segment::text).filter(|text| !text.trim().is_empty());
        source.or_else(|| self.target.as_ref().map(Segment::text)).unwrap_or_default()
    }
}
