//! Inspects a cache: its size, the mass it retains, and whether the teacher still gives the same targets.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_data::batch::Row;
use hydrometer_data::sequences::{Sequence, sequences};
use hydrometer_data::tokens::TokenizedSplit;
use serde::Serialize;

use super::block::Answers;
use super::build_cache::TeacherPass;
use super::cache::Cache;

/// Values of k for which the retained mass is reported, as far as the cache has so many ids.
const KS: [usize; 12] = [1, 2, 5, 10, 20, 32, 50, 64, 100, 128, 200, 256];
/// Two passes may swap ids whose logits differ by less than this.
const TIE: f32 = 1e-4;

/// A description of a cache.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    pub sequences: usize,
    pub tokens: u64,
    /// Size of the blocks, without the texts that are stored beside them.
    pub bytes: u64,
    pub bytes_per_token: f64,
    /// Retained mass of the k most likely ids, averaged over tokens, by k.
    pub retained_mass: BTreeMap<usize, f64>,
    /// The comparison with a second pass of the teacher; `None` if there was none.
    pub agreement: Option<Agreement>,
}

/// A cache compared with a second pass of its teacher.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    pub tokens: u64,
    /// Share of tokens whose most likely id is the same.
    pub top_1: f64,
    /// Share of stored ids that are the same, rank by rank, without those whose logits in the second pass are within 10⁻⁴ of each
    /// other.
    pub ids: f64,
    /// Largest difference of a logprob, rank by rank, in nats.
    pub worst_logprob: f64,
    /// Largest difference of a logsumexp.
    pub worst_lse: f64,
    /// Share of draws that are the same; 1 if there are none.
    pub draws: f64,
}

/// Measures `cache` over the sequences of `split` that it holds.
pub fn inspect(cache: &Cache, split: &TokenizedSplit, context: usize, into: &mut Inspection) -> Result<()> {
    let top_k = cache.title.kept.top_k;
    let ks: Vec<usize> = KS.into_iter().filter(|&k| k < top_k).chain((top_k > 0).then_some(top_k)).collect();
    let mut masses = vec![0.0; ks.len()];
    let mut tokens = 0;
    for sequence in sequences(split, context).into_iter().filter(|sequence| cache.contains(&sequence.key(split))) {
        let answers = cache.read(&Row::whole(sequence), split)?;
        for logprobs in answers.logprobs.chunks(top_k.max(1)) {
            let (mut mass, mut next) = (0.0, 0);
            for (rank, &logprob) in logprobs.iter().enumerate() {
                mass += f64::from(logprob).exp();
                if ks.get(next) == Some(&(rank + 1)) {
                    masses[next] += mass;
                    next += 1;
                }
            }
        }
        tokens += sequence.targets as u64;
        into.sequences += 1;
    }
    for (k, mass) in ks.into_iter().zip(masses) {
        let before = into.retained_mass.entry(k).or_default();
        *before = (*before * into.tokens as f64 + mass) / (into.tokens + tokens).max(1) as f64;
    }
    into.tokens += tokens;
    Ok(())
}

/// Runs the teacher again on about `tokens` targets, spread over `split`, and compares. Every rank must call it.
pub fn compare(cache: &Cache, split: &TokenizedSplit, teacher: &TeacherPass, tokens: usize) -> Result<Agreement> {
    let mut all = sequences(split, teacher.context);
    all.retain(|sequence| cache.contains(&sequence.key(split)));
    let wanted = tokens.div_ceil(teacher.context).clamp(1, all.len().max(1));
    let sample: Vec<Sequence> = all.iter().copied().step_by(all.len().div_ceil(wanted).max(1)).collect();
    let mut sum = Agreement::default();
    let (mut ids, mut same_draws, mut draws) = (0u64, 0u64, 0u64);
    for chunk in sample.chunks(teacher.sequences_per_pass()) {
        let again = teacher.answer(split, chunk)?;
        let mut kept = Answers::default();
        for &sequence in chunk {
            kept.append(cache.read(&Row::whole(sequence), split)?);
            sum.tokens += sequence.targets as u64;
        }
        let top_k = cache.title.kept.top_k;
        for (at, (kept_id, id)) in kept.ids.iter().zip(&again.ids).enumerate() {
            let near = |other: usize| (again.logprobs[at] - again.logprobs[other]).abs() < TIE;
            let tied = (at % top_k > 0 && near(at - 1)) || at % top_k + 1 == top_k || near(at + 1);
            sum.ids += f64::from(u8::from(kept_id == id || tied));
            ids += 1;
            sum.top_1 += f64::from(u8::from(at.is_multiple_of(top_k) && kept_id == id));
        }
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        sum.worst_logprob = sum.worst_logprob.max(worst(&kept.logprobs, &again.logprobs));
        sum.worst_lse = sum.worst_lse.max(worst(&kept.lse, &again.lse));
        same_draws += kept.draws.iter().zip(&again.draws).filter(|(a, b)| a == b).count() as u64;
        draws += kept.draws.len() as u64;
    }
    sum.top_1 /= sum.tokens.max(1) as f64;
    sum.ids /= ids.max(1) as f64;
    sum.draws = if draws == 0 { 1.0 } else { same_draws as f64 / draws as f64 };
    Ok(sum)
}
