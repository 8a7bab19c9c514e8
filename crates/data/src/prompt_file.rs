//! Prompts, one a line: plain text; or JSON objects with a text, token ids or messages, or with fields for a template.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::user_error;

use super::json::Json;
use super::json_file;
use super::line_error::{Kind, LineError, LinePos};
use super::lines::{LineEnd, Lines};
use super::template::Template;
use super::tokenizer;
use super::vocabulary::Vocabulary;
use tokenizers::Tokenizer;

/// Keys of token ids.
const IDS: [&str; 2] = ["prompt_ids", "prompt_token_ids"];
/// Keys of a text.
const TEXTS: [&str; 4] = ["prompt", "prompt_text", "src", "source"];
/// The field of a template that has a line of plain text.
const LINE: &str = "prompt";

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub place: LinePos,
    /// As given, or as a template made it of what was given.
    pub text: String,
    pub ids: Vec<u32>,
}

/// How prompts are read.
pub struct PromptReader<'a> {
    pub tokenizer: &'a Tokenizer,
    pub vocabulary: &'a Vocabulary<'a>,
    /// Makes a prompt of the fields of a line.
    pub template: Option<&'a Template>,
    /// Makes a prompt of messages.
    pub chat: Option<&'a Template>,
    /// Most tokens of a prompt.
    pub longest: usize,
}

impl PromptReader<'_> {
    /// The prompts in the file at `path`. It is JSON lines if its first line is a JSON object, and plain text otherwise.
    pub fn read(&self, path: &Path) -> Result<Vec<Prompt>> {
        let mut lines = Lines::open(path, LineEnd::Feed)?;
        let mut prompts = Vec::new();
        let mut is_json = false;
        while let Some(line) = lines.next_filled() {
            let wrong = |error: LineError| user_error!("{}: {error}; correct the line", line.place);
            let text = line.text.map_err(wrong)?;
            if prompts.is_empty() {
                is_json = Json::object(&text).is_ok();
                if !is_json && let Some((what, cure)) = json_file::kind(&text, false, false) {
                    return Err(user_error!("{}: {what}; {cure}", line.place));
                }
            }
            let fields = match is_json {
                true => Json::object(&text).map_err(wrong)?,
                false => Json::Object(vec![(LINE.to_string(), Json::Text(text))]),
            };
            let (text, ids) = self.prompt(&fields).map_err(|error| match error {
                PromptError::Line(error) => wrong(error),
                PromptError::Other(error) => error.context(line.place.to_string()),
            })?;
            self.check(&ids).map_err(wrong)?;
            prompts.push(Prompt { place: line.place.clone(), text, ids });
        }
        match prompts.is_empty() {
            true => Err(user_error!("{}: there are no prompts in it; write one a line", path.display())),
            false => Ok(prompts),
        }
    }

    fn prompt(&self, fields: &Json) -> Result<(String, Vec<u32>), PromptError> {
        let rendered = |template: &Template| template.render(fields).map_err(|what| LineError::new(Kind::MissingKey, what));
        if let Some(template) = self.template {
            let text = rendered(template)?;
            return Ok((text.clone(), self.vocabulary.encode_first(&text)?));
        }
        for key in IDS {
            if let Some(ids) = fields.get(key) {
                return self.of_ids(ids.list(key)?, key);
            }
        }
        for key in TEXTS {
            match fields.get(key) {
                Some(Json::List(ids)) => return self.of_ids(ids, key),
                Some(text) => {
                    let text = text.text(key)?.to_string();
                    return Ok((text.clone(), self.vocabulary.encode_first(&text)?));
                }
                None => {}
            }
        }
        if let Some(messages) = fields.get("messages") {
            if messages.list("messages")?.is_empty() {
                return Err(LineError::new(Kind::EmptyText, "\"messages\" is empty").into());
            }
            let Some(chat) = self.chat else {
                let what = "the model has no chat template for \"messages\"; give one with --template FILE";
                return Err(PromptError::Line(LineError::new(Kind::MissingKey, what)));
            };
            let text = rendered(chat)?;
            // The template writes the special tokens itself.
            return Ok((text.clone(), self.vocabulary.encode(&text, false)?));
        }
        let what =
            format!("expected a JSON object with a \"prompt\", \"prompt_ids\" or \"messages\"; this one has {}", fields.keys());
        Err(LineError::new(Kind::MissingKey, what).into())
    }

    fn of_ids(&self, ids: &[Json], key: &str) -> Result<(String, Vec<u32>), PromptError> {
        let id = |id: &Json| {
            let id = id.id(key)?;
            u32::try_from(id).map_err(|_| LineError::new(Kind::UnknownToken, format!("token id {id} is outside the vocabulary")))
        };
        let ids: Vec<u32> = ids.iter().map(id).collect::<Result<_, _>>()?;
        let known = ids.iter().all(|&id| self.tokenizer.id_to_token(id).is_some());
        let text = if known { tokenizer::decode(self.tokenizer, &ids, true)? } else { String::new() };
        Ok((text, ids))
    }

    fn check(&self, ids: &[u32]) -> Result<(), LineError> {
        if ids.is_empty() {
            return Err(LineError::new(Kind::EmptyText, "the prompt is empty, and the tokenizer puts no token before a text"));
        }
        if let Err(error) = self.vocabulary.check(ids) {
            return Err(LineError::new(Kind::UnknownToken, error.to_string()));
        }
        if ids.len() > self.longest {
            let what = format!(
                "the prompt has {} tokens, but the model's context has room for a prompt of {} and a new token",
                ids.len(),
                self.longest
            );
            return Err(LineError::new(Kind::OverBudget, what));
        }
        Ok(())
    }
}

enum PromptError {
    Line(LineError),
    Other(anyhow::Error),
}

impl From<LineError> for PromptError {
    fn from(error: LineError) -> Self {
        Self::Line(error)
    }
}

impl From<anyhow::Error> for PromptError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
