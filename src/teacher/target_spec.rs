//! What a cache keeps of a teacher's answers to one token.

use hydrometer_torch::objective::{Objective, Tail};
use serde::{Deserialize, Serialize};

use super::pack::id_bits;

/// Of a packed log-probability, at most on average.
const LOGPROB_BITS: usize = 16;

/// The largest of what the arms that share a cache ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetSpec {
    /// The most likely ids; 0 where no arm asks for them.
    pub top_k: usize,
    /// Temperatures with an lse, sorted; with 1 where there are any.
    pub temperatures: Vec<f64>,
    /// Ids drawn from the whole distribution, at each of `draw_temperatures`; 0 where no arm asks for them.
    pub draws: usize,
    /// Sorted.
    pub draw_temperatures: Vec<f64>,
}

impl TargetSpec {
    /// The `top_k` best ids, with an lse at each of `temperatures`.
    pub fn best(top_k: usize, temperatures: &[f64]) -> Self {
        Self { top_k, temperatures: temperatures.to_vec(), ..Self::default() }
    }

    /// Grows to what an arm with `objective` needs of `k` targets a token.
    pub fn include(&mut self, objective: Objective, k: usize) {
        let temperature = objective.temperature().unwrap_or(1.0);
        if objective.tail() == Some(Tail::Sampled) {
            self.draws = self.draws.max(k);
            insert(&mut self.draw_temperatures, temperature);
        } else {
            self.top_k = self.top_k.max(k);
            insert(&mut self.temperatures, 1.0);
            insert(&mut self.temperatures, temperature);
        }
    }

    /// Drawn ids a token, over all temperatures.
    pub fn drawn(&self) -> usize {
        self.draws * self.draw_temperatures.len()
    }

    /// Bytes of a token's answers over `vocab_size` ids, about: log-probabilities are packed.
    pub fn bytes_per_token(&self, vocab_size: usize) -> u64 {
        let id = id_bits(vocab_size) as usize;
        let bits = self.top_k * (id + LOGPROB_BITS) + self.drawn() * id;
        (bits.div_ceil(8) + 4 * self.temperatures.len()) as u64
    }

    /// As in a folder's name: `k20`, `k20-n8`, `n8`.
    pub fn tag(&self) -> String {
        let parts = [("k", self.top_k), ("n", self.draws)].into_iter().filter(|(_, count)| *count > 0);
        parts.map(|(letter, count)| format!("{letter}{count}")).collect::<Vec<_>>().join("-")
    }

    /// In words: `top 20`, `top 20 and 8 draws`.
    pub fn words(&self) -> String {
        let best = (self.top_k > 0).then(|| format!("top {}", self.top_k));
        let draws = (self.draws > 0).then(|| format!("{} draws", self.draws));
        best.into_iter().chain(draws).collect::<Vec<_>>().join(" and ")
    }
}

fn insert(sorted: &mut Vec<f64>, temperature: f64) {
    if !sorted.contains(&temperature) {
        sorted.push(temperature);
        sorted.sort_by(f64::total_cmp);
    }
}
