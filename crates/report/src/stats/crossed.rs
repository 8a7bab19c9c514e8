//! The interval of a mean over seeds that were all measured on the same documents: two samples that are crossed.
//!
//! With θ_s the statistic of seed s on all documents, the estimate is the mean of θ_s over the S seeds. Its variance is the
//! sum of the variances due to seeds and to documents, minus their interaction, which both contain (two-way clustering: Cameron,
//! Gelbach & Miller 2011; crossed random effects: Owen 2007, "The pigeonhole bootstrap"):
//!
//! - seeds: V_S = var_s(θ_s)/S;
//! - documents: V_D, the variance of the mean over draws of the documents (see [`super::bootstrap`]), times D/(D−1);
//! - interaction: with V_I the variance if each seed drew its own documents, V_SD = (S·V_I − V_D)/(S−1).
//!
//! A bootstrap over three seeds covers far too little: three values say nothing about the tails. So seeds are not resampled; the
//! quantile is Student's, with the degrees of freedom of Satterthwaite (1946) for V_S on S−1 and V_D on D−1. Where seeds
//! dominate, this is the t interval over seeds; where documents do, it is the bootstrap's normal interval. The coverage is
//! tested by simulation in `coverage.rs`.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::bootstrap::redraw_documents;

/// A mean over seeds and documents with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossed {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Two-sided p-value against 0.
    pub p: f64,
    pub standard_error: f64,
    /// Satterthwaite's degrees of freedom.
    pub freedom: f64,
    /// Variance of one seed's statistic about the mean of all seeds.
    pub seed_variance: f64,
    /// The part of the variance of the mean that is due to documents, whatever the number of seeds.
    pub document_variance: f64,
    pub seeds: usize,
    pub documents: usize,
}

/// The number and the random seed of the document draws.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    pub replicates: usize,
    pub seed: u64,
}

/// The mean of `statistic(seed, weights)` over `seeds` seeds, each on `documents` documents, and its interval of coverage `level`.
/// If all weights are 1, `statistic` counts every document once. `None` with fewer than two seeds or documents, or if the
/// statistic is not finite: the variation is then unknown.
pub fn crossed(
    seeds: usize,
    documents: usize,
    level: f64,
    draws: Draws,
    statistic: impl Fn(usize, &[f64]) -> f64,
) -> Option<Crossed> {
    if seeds < 2 || documents < 2 {
        return None;
    }
    let (s, d) = (seeds as f64, documents as f64);
    let whole = vec![1.0; documents];
    let per_seed: Vec<f64> = (0..seeds).map(|seed| statistic(seed, &whole)).collect();
    let mean = per_seed.iter().sum::<f64>() / s;
    let redrawn = redraw_documents(seeds, documents, draws.replicates, draws.seed, statistic);
    let small = d / (d - 1.0);
    let seed_variance = variance(per_seed.iter().copied());
    let v_seeds = seed_variance / s;
    let v_documents = small * variance(redrawn.iter().map(|draw| draw.iter().sum::<f64>() / s));
    let apart: f64 = (0..seeds).map(|seed| variance(redrawn.iter().map(|draw| draw[seed]))).sum();
    let v_apart = small * apart / (s * s);
    let v_both = ((s * v_apart - v_documents) / (s - 1.0)).max(0.0);
    let total = (v_seeds + v_documents - v_both).max(v_seeds).max(v_documents);
    if !mean.is_finite() || !total.is_finite() {
        return None;
    }
    let standard_error = total.sqrt();
    let freedom = freedom(v_seeds, s, v_documents, d, total);
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let half = student.inverse_cdf(0.5 + level / 2.0) * standard_error;
    let p = match standard_error > 0.0 {
        true => 2.0 * student.cdf(-(mean / standard_error).abs()),
        false => f64::from(u8::from(mean == 0.0)),
    };
    let document_variance = (v_documents - v_both).max(0.0);
    let (low, high) = (mean - half, mean + half);
    Some(Crossed { mean, low, high, p, standard_error, freedom, seed_variance, document_variance, seeds, documents })
}

/// Satterthwaite's degrees of freedom of `total`, at least those of the seeds.
pub fn freedom(v_seeds: f64, seeds: f64, v_documents: f64, documents: f64, total: f64) -> f64 {
    let parts = v_seeds * v_seeds / (seeds - 1.0) + v_documents * v_documents / (documents - 1.0);
    if parts > 0.0 { (total * total / parts).max(seeds.min(documents) - 1.0) } else { seeds - 1.0 }
}

fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (sum, n) = values.clone().fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    values.map(|value| (value - sum / n).powi(2)).sum::<f64>() / (n - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::interval::mean_interval;

    const DRAWS: Draws = Draws { replicates: 500, seed: 1 };

    /// Oracle: the t interval, which is exact if documents do not vary.
    #[test]
    fn without_variation_between_documents_a_crossed_interval_is_the_t_interval() {
        let values = [1.0, 2.5, 3.0, 2.0];
        let found = crossed(4, 10, 0.95, DRAWS, |seed, _| values[seed]).unwrap();
        let wanted = mean_interval(&values, 0.95);
        assert!((found.low - wanted.low).abs() < 1e-12 && (found.high - wanted.high).abs() < 1e-12);
        assert_eq!((found.freedom, found.document_variance), (3.0, 0.0));
    }

    #[test]
    fn with_equal_seeds_only_the_variation_between_documents_remains() {
        let values: Vec<f64> = (0..40).map(|n| f64::from(n % 5)).collect();
        let mean = |_: usize, weights: &[f64]| weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>() / 40.0;
        let found = crossed(3, 40, 0.95, Draws { replicates: 4000, seed: 2 }, mean).unwrap();
        let wanted = (variance(values.iter().copied()) / 40.0).sqrt();
        assert!((found.standard_error / wanted - 1.0).abs() < 0.05, "{} is not {wanted}", found.standard_error);
        assert!((found.freedom - 39.0).abs() < 1e-9);
    }

    #[test]
    fn one_seed_or_a_statistic_that_is_not_finite_gives_no_interval() {
        assert!(crossed(1, 10, 0.95, DRAWS, |_, _| 1.0).is_none());
        assert!(crossed(3, 1, 0.95, DRAWS, |_, _| 1.0).is_none());
        assert!(crossed(3, 10, 0.95, DRAWS, |_, _| f64::NAN).is_none());
        let nothing = crossed(3, 10, 0.95, DRAWS, |_, _| 0.0).unwrap();
        assert_eq!((nothing.low, nothing.high, nothing.p), (0.0, 0.0, 1.0));
    }
}
