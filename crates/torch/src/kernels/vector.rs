//! Kernels for one row: its sums, and its gradient in place. Plain loops over lanes, compiled once per instruction set.

use super::EMPTY_MAX;
use super::exp::exp;
use super::simd::LANES;
#[cfg(target_arch = "x86_64")]
use super::simd::{has_avx2, has_avx512};

/// Number of elements that are summed in single precision before they are added to an f64.
const BLOCK: usize = 64 * LANES;
/// [`EMPTY_MAX`] in single precision.
const EMPTY: f32 = EMPTY_MAX as f32;

/// The result of [`sums`] for a row of logits z, where −∞ stands for no logit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowStats {
    pub max: f32,
    /// Σ exp((z − max)/τ)
    pub exp: f64,
    /// Σ exp(z − max), if requested.
    pub plain_exp: f64,
    /// Σ (z − max), if requested.
    pub difference: f64,
}

/// Which sums are needed beyond max and Σ exp((z − max)/τ).
#[derive(Clone, Copy, Debug)]
pub struct StatRequest {
    pub inverse_temperature: f32,
    pub plain_exp: bool,
    pub difference: bool,
}

/// Coefficients for [`gradient`]: a row becomes `exp·e^((z − max)/τ) + plain_exp·e^(z − max) + constant`.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    pub inverse_temperature: f32,
    pub max: f32,
    pub exp: f32,
    pub plain_exp: Option<f32>,
    pub constant: f32,
}

#[inline(always)]
fn sums_of<const FMA: bool>(row: &[f32], wanted: StatRequest) -> RowStats {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let z = chunk[i];
            lanes[i] = if z > lanes[i] { z } else { lanes[i] };
        }
    }
    let max = lanes.into_iter().chain(rest.iter().copied()).fold(EMPTY, f32::max);
    let mut found = RowStats { max, ..RowStats::default() };
    for block in row.chunks(BLOCK) {
        let mut sums = [[0.0f32; LANES]; 3];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                sums[0][i] += exp::<FMA>((chunk[i] - max) * wanted.inverse_temperature);
            }
        }
        for (i, &z) in rest.iter().enumerate() {
            sums[0][i] += exp::<FMA>((z - max) * wanted.inverse_temperature);
        }
        if wanted.plain_exp {
            for (i, &z) in block.iter().enumerate() {
                sums[1][i % LANES] += exp::<FMA>(z - max);
            }
        }
        if wanted.difference {
            for (i, &z) in block.iter().enumerate() {
                sums[2][i % LANES] += if z > f32::NEG_INFINITY { z - max } else { 0.0 };
            }
        }
        let total = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum::<f64>();
        found.exp += total(sums[0]);
        found.plain_exp += total(sums[1]);
        found.difference += total(sums[2]);
    }
    found
}

/// The gradient with respect to a logit.
#[inline(always)]
fn at<const FMA: bool>(z: f32, factors: Factors) -> f32 {
    let x = z - factors.max;
    let plain = factors.plain_exp.map_or(0.0, |plain| plain * exp::<FMA>(x));
    factors.exp * exp::<FMA>(x * factors.inverse_temperature) + plain + factors.constant
}

/// Writes the gradient with respect to the logits `row` to `out`.
#[inline(always)]
pub fn gradient_of<const FMA: bool>(row: &[f32], factors: Factors, out: &mut [f32]) {
    // Two loops, so that neither has a branch.
    match factors.plain_exp {
        None => row.iter().zip(out).for_each(|(&z, out)| *out = at::<FMA>(z, Factors { plain_exp: None, ..factors })),
        Some(_) => row.iter().zip(out).for_each(|(&z, out)| *out = at::<FMA>(z, factors)),
    }
}

/// The same in place.
#[inline(always)]
fn gradient_in_place<const FMA: bool>(row: &mut [f32], factors: Factors) {
    match factors.plain_exp {
        None => row.iter_mut().for_each(|z| *z = at::<FMA>(*z, Factors { plain_exp: None, ..factors })),
        Some(_) => row.iter_mut().for_each(|z| *z = at::<FMA>(*z, factors)),
    }
}

