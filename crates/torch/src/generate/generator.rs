//! What generates text, and what it generates.

use anyhow::Result;
use tokenizers::Tokenizer;

use super::finish::Finish;
use super::sampler::{Choice, Listed, Sampling};
use super::text::{continuation, first_stop};
use crate::dist::ProcessGroup;
use crate::model::Decoder;

/// A decoder with its settings.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    pub decoder: &'a Decoder,
    pub tp: &'a ProcessGroup,
    /// Without it, no texts are decoded, and there may be no `stops`.
    pub tokenizer: Option<&'a Tokenizer>,
    pub sampling: Sampling,
    /// Beam search; `sampling` is greedy then.
    pub beams: Option<Beams>,
    /// Ids that end a text.
    pub ends: &'a [u32],
    /// Strings that end a text, of which they are no part.
    pub stops: &'a [String],
    pub max_new_tokens: usize,
    /// Most tokens of a prompt and its text together.
    pub context: usize,
    pub seed: u64,
    /// Most texts that are written at a time.
    pub batch: usize,
}

/// Beam search: of `count` texts that are continued side by side, the one with the best Σ log p / length^`length_penalty`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    pub count: usize,
    pub length_penalty: f64,
}

/// A text that was written after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Index of the prompt.
    pub prompt: usize,
    pub sample: usize,
    /// The new ids, with the end token or the tokens of a stop string.
    pub ids: Vec<u32>,
    /// Log-probability of each of them under the model, at temperature 1.
    pub logprobs: Vec<f64>,
    /// For each of them, the likeliest ids at its place.
    pub listed: Vec<Vec<Listed>>,
    pub finish: Finish,
    /// Without special tokens, and up to a stop string. Empty without a tokenizer.
    pub text: String,
}

impl Written {
    pub(super) fn begun(prompt: usize, sample: usize) -> Self {
        let (ids, logprobs, listed) = (Vec::new(), Vec::new(), Vec::new());
        Self { prompt, sample, ids, logprobs, listed, finish: Finish::Length, text: String::new() }
    }

    pub(super) fn push(&mut self, choice: Choice) {
        self.ids.push(choice.chosen.id);
        self.logprobs.push(choice.chosen.logprob);
        self.listed.push(choice.listed);
    }
}

impl Generator<'_> {
    /// Writes each text of `todo`, indices of a prompt and a sample, and passes it to `each` as soon as it is complete. A prompt has
    /// at least one id and fewer than the context. The texts of a prompt should follow each other: it is then read only once.
    pub fn write(
        &self,
        prompts: &[Vec<u32>],
        todo: impl IntoIterator<Item = (usize, usize)>,
        mut each: impl FnMut(Written) -> Result<()>,
    ) -> Result<()> {
        assert!(self.stops.is_empty() || self.tokenizer.is_some(), "stop strings need a tokenizer");
        match self.beams {
            Some(beams) => todo.into_iter().try_for_each(|(prompt, _)| each(self.search(prompt, &prompts[prompt], beams)?)),
            None => self.sample(prompts, todo.into_iter(), each),
        }
    }

    /// Whether `written` is complete, which sets why and the text.
    pub(super) fn ended(&self, prompt: &[u32], written: &mut Written) -> Result<bool> {
        let last = *written.ids.last().expect("a token was written");
        let mut finish = if self.ends.contains(&last) {
            Some(Finish::EndToken)
        } else if written.ids.len() >= self.max_new_tokens {
            Some(Finish::Length)
        } else if prompt.len() + written.ids.len() >= self.context {
            Some(Finish::Context)
        } else {
            None
        };
        if let Some(tokenizer) = self.tokenizer
            && (finish.is_some() || !self.stops.is_empty())
        {
            let text = continuation(tokenizer, prompt, &written.ids)?;
            written.text = match first_stop(&text, self.stops) {
                Some(at) => {
                    finish = Some(Finish::Stop);
                    text[..at].to_string()
                }
                None => text,
            };
        }
        written.finish = finish.unwrap_or(written.finish);
        Ok(finish.is_some())
    }

    /// Tokens that a cache of a prompt needs room for. The last new token is never read.
    pub(super) fn room(&self, prompt: &[u32]) -> usize {
        (prompt.len() + self.max_new_tokens).min(self.context)
    }
}
