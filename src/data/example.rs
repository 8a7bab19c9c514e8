//! An example as a line gives it, whatever the format: a text to read, a text to learn, and a teacher's answers where they are
//! recorded.

use super::lines::Place;

#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// As the line names it, else its number.
    pub id: String,
    pub place: Place,
    /// What is read and not predicted. Without it the line is a document: all of it is predicted, and it may be cut.
    pub source: Option<Piece>,
    /// What is learned; not known where a line has answers alone.
    pub target: Option<Piece>,
    pub answers: Option<Answers>,
    /// Whether the target ends because it could be no longer: its maker did not end it there.
    pub cut: bool,
}

/// A part of an example.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    /// As the teacher cut it.
    Tokens(Vec<Token>),
}

/// A token as a log writes it: some of its id, its text and its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub id: Option<u64>,
    pub text: Option<String>,
    pub bytes: Option<Vec<u8>>,
}

/// A teacher's answers for the tokens of the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    pub scores: Scores,
    /// A row a token; `None` where the teacher says nothing of it, as of the first token of a prompt.
    pub rows: Vec<Option<Vec<Entry>>>,
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

    /// For messages: the text, else the id.
    pub fn shown(&self) -> String {
        match (&self.text, self.id) {
            (Some(text), _) => format!("{text:?}"),
            (None, Some(id)) => format!("id {id}"),
            (None, None) => "without id or text".to_string(),
        }
    }
}

impl Piece {
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
        let source = self.source.as_ref().map(Piece::text).filter(|text| !text.trim().is_empty());
        source.or_else(|| self.target.as_ref().map(Piece::text)).unwrap_or_default()
    }
}
