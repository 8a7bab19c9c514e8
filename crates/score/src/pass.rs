//! pass@k: the probability that one of k samples is correct, estimated without bias from n samples.

/// 1 − C(n−c, k) / C(n, k) for `correct` c of `samples` n (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"). It is
/// computed as a product, so no binomial overflows. `None` if k is 0 or exceeds n, where the estimate does not exist, or if c exceeds n.
pub fn pass_at_k(samples: usize, correct: usize, k: usize) -> Option<f64> {
    if k == 0 || k > samples || correct > samples {
        return None;
    }
    if samples - correct < k {
        return Some(1.0);
    }
    let all_fail: f64 = (samples - correct + 1..=samples).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - all_fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: every subset of k of n samples, counted.
    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_correct_sample() {
        for n in 1..=10usize {
            for c in 0..=n {
                for k in 1..=n {
                    let subsets = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
                    let (mut all, mut passed) = (0, 0);
                    for set in subsets {
                        all += 1;
                        passed += usize::from(set & ((1 << c) - 1) != 0);
                    }
                    let found = pass_at_k(n, c, k).unwrap();
                    assert!((found - passed as f64 / all as f64).abs() < 1e-12, "n {n}, c {c}, k {k}: {found}");
                }
            }
        }
    }

    #[test]
    fn pass_at_k_is_stable_for_many_samples() {
        // C(2000, 1000) overflows f64. Oracle: with one correct sample, it is among k of n with probability k / n.
        assert!((pass_at_k(2000, 1, 1000).unwrap() - 0.5).abs() < 1e-12);
        assert!((pass_at_k(1_000_000, 3, 1).unwrap() - 3e-6).abs() < 1e-15);
        assert_eq!(pass_at_k(200, 200, 100), Some(1.0));
        assert_eq!(pass_at_k(200, 0, 100), Some(0.0));
    }

    #[test]
    fn more_draws_than_samples_have_no_estimate() {
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 1, 0), None);
        assert_eq!(pass_at_k(3, 4, 1), None);
        assert_eq!(pass_at_k(0, 0, 1), None);
    }
}
