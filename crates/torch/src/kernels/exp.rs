//! exp(x) of non-positive numbers in single precision, written so that compilers vectorise it.

/// exp(x) for x ≤ 0, within 2 ulp; exactly 0 below −87 (where the result would soon be subnormal) and at −∞, NaN at NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2/2; exp(r) by its Taylor polynomial of degree 7, whose remainder r⁸/8! is below 6·10⁻⁹.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has trailing zeros, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let fma = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let rounded = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma(n, -LN_2_LOW, fma(n, -LN_2_HIGH, x));
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = fma(polynomial, r, coefficient);
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { polynomial * f32::from_bits(exponent) }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_two_ulp_of_double_precision() {
        let mut worst = 0.0f64;
        for i in 0..=2_000_000u32 {
            let x = -87.0 * i as f32 / 2_000_000.0;
            let exact = f64::from(x).exp();
            for found in [exp::<false>(x), exp::<true>(x)] {
                let ulp = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
                worst = worst.max((f64::from(found) - exact).abs() / ulp);
            }
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!([exp::<true>(f32::NEG_INFINITY), exp::<true>(-87.5), exp::<true>(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp::<true>(f32::NAN).is_nan());
    }
}
