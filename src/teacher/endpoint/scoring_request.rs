//! The requests that score a text: sequences as ids, or whole documents as text.

use std::ops::Range;

use anyhow::Result;
use hydrometer_base::user_error;
use hydrometer_data::sequences::Sequence;
use hydrometer_data::tokenizer;
use hydrometer_data::vocabulary::Vocabulary;
use serde_json::{Value, json};

use super::prompt_scorer::PromptScorer;
use super::request::{ApiRequest, Generation};
use crate::teacher::recipe::{EchoRows, Sent};

/// A text scored by one request.
pub(super) struct ScoringRequest {
    pub name: String,
    /// Range in the split's `ids`.
    pub ids: Range<usize>,
    /// Number of leading ids that are read but not predicted.
    pub prompt: Option<usize>,
    /// Whether the last id ends the text. It is not sent, and it is taught with probability 1.
    pub ends: bool,
    pub question: ApiRequest,
    /// If rows give the logprobs of the next token, an echo lacks those of the token after the first; this request asks for them
    /// separately.
    pub opening: Option<ApiRequest>,
}

impl PromptScorer<'_> {
    /// The requests for the `wanted` sequences.
    pub(super) fn units(&self, wanted: &[Sequence], vocabulary: &Vocabulary) -> Result<Vec<ScoringRequest>> {
        match self.recipe.sent {
            Sent::Tokens => Ok(wanted.iter().map(|sequence| self.sequence(sequence)).collect()),
            Sent::Text => {
                let mut documents: Vec<usize> = wanted.iter().map(|sequence| sequence.document).collect();
                documents.dedup();
                let begin = vocabulary.encode_first("")?;
                let units = documents.iter().map(|&document| self.document(document, &begin, vocabulary));
                let (units, other): (Vec<_>, Vec<_>) = units.collect::<Result<Vec<_>>>()?.into_iter().partition(Result::is_ok);
                if let Some(Err(first)) = other.into_iter().next() {
                    return Err(user_error!("teacher {}: {first}; set sent = \"tokens\", if the server takes ids", self.name));
                }
                Ok(units.into_iter().flatten().collect())
            }
        }
    }

    fn sequence(&self, sequence: &Sequence) -> ScoringRequest {
        let ids = sequence.start..sequence.start + sequence.targets + 1;
        let sent = self.split.ids.range(ids.start, ids.end);
        let name = format!("{}@{}", self.name_of(sequence.document), ids.start as u64 - self.split.offsets[sequence.document]);
        let question = ApiRequest::score(name.clone(), &self.recipe.model, json!(sent), sent.len() as u64, self.title.kept.top_k);
        let opening = self.opening(json!([sent[0]]), &name);
        ScoringRequest { name, ids, prompt: self.split.prompt(sequence.document), ends: false, question, opening }
    }

    /// Document `document` as text; the inner `Err` says why it cannot be sent as text.
    fn document(&self, document: usize, begin: &[u32], vocabulary: &Vocabulary) -> Result<Result<ScoringRequest, String>> {
        let ids = self.split.offsets[document] as usize..self.split.offsets[document + 1] as usize;
        let (whole, prompt) = (self.split.document(document), self.split.prompt(document));
        let ends = prompt.is_some() && whole.last().is_some_and(|&last| vocabulary.is_end(last));
        let sent = &whole[..whole.len() - usize::from(ends)];
        let name = self.name_of(document);
        let bare = sent.strip_prefix(begin).unwrap_or(sent);
        let text = tokenizer::decode(self.tokenizer, bare, false)?;
        if vocabulary.encode(&text, false)? != bare {
            let where_from =
                if prompt.is_some() { "its source and target were tokenised separately" } else { "it is not plain text" };
            return Ok(Err(format!(
                "the text of {name:?} is tokenised differently when it is read in one piece, because {where_from}"
            )));
        }
        let question = ApiRequest::score(name.clone(), &self.recipe.model, json!(text), sent.len() as u64, self.title.kept.top_k);
        let one = &bare[..1.min(bare.len())];
        let first = tokenizer::decode(self.tokenizer, one, false)?;
        if self.recipe.echo_rows == EchoRows::Next && (!begin.is_empty() || vocabulary.encode(&first, false)? != one) {
            return Ok(Err(format!(
                "what follows the first token of {name:?} cannot be requested as text, because it is not text by itself"
            )));
        }
        let opening = self.opening(json!(first), &name);
        Ok(Ok(ScoringRequest { name, ids, prompt, ends, question, opening }))
    }

    /// The request for the token after `first`, if an echo does not give its logprobs.
    fn opening(&self, first: Value, name: &str) -> Option<ApiRequest> {
        let how = Generation { max_tokens: 1, temperature: 0.0, seed: None };
        let ask = || ApiRequest::complete(format!("{name}, opening"), &self.recipe.model, first, 1, self.title.kept.top_k, how);
        (self.recipe.echo_rows == EchoRows::Next).then(ask)
    }

    fn name_of(&self, document: usize) -> String {
        self.split.names.get(document).to_string()
    }
}
