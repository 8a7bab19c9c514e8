//! How often one arm beats another.

/// The probability, over all pairs, that a value of `a` is below one of `b`; ties count half (Vargha & Delaney 2000; the
/// "probability of improvement" of Agarwal et al. 2021). NaN if either is empty.
pub fn probability_of_superiority(a: &[f64], b: &[f64]) -> f64 {
    let wins: f64 =
        a.iter().flat_map(|a| b.iter().map(move |b| if a < b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 })).sum();
    wins / (a.len() * b.len()) as f64
}

/// The mean of the middle half: a quarter of the values, rounded down, is removed at either end (Agarwal et al. 2021). NaN for
/// none.
pub fn interquartile_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 4;
    let middle = &sorted[cut..sorted.len() - cut];
    middle.iter().sum::<f64>() / middle.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: counted by hand.
    #[test]
    fn superiority_counts_pairs_and_halves_ties() {
        assert_eq!(probability_of_superiority(&[1.0, 2.0], &[2.0, 3.0]), 3.5 / 4.0);
        assert_eq!(probability_of_superiority(&[5.0], &[1.0, 2.0]), 0.0);
        assert!(probability_of_superiority(&[], &[1.0]).is_nan());
    }

    /// Oracle: scipy.stats.trim_mean(x, 0.25), which rliable uses.
    #[test]
    fn an_interquartile_mean_removes_a_quarter_at_either_end() {
        assert_eq!(interquartile_mean(&[100.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(interquartile_mean(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 700.0, 8.0]), 4.0);
        assert_eq!(interquartile_mean(&[7.0, 9.0, 11.0]), 9.0);
        assert!(interquartile_mean(&[]).is_nan());
    }
}
