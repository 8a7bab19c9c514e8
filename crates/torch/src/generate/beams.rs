//! Beam search, as in transformers with `early_stopping = False`.
//!
//! In each step the best continuations of all beams are ranked by the sum of their log-probabilities. Those among the first
//! `count` that end are candidates for the result, by Σ log p / length^penalty; the best that go on are the next beams. The search ends
//! once there are `count` candidates and the best beam is behind the worst of them, or at the longest length.

use anyhow::Result;
use hydrometer_base::user_error;
use tch::Tensor;

use super::generator::{Beams, Generator, Written};
use super::sampler::{Choice, Listed};
use crate::kernels::best;
use crate::model::KvCache;

/// A text with the sum of its log-probabilities.
struct Beam {
    written: Written,
    sum: f64,
    cache: KvCache,
}

/// A continuation of a beam.
struct Continuation {
    beam: usize,
    sum: f64,
    token: Listed,
}

impl Generator<'_> {
    /// The text that beam search finds after a prompt.
    pub(super) fn search(&self, prompt: usize, ids: &[u32], of: Beams) -> Result<Written> {
        let (hidden, cache) = self.decoder.prefill(ids, self.room(ids), self.tp)?;
        let mut logits = self.decoder.next_logits(&hidden, self.tp)?;
        let mut beams = vec![Beam { written: Written::begun(prompt, 0), sum: 0.0, cache }];
        // With their scores, best first.
        let mut ended: Vec<(f64, Written)> = Vec::new();
        loop {
            let (ranked, listed) = self.ranked(&beams, &logits, of.count)?;
            let length = beams[0].written.ids.len() + 1;
            let score = |sum: f64| sum / (length as f64).powf(of.length_penalty);
            let mut next: Vec<(usize, f64, Written)> = Vec::new();
            for (rank, Continuation { beam, sum, token }) in ranked.into_iter().enumerate() {
                let mut written = beams[beam].written.clone();
                written.push(Choice { chosen: token, listed: listed[beam].clone() });
                match self.ended(ids, &mut written)? {
                    true if rank < of.count => ended.push((score(sum), written)),
                    true => {}
                    false if next.len() < of.count => next.push((beam, sum, written)),
                    false => {}
                }
            }
            ended.sort_by(|a, b| b.0.total_cmp(&a.0));
            ended.truncate(of.count);
            let behind = |sum: f64| ended.len() == of.count && ended.last().is_some_and(|(worst, _)| score(sum) <= *worst);
            if next.first().is_none_or(|(_, sum, _)| behind(*sum)) {
                return Ok(ended.remove(0).1);
            }
            beams = follow(beams, next);
            let last: Vec<u32> = beams.iter().map(|beam| beam.written.ids[length - 1]).collect();
            let mut caches: Vec<&mut KvCache> = beams.iter_mut().map(|beam| &mut beam.cache).collect();
            let hidden = self.decoder.extend(&last, &mut caches, self.tp)?;
            logits = self.decoder.next_logits(&hidden, self.tp)?;
        }
    }

    /// The best continuations of all beams, so many that `count` of them go on; and the likeliest ids after each beam.
    fn ranked(&self, beams: &[Beam], logits: &Tensor, count: usize) -> Result<(Vec<Continuation>, Vec<Vec<Listed>>)> {
        let (rows, width) = logits.size2()?;
        let most = (1 + self.ends.len()).max(2) * count;
        let k = most.max(self.sampling.listed).min(width as usize);
        let found = best(logits, k, &[1.0]);
        let column = |x: Tensor| Vec::<f64>::try_from(x.flatten(0, -1));
        let (max, sums) = (column(found.max)?, column(found.exp)?);
        if !max.iter().chain(&sums).all(|x| x.is_finite()) {
            return Err(user_error!("the logits are not finite because the model's activations overflow; try --precision f32"));
        }
        let ids = Vec::<i64>::try_from(found.columns.flatten(0, -1))?;
        let values = Vec::<f32>::try_from(found.values.flatten(0, -1))?;
        let mut listed = Vec::new();
        let mut ranked = Vec::new();
        for (row, beam) in (0..rows as usize).zip(beams) {
            let log_sum = max[row] + sums[row].ln();
            let here = ids[row * k..][..k].iter().zip(&values[row * k..][..k]);
            let tokens: Vec<Listed> =
                here.map(|(&id, &logit)| Listed { id: id as u32, logit, logprob: f64::from(logit) - log_sum }).collect();
            ranked.extend(tokens.iter().map(|&token| Continuation { beam: row, sum: beam.sum + token.logprob, token }));
            listed.push(tokens[..self.sampling.listed.min(k)].to_vec());
        }
        // The sort is stable: of equal sums, those of earlier beams and lower ids come first.
        ranked.sort_by(|a, b| b.sum.total_cmp(&a.sum));
        ranked.truncate(most);
        Ok((ranked, listed))
    }
}

/// The beams that continue `beams` as `next` says: index of the continued beam, sum, text. A cache is copied only if it is continued
/// more than once.
fn follow(beams: Vec<Beam>, next: Vec<(usize, f64, Written)>) -> Vec<Beam> {
    let mut caches: Vec<Option<KvCache>> = beams.into_iter().map(|beam| Some(beam.cache)).collect();
    let parents: Vec<usize> = next.iter().map(|(beam, ..)| *beam).collect();
    let followed = next.into_iter().enumerate().map(|(index, (beam, sum, written))| {
        let again = parents[index + 1..].contains(&beam);
        let cache = match again {
            true => caches[beam].as_ref().map(KvCache::fork),
            false => caches[beam].take(),
        };
        Beam { written, sum, cache: cache.expect("a cache is taken by the last beam that needs it") }
    });
    followed.collect()
}
