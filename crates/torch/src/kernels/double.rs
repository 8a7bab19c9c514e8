//! exp and ln in double precision, written so that compilers vectorise them: for sums and differences that single precision would
//! leave without digits, like that of two probabilities near 1.

/// exp(x) for x ≤ 0, within 2 ulp; exactly 0 below −708 (where the result would soon be subnormal) and at −∞, NaN at NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2/2; exp(r) by its Taylor polynomial of degree 12, whose remainder r¹³/13! is below 2·10⁻¹⁶.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f64) -> f64 {
    /// Adding 1.5·2⁵² rounds to an integer and leaves it in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts; the first has trailing zeros, so that n times it is exact.
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const COEFFICIENTS: [f64; 12] = [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    // Below, the exponent would leave its field; the result is replaced at the end.
    let bounded = if x < -708.0 { -708.0 } else { x };
    let rounded = fma::<FMA>(bounded, std::f64::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FMA>(n, -LN_2_LOW, fma::<FMA>(n, -LN_2_HIGH, bounded));
    let mut polynomial = 1.0 / 479_001_600.0;
    for coefficient in COEFFICIENTS {
        polynomial = fma::<FMA>(polynomial, r, coefficient);
    }
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52;
    if x < -708.0 { 0.0 } else { polynomial * f64::from_bits(exponent) }
}

/// ln(x) for positive, normal and finite x, within 2 ulp of the larger of 1 and the result.
///
/// x = 2ⁿ·m with m in [√½, √2]; with s = (m − 1)/(m + 1), ln(m) = 2 (s + s³/3 + s⁵/5 + …), whose terms beyond s¹⁹ are below 10⁻¹⁶.
#[inline(always)]
pub fn ln<const FMA: bool>(x: f64) -> f64 {
    /// The bits of √½: subtracting them moves the step between exponents there.
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    /// 2⁵² as bits: an integer below it becomes a double by being put in the low bits.
    const SHIFT: u64 = 0x4330_0000_0000_0000;
    const BIAS: u64 = 2048;
    let moved = x.to_bits().wrapping_sub(SQRT_HALF);
    // n + BIAS, which is positive.
    let exponent = (moved.wrapping_add(BIAS << 52) >> 52) & 0xfff;
    let m = f64::from_bits((moved & 0x000f_ffff_ffff_ffff).wrapping_add(SQRT_HALF));
    let n = f64::from_bits(SHIFT | exponent) - (f64::from_bits(SHIFT) + BIAS as f64);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 1.0 / 19.0;
    for coefficient in [1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        series = fma::<FMA>(series, square, coefficient);
    }
    fma::<FMA>(n, std::f64::consts::LN_2, 2.0 * s * series)
}

#[inline(always)]
fn fma<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::{exp, ln};

    /// Oracle: the standard library.
    #[test]
    fn exp_and_ln_are_those_of_the_standard_library() {
        for i in 0..=2_000_000u32 {
            let x = -708.0 * f64::from(i) / 2_000_000.0;
            for (found, name) in [(exp::<false>(x), "plain"), (exp::<true>(x), "fma")] {
                assert!((found - x.exp()).abs() <= 5e-16 * x.exp(), "exp({x}), {name}: {found}");
            }
            // From 10⁻³⁰⁷ to 10³, and close to 1.
            for y in [x.exp(), 1e3 * x.exp(), 1.0 + x * 1e-6, 2.0 + x * 2e-3] {
                if y > f64::MIN_POSITIVE {
                    for (found, name) in [(ln::<false>(y), "plain"), (ln::<true>(y), "fma")] {
                        assert!((found - y.ln()).abs() <= 5e-16 * y.ln().abs().max(1.0), "ln({y}), {name}: {found}");
                    }
                }
            }
        }
        assert_eq!(
            [exp::<true>(f64::NEG_INFINITY), exp::<true>(-709.0), exp::<true>(0.0), ln::<true>(1.0)],
            [0.0, 0.0, 1.0, 0.0]
        );
        assert!(exp::<true>(f64::NAN).is_nan());
    }
}