/// Compiles both kernels for an instruction set.
macro_rules! kernels {
    ($sums:ident, $gradient:ident, $fma:literal $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        fn $sums(rows: &[f32], width: usize, wanted: StatRequest) -> Vec<RowStats> {
            rows.chunks_exact(width).map(|row| sums_of::<$fma>(row, wanted)).collect()
        }
        $(#[target_feature(enable = $features)])?
        fn $gradient(rows: &mut [f32], width: usize, factors: &[Factors]) {
            rows.chunks_exact_mut(width).zip(factors).for_each(|(row, &factors)| gradient_in_place::<$fma>(row, factors));
        }
    };
}

kernels!(sums_anywhere, gradient_anywhere, false);
#[cfg(target_arch = "x86_64")]
kernels!(sums_avx2, gradient_avx2, true, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(sums_avx512, gradient_avx512, true, "avx512f,avx512bw,avx512dq,avx512vl,fma");

/// The sums of each row of `width` logits.
pub fn sums(rows: &[f32], width: usize, wanted: StatRequest) -> Vec<RowStats> {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            // SAFETY: the features were detected.
            return unsafe { sums_avx512(rows, width, wanted) };
        }
        if has_avx2() {
            // SAFETY: the features were detected.
            return unsafe { sums_avx2(rows, width, wanted) };
        }
    }
    sums_anywhere(rows, width, wanted)
}

/// Overwrites each row of logits with its gradient.
pub fn gradient(rows: &mut [f32], width: usize, factors: &[Factors]) {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            // SAFETY: the features were detected.
            return unsafe { gradient_avx512(rows, width, factors) };
        }
        if has_avx2() {
            // SAFETY: the features were detected.
            return unsafe { gradient_avx2(rows, width, factors) };
        }
    }
    gradient_anywhere(rows, width, factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On rows whose length is not a multiple of the block, with −∞ among the logits.
    #[test]
    fn instruction_sets_agree_with_double_precision() {
        let width = 3 * BLOCK + 37;
        let mut row: Vec<f32> = (0..width).map(|i| ((i * 7919) % 1000) as f32 * 0.02 - 11.0).collect();
        row[5] = f32::NEG_INFINITY;
        let wanted = StatRequest { inverse_temperature: 0.5, plain_exp: true, difference: true };
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let finite = || row.iter().filter(|z| z.is_finite()).map(|&z| f64::from(z - max));
        let expected = [finite().map(|x| (x * 0.5).exp()).sum::<f64>(), finite().map(f64::exp).sum(), finite().sum::<f64>()];
        let mut found = vec![sums_anywhere(&row, width, wanted)[0], sums(&row, width, wanted)[0]];
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: the features were detected.
            found.push(unsafe { sums_avx2(&row, width, wanted) }[0]);
        }
        for found in found {
            assert_eq!(found.max, max);
            for (found, expected) in [found.exp, found.plain_exp, found.difference].into_iter().zip(expected) {
                assert!((found - expected).abs() < 2e-7 * expected.abs(), "{found}, not {expected}");
            }
        }
        let nothing = sums(&[f32::NEG_INFINITY; 20], 20, wanted)[0];
        assert_eq!(nothing, RowStats { max: EMPTY, ..RowStats::default() });

        let factors = Factors { inverse_temperature: 0.5, max, exp: 2.0, plain_exp: Some(3.0), constant: 0.25 };
        let (mut plain, mut best) = (row.clone(), row.clone());
        gradient_anywhere(&mut plain, width, &[factors]);
        gradient(&mut best, width, &[factors]);
        for ((z, plain), best) in row.iter().zip(plain).zip(best) {
            let x = f64::from(z - max);
            let expected = 2.0 * (x * 0.5).exp() + 3.0 * x.exp() + 0.25;
            assert!((f64::from(plain) - expected).abs() < 1e-6 && (f64::from(best) - expected).abs() < 1e-6);
        }
    }
}
