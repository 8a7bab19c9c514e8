//! A bootstrap over documents: how much a statistic depends on the documents that it was measured on.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Number of bootstrap replicates of a report.
pub const REPLICATES: usize = 2000;
/// Seed of a report's draws. It is fixed, so the same frames give the same intervals.
pub const SEED: u64 = 736;

/// `statistic(seed, weights)` for every seed, on `replicates` draws of `documents` documents with replacement (Efron 1979); a
/// weight counts how often a document was drawn. All seeds share a draw, because they are measured on the same documents.
/// Returns `[replicates][seeds]`.
pub fn redraw_documents(
    seeds: usize,
    documents: usize,
    replicates: usize,
    rng_seed: u64,
    statistic: impl Fn(usize, &[f64]) -> f64,
) -> Vec<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(rng_seed);
    let mut weights = vec![0.0; documents];
    (0..replicates)
        .map(|_| {
            weights.fill(0.0);
            for _ in 0..documents {
                // Multiply and shift (Lemire 2019), not the library's ranges: these draws must never change with its version.
                let index = (u64::from(rng.next_u32()) * documents as u64) >> 32;
                weights[index as usize] += 1.0;
            }
            (0..seeds).map(|seed| statistic(seed, &weights)).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the variance of a mean of n values is σ²/n.
    #[test]
    fn the_spread_of_a_bootstrapped_mean_is_its_standard_error() {
        let values: Vec<f64> = (0..50).map(|n| f64::from(n % 7)).collect();
        let mean = |weights: &[f64]| weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>() / 50.0;
        let found = redraw_documents(1, 50, 20_000, 1, |_, weights| mean(weights));
        assert_eq!(found, redraw_documents(1, 50, 20_000, 1, |_, weights| mean(weights)));
        let centre = values.iter().sum::<f64>() / 50.0;
        let expected = values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / 50.0 / 50.0;
        let variance = found.iter().map(|draw| (draw[0] - centre).powi(2)).sum::<f64>() / 20_000.0;
        assert!((variance / expected - 1.0).abs() < 0.03, "{variance} is not {expected}");
    }
}
