//! One number from several data sets, none of which may dominate the others.

use super::interval::{Interval, mean_interval};
use super::superiority::interquartile_mean;

/// The interquartile mean over data sets (Agarwal et al. 2021), averaged over seeds, with Student's interval over the seeds:
/// `values[set][seed]`, as many seeds in each. Data sets are fixed: the interval does not generalise to others. With fewer than
/// four of them the interquartile mean is the mean.
pub fn over_sets(values: &[Vec<f64>], level: f64) -> Interval {
    let seeds = values.iter().map(Vec::len).min().unwrap_or(0);
    let of = |seed: usize| interquartile_mean(&values.iter().map(|set| set[seed]).collect::<Vec<_>>());
    mean_interval(&(0..seeds).map(of).collect::<Vec<_>>(), level)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand. The middle half of 1, 2, 3, 100 is 2 and 3.
    #[test]
    fn one_outlying_data_set_does_not_move_the_pooled_mean() {
        let sets = [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [100.0, -100.0]].map(Vec::from);
        let found = over_sets(&sets, 0.95);
        assert_eq!((found.mean, found.n), (2.5, 2));
        assert!(over_sets(&[], 0.95).mean.is_nan());
    }
}
