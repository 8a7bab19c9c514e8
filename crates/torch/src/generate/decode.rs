//! Greedy decoding and sampling. A text that ends leaves its place in the batch to the next one.

use anyhow::Result;
use tch::Tensor;

use super::generator::{Generator, Written};
use super::random::Numbers;
use super::sampler::{Choice, choose};
use crate::model::KvCache;

/// A text that is being written.
struct Active {
    written: Written,
    cache: KvCache,
    numbers: Numbers,
}

/// A prompt as read, for all its samples.
struct Read {
    prompt: usize,
    /// `[1, V]`
    logits: Tensor,
    cache: KvCache,
}

impl Generator<'_> {
    pub(super) fn sample(
        &self,
        prompts: &[Vec<u32>],
        mut todo: impl Iterator<Item = (usize, usize)>,
        mut each: impl FnMut(Written) -> Result<()>,
    ) -> Result<()> {
        let mut active: Vec<Active> = Vec::new();
        let mut read: Option<Read> = None;
        loop {
            while active.len() < self.batch.max(1)
                && let Some((prompt, sample)) = todo.next()
            {
                let ids = &prompts[prompt];
                let read = match read.take() {
                    Some(same) if same.prompt == prompt => read.insert(same),
                    _ => read.insert(self.read(prompt, ids)?),
                };
                let mut numbers = Numbers::new(self.seed, ids, sample);
                let mut written = Written::begun(prompt, sample);
                let choice = choose(&read.logits, &self.sampling, |_| numbers.at(0))?.remove(0);
                written.push(choice);
                match self.ended(ids, &mut written)? {
                    true => each(written)?,
                    false => active.push(Active { written, cache: read.cache.fork(), numbers }),
                }
            }
            if active.is_empty() {
                return Ok(());
            }
            for (choice, active) in self.step(&mut active)?.into_iter().zip(&mut active) {
                active.written.push(choice);
            }
            let mut left = Vec::with_capacity(active.len());
            for mut one in active {
                match self.ended(&prompts[one.written.prompt], &mut one.written)? {
                    true => each(one.written)?,
                    false => left.push(one),
                }
            }
            active = left;
        }
    }

    fn read(&self, prompt: usize, ids: &[u32]) -> Result<Read> {
        let (hidden, cache) = self.decoder.prefill(ids, self.room(ids), self.tp)?;
        Ok(Read { prompt, logits: self.decoder.next_logits(&hidden, self.tp)?, cache })
    }

    /// The next choice of each text.
    fn step(&self, active: &mut [Active]) -> Result<Vec<Choice>> {
        let ids: Vec<u32> = active.iter().map(|active| active.written.ids[active.written.ids.len() - 1]).collect();
        let mut caches: Vec<&mut KvCache> = active.iter_mut().map(|active| &mut active.cache).collect();
        let hidden = self.decoder.extend(&ids, &mut caches, self.tp)?;
        let logits = self.decoder.next_logits(&hidden, self.tp)?;
        choose(&logits, &self.sampling, |row| {
            let active = &mut active[row];
            active.numbers.at(active.written.ids.len())
        })
    }
}
