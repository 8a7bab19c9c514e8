//! Power of a comparison: the smallest effect that it can detect, and the seeds that an effect needs.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::crossed::{Crossed, freedom};

/// Probability of detecting a true effect.
pub const POWER: f64 = 0.8;
/// Largest number of seeds that is considered.
const SEEDS_MAX: usize = 1000;

/// The smallest effect that a comparison with this spread detects with probability `power` at coverage `level`:
/// (t_{1−α/2} + t_{power}) · standard error (Bloom 1995, "Minimum detectable effects").
pub fn minimum_detectable_effect(found: &Crossed, level: f64, power: f64) -> f64 {
    multiple(found.freedom, level, power) * found.standard_error
}

/// The smallest number of seeds, at least two, that detects `effect`, from the spread `found` with the present seeds. `None` if
/// the documents alone hide the effect, or if even a thousand seeds do not detect it.
pub fn seeds_needed(found: &Crossed, effect: f64, level: f64, power: f64) -> Option<usize> {
    (2..=SEEDS_MAX).find(|&seeds| {
        let (s, d) = (seeds as f64, found.documents as f64);
        let v_seeds = found.seed_variance / s;
        let total = v_seeds + found.document_variance;
        multiple(freedom(v_seeds, s, found.document_variance, d, total), level, power) * total.sqrt() <= effect.abs()
    })
}

fn multiple(freedom: f64, level: f64, power: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |t| t.inverse_cdf(0.5 + level / 2.0) + t.inverse_cdf(power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::crossed::{Draws, crossed};

    fn seeds_only(values: &[f64]) -> Crossed {
        crossed(values.len(), 50, 0.95, Draws { replicates: 50, seed: 1 }, |seed, _| values[seed]).unwrap()
    }

    /// Oracle: by hand with t tables; t_{2, 0.975} = 4.30265273, t_{2, 0.8} = 1.06066017.
    #[test]
    fn the_minimum_detectable_effect_of_three_seeds_agrees_with_t_tables() {
        let found = seeds_only(&[-1.0, 0.0, 1.0]);
        let wanted = (4.302_652_73 + 1.060_660_17) / 3f64.sqrt();
        assert!((minimum_detectable_effect(&found, 0.95, POWER) - wanted).abs() < 1e-6);
    }

    #[test]
    fn smaller_effects_need_more_seeds_and_effects_below_the_documents_noise_have_no_number() {
        let found = seeds_only(&[-1.0, 0.0, 1.0]);
        assert_eq!(seeds_needed(&found, wanted(3), 0.95, POWER), Some(3));
        let (some, more) = (seeds_needed(&found, 1.0, 0.95, POWER).unwrap(), seeds_needed(&found, 0.5, 0.95, POWER).unwrap());
        // Half the effect needs almost four times the seeds.
        assert!((9..=11).contains(&some) && (32..=35).contains(&more), "{some} {more}");
        let noisy = Crossed { document_variance: 1.0, ..found };
        assert_eq!(seeds_needed(&noisy, 0.5, 0.95, POWER), None);
    }

    fn wanted(seeds: i32) -> f64 {
        (4.302_652_73 + 1.060_660_17) / f64::from(seeds).sqrt() + 1e-6
    }
}
