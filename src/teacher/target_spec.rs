//! What a cache stores of a teacher's distribution for one token.

use hydrometer_torch::objective::{Objective, Tail};
use serde::{Deserialize, Serialize};

use super::pack::id_bits;

/// Upper bound on the average size of a packed logprob, in bits.
const LOGPROB_BITS: usize = 16;

/// The maximum of what the arms that share a cache need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetSpec {
    /// Number of most likely ids; 0 if no arm needs them.
    pub top_k: usize,
    /// Temperatures with a logsumexp, sorted; includes 1 unless empty.
    pub temperatures: Vec<f64>,
    /// Number of ids drawn from the full distribution at each of `draw_temperatures`; 0 if no arm needs them.
    pub draws: usize,
    /// Sorted.
    pub draw_temperatures: Vec<f64>,
}

impl TargetSpec {
    /// The `top_k` most likely ids, with a logsumexp at each of `temperatures`.
    pub fn best(top_k: usize, temperatures: &[f64]) -> Self {
        Self { top_k, temperatures: temperatures.to_vec(), ..Self::default() }
    }

    /// Extends this to what an arm with `objective` needs for `k` targets per token.
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

    /// Number of drawn ids per token, over all temperatures.
    pub fn drawn(&self) -> usize {
        self.draws * self.draw_temperatures.len()
    }

    /// Approximate bytes per token over `vocab_size` ids, with packed logprobs.
    pub fn bytes_per_token(&self, vocab_size: usize) -> u64 {
        let id = id_bits(vocab_size) as usize;
        let bits = self.top_k * (id + LOGPROB_BITS) + self.drawn() * id;
        (bits.div_ceil(8) + 4 * self.temperatures.len()) as u64
    }

    /// For a folder's name: `k20`, `k20-n8`, `n8`.
    pub fn tag(&self) -> String {
        let parts = [("k", self.top_k), ("n", self.draws)].into_iter().filter(|(_, count)| *count > 0);
        parts.map(|(letter, count)| format!("{letter}{count}")).collect::<Vec<_>>().join("-")
    }

    /// For a sentence: `top 20`, `top 20 and 8 draws`.
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
