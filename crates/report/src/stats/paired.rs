//! Two arms on the same documents with the same seeds: their difference in nats per token, document by document.

use super::crossed::{Crossed, Draws, crossed};

/// The documents of a comparison, with their losses under both arms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// Predicted tokens of each document.
    pub tokens: Vec<f64>,
    /// Summed NLL of each document in nats, by seed.
    pub a: Vec<Vec<f64>>,
    pub b: Vec<Vec<f64>>,
}

impl Pairs {
    /// The difference of the corpus NLL, a − b. Documents are weighted by their tokens, so the estimate is the difference of the
    /// values in the table.
    pub fn difference(&self, level: f64, draws: Draws) -> Option<Crossed> {
        let nll = |sums: &[f64], weights: &[f64]| corpus_nll(sums, &self.tokens, weights);
        crossed(self.a.len(), self.tokens.len(), level, draws, |seed, weights| {
            nll(&self.a[seed], weights) - nll(&self.b[seed], weights)
        })
    }
}

/// Nats per token over documents that are counted `weights` times.
pub fn corpus_nll(sums: &[f64], tokens: &[f64], weights: &[f64]) -> f64 {
    let (mut nats, mut count) = (0.0, 0.0);
    for ((sum, tokens), weight) in sums.iter().zip(tokens).zip(weights) {
        nats += weight * sum;
        count += weight * tokens;
    }
    nats / count
}
