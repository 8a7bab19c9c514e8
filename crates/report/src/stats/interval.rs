//! Two-sided Student t intervals of a mean over seeds (Student 1908, "The probable error of a mean").

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with its interval. With fewer than two values `low` and `high` are NaN; with none `mean` is NaN too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub n: usize,
}

/// The mean of `values` and mean ± t_{n−1, (1+level)/2} · s/√n, with `s` the sample standard deviation.
pub fn mean_interval(values: &[f64], level: f64) -> Interval {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    if n < 2 {
        return Interval { mean, low: f64::NAN, high: f64::NAN, n };
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let quantile = StudentsT::new(0.0, 1.0, (n - 1) as f64).map_or(f64::NAN, |t| t.inverse_cdf(0.5 + level / 2.0));
    let half = quantile * (variance / n as f64).sqrt();
    Interval { mean, low: mean - half, high: mean + half, n }
}

/// The interval of the mean of `values[i] - reference[i]`: paired by seed. Values without a partner are left out.
pub fn paired_difference(values: &[f64], reference: &[f64], level: f64) -> Interval {
    let differences: Vec<f64> = values.iter().zip(reference).map(|(value, reference)| value - reference).collect();
    mean_interval(&differences, level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }

    /// Oracle: t table, t_{2, 0.975} = 4.30265273 and t_{4, 0.975} = 2.77644511.
    #[test]
    fn a_mean_interval_agrees_with_the_t_table() {
        let three = mean_interval(&[1.0, 2.0, 3.0], 0.95);
        close(three.mean, 2.0);
        close(three.low, 2.0 - 4.302_652_73 / 3f64.sqrt());
        close(three.high, 2.0 + 4.302_652_73 / 3f64.sqrt());
        let five = mean_interval(&[2.0, 4.0, 6.0, 8.0, 10.0], 0.95);
        close(five.high, 6.0 + 2.776_445_11 * 2f64.sqrt());
    }

    #[test]
    fn a_paired_difference_removes_the_variation_that_pairs_share() {
        let found = paired_difference(&[101.0, 202.0, 303.0], &[100.0, 200.0, 300.0], 0.95);
        close(found.mean, 2.0);
        close(found.low, 2.0 - 4.302_652_73 / 3f64.sqrt());
    }

    #[test]
    fn one_seed_has_a_mean_and_no_interval() {
        let one = mean_interval(&[7.0], 0.95);
        assert!(one.mean == 7.0 && one.low.is_nan() && one.high.is_nan() && one.n == 1);
        assert!(mean_interval(&[], 0.95).mean.is_nan());
    }
}
