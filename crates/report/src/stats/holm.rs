//! Holm's correction for several tests (Holm 1979, "A simple sequentially rejective multiple test procedure").

/// Adjusted p-values in the given order: rejecting those below α keeps the probability of any false rejection below α. NaN, for a
/// test that could not be made, is left out and stays NaN.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&index| !p[index].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut largest) = (vec![f64::NAN; p.len()], 0.0f64);
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max(p[index] * (order.len() - rank) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    #[test]
    fn agrees_with_r() {
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, wanted) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - wanted).abs() < 1e-12, "{found} is not {wanted}");
        }
        let found = holm(&[0.9, f64::NAN, 0.8]);
        assert!(found[1].is_nan() && found[0] == 1.0 && found[2] == 1.0);
    }
}
