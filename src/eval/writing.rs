//! What a model writes for a task, and its scores.

use std::path::Path;

use anyhow::{Result, ensure};
use hydrometer_base::user_error;
use hydrometer_data::encode::Encoded;
use hydrometer_data::recipe::ExampleRecipe;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_data::vocabulary::Vocabulary;
use hydrometer_data::{ends, tokenizer};
use hydrometer_record::journal::{Event, ScoreEvent, TextEvent};
use hydrometer_score::{Sample, Score};
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::generate::{Finish, Generator, Written};
use hydrometer_torch::model::Decoder;
use tokenizers::Tokenizer;

use super::perplexity::evaluate;
use super::task::{TaskPrompt, TaskRecipe};

/// Most texts that are written at a time; it changes no text.
pub const BATCH: usize = 32;

/// What generation needs to know of a model.
#[derive(Clone, Copy, Debug)]
pub struct WritingModel<'a> {
    pub vocab_size: usize,
    /// Most tokens of a prompt and its text together.
    pub context: usize,
    /// How its examples were encoded, if it was trained on examples.
    pub examples: Option<&'a ExampleRecipe>,
    pub seed: u64,
}

/// The prompts of a task in the tokens of a model.
pub struct Prompts<'a> {
    pub task: &'a TaskRecipe,
    pub asked: &'a [TaskPrompt],
    model: WritingModel<'a>,
    tokenizer: Tokenizer,
    ids: Vec<Vec<u32>>,
}

impl<'a> Prompts<'a> {
    /// Encodes the prompts with the `tokenizer.json` in `data`, as prompts of training are encoded. A user error if one leaves no room
    /// in the model's context.
    pub fn encode(task: &'a TaskRecipe, asked: &'a [TaskPrompt], model: WritingModel<'a>, data: &Path) -> Result<Self> {
        let path = data.join("tokenizer.json");
        let tokenizer = tokenizer::open(&path)?;
        let context = model.context;
        let vocabulary = Vocabulary::new(&tokenizer, model.vocab_size, model.examples)?;
        let mut ids = Vec::new();
        for prompt in asked {
            let mut all = vocabulary.encode_first(&prompt.input)?;
            all.extend(vocabulary.encode(&task.prompt_eos, false)?);
            vocabulary.check(&all)?;
            if all.is_empty() || all.len() >= context {
                let (place, length) = (&prompt.place, all.len());
                return Err(user_error!(
                    "{place}: the prompt has {length} tokens, but the context of {context} leaves room for 1 to {}; raise context, or \
                     shorten the prompt",
                    context - 1
                ));
            }
            ids.push(all);
        }
        Ok(Self { task, asked, model, tokenizer, ids })
    }

    /// Writes the texts of all prompts with `decoder`, the model, in the order of prompts and samples. `go_on` is told how many are done
    /// after each; if it says no, the result is `None`. Ranks of one group must answer alike.
    pub fn write(
        &self,
        decoder: &Decoder,
        mesh: &Mesh,
        mut go_on: impl FnMut(u64) -> Result<bool>,
    ) -> Result<Option<Vec<Written>>> {
        let (sampling, beams) = self.task.decode.settings();
        let generator = Generator {
            decoder,
            tp: &mesh.tp,
            tokenizer: Some(&self.tokenizer),
            sampling,
            beams,
            ends: &ends::ids(&self.tokenizer, self.model.examples)?,
            stops: &self.task.stop,
            max_new_tokens: self.task.max_new_tokens,
            context: self.model.context,
            seed: self.model.seed,
            batch: BATCH,
        };
        let todo = (0..self.ids.len()).flat_map(|prompt| (0..self.task.samples).map(move |sample| (prompt, sample)));
        let mut all = Vec::new();
        let mut stopped = false;
        let done = generator.write(&self.ids, todo, |written| {
            all.push(written);
            stopped = !go_on(all.len() as u64)?;
            ensure!(!stopped, "stopped on request");
            Ok(())
        });
        if stopped {
            return Ok(None);
        }
        done?;
        all.sort_by_key(|written| (written.prompt, written.sample));
        Ok(Some(all))
    }

    /// The scores of `all`, the texts of all prompts in order. `teacher` computes those that need a model.
    pub fn scores(&self, all: &[Written], teacher: Option<(&Decoder, WritingModel)>, mesh: &Mesh) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let judged = match teacher {
            Some((decoder, model)) if self.task.score.contains(&Score::TeacherNll) => self.judged(all, decoder, model, mesh)?,
            _ => Vec::new(),
        };
        for (index, (prompt, written)) in self.asked.iter().zip(all.chunk_by(|a, b| a.prompt == b.prompt)).enumerate() {
            let samples: Vec<Sample> = written
                .iter()
                .map(|written| Sample {
                    text: &written.text,
                    truncated: matches!(written.finish, Finish::Length | Finish::Context),
                })
                .collect();
            let references: Vec<&str> = prompt.references.iter().map(String::as_str).collect();
            for score in &self.task.score {
                let value = match score {
                    Score::TeacherNll => judged.get(index).copied(),
                    score => Some(score.value(&samples, &references).map_err(|why| user_error!("{}: {why}", prompt.place))?),
                };
                if let Some(value) = value.filter(|value| value.is_finite()) {
                    events.push(Event::Scored(ScoreEvent { prompt: prompt.id.clone(), score: score.name(), value }));
                }
            }
        }
        Ok(events)
    }

    /// Nats per token that the teacher gives the texts of each prompt.
    fn judged(&self, all: &[Written], teacher: &Decoder, model: WritingModel, mesh: &Mesh) -> Result<Vec<f64>> {
        let context = model.context;
        let mut split = TokenizedSplit::empty(Some(context));
        let mut kept = Vec::new();
        for written in all {
            let prompt = &self.ids[written.prompt];
            let mut ids: Vec<u32> = prompt.iter().chain(&written.ids).copied().collect();
            ids.truncate(context + 1);
            let encoded = Encoded { ids, prompt: Some(prompt.len()), ..Encoded::default() };
            if split.push(&self.asked[written.prompt].id, &encoded) {
                kept.push(written.prompt);
            }
        }
        let found = evaluate(teacher, model.vocab_size, &split, context, mesh)?;
        let mut sums = vec![(0.0, 0u64); self.ids.len()];
        for (prompt, (nll, tokens)) in kept.into_iter().zip(found.documents) {
            sums[prompt].0 += nll;
            sums[prompt].1 += tokens;
        }
        Ok(sums.into_iter().map(|(nll, tokens)| nll / tokens as f64).collect())
    }

    /// The journal's event of a text.
    pub fn event(&self, written: &Written) -> Event {
        let prompt = &self.asked[written.prompt];
        Event::Wrote(TextEvent {
            prompt: prompt.id.clone(),
            sample: written.sample as i64,
            input: prompt.input.clone(),
            text: written.text.clone(),
            tokens: written.ids.len() as i64,
            finish: written.finish.name().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_record::frames::FINISHES;

    use super::*;

    #[test]
    fn verify_knows_every_reason_why_a_text_ends() {
        assert_eq!(Finish::NAMES, FINISHES);
    }
}
