//! One walk over a row of logits: its maximum, and the sums of exponentials at several temperatures.
//!
//! Blocks that fit the L1 cache are walked one after the other, as in online softmax (Milakov & Gimelshein 2018): a block above
//! the maximum so far rescales the sums. Memory is read once.

use super::EMPTY_MAX;
use super::exp::exp;
use super::simd::LANES;

/// Number of elements compared at a time: several vectors, because one would wait for its own last comparison.
const WIDE: usize = 4 * LANES;
/// Number of elements that are summed in single precision before they are added to an f64: few, since errors of equal terms
/// add up.
const RUN: usize = 16 * LANES;
/// 4 KB.
const BLOCK: usize = 4 * RUN;
/// The largest group whose maxima [`walk`] can report.
const MOST_WIDE: usize = BLOCK / WIDE;

/// The largest element that is not NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// [`EMPTY_MAX`] if no element is larger.
    pub max: f32,
    /// The start of the first block that has it.
    pub block: usize,
}

/// Maxima of small groups of a row's elements. The k-th largest of them is a lower bound of the k-th largest element.
pub struct Groups {
    /// Number of elements of each lane, in units of 4.
    size: usize,
    pub maxima: Vec<f32>,
}

impl Groups {
    /// Groups for the k largest of `width` elements: several times as many as k, so that the bound is close.
    pub fn new(width: usize, k: usize) -> Self {
        let fitting = (width / (16 * k.max(1))).clamp(1, MOST_WIDE);
        Self { size: 1 << fitting.ilog2(), maxima: Vec::new() }
    }
}

/// Adds Σ exp((z − max)/τ) over the row to `exps`, which hold zeros, at each temperature. −∞ stands for no logit; a NaN makes
/// every sum NaN.
#[inline(always)]
pub fn walk<const FMA: bool>(
    row: &[f32],
    inverse_temperatures: &[f32],
    mut groups: Option<&mut Groups>,
    exps: &mut [f64],
) -> Peak {
    let mut peak = Peak { max: EMPTY_MAX as f32, block: 0 };
    if let Some(groups) = &mut groups {
        groups.maxima.clear();
    }
    for (index, block) in row.chunks(BLOCK).enumerate() {
        let max = block_max(block, groups.as_deref_mut());
        if max > peak.max {
            let lower = f64::from(peak.max) - f64::from(max);
            for (exp, &inverse) in exps.iter_mut().zip(inverse_temperatures) {
                *exp *= (lower * f64::from(inverse)).exp();
            }
            peak = Peak { max, block: index * BLOCK };
        }
        for (exp, &inverse) in exps.iter_mut().zip(inverse_temperatures) {
            *exp += block_exp::<FMA>(block, peak.max, inverse);
        }
    }
    peak
}

impl Peak {
    /// The first column that has the maximum.
    pub fn column(self, row: &[f32]) -> Option<usize> {
        row[self.block..].iter().take(BLOCK).position(|&z| z == self.max).map(|index| self.block + index)
    }
}

/// NaN only if `so_far` is.
#[inline(always)]
fn larger(z: f32, so_far: f32) -> f32 {
    if z > so_far { z } else { so_far }
}

#[inline(always)]
fn block_max(block: &[f32], mut groups: Option<&mut Groups>) -> f32 {
    let size = groups.as_ref().map_or(MOST_WIDE, |groups| groups.size);
    let mut whole = [f32::NEG_INFINITY; LANES];
    for part in block.chunks(size * WIDE) {
        let mut wide = [f32::NEG_INFINITY; WIDE];
        let (chunks, rest) = part.as_chunks::<WIDE>();
        for chunk in chunks {
            for i in 0..WIDE {
                wide[i] = larger(chunk[i], wide[i]);
            }
        }
        for (i, &z) in rest.iter().enumerate() {
            wide[i] = larger(z, wide[i]);
        }
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for i in 0..LANES {
            let halves = [larger(wide[i], wide[i + LANES]), larger(wide[i + 2 * LANES], wide[i + 3 * LANES])];
            lanes[i] = larger(halves[0], halves[1]);
            whole[i] = larger(lanes[i], whole[i]);
        }
        if let Some(groups) = &mut groups {
            groups.maxima.extend_from_slice(&lanes);
        }
    }
    whole.into_iter().fold(f32::NEG_INFINITY, |so_far, z| larger(z, so_far))
}

/// Σ exp((z − max)·inverse)
#[inline(always)]
fn block_exp<const FMA: bool>(block: &[f32], max: f32, inverse: f32) -> f64 {
    let mut total = [0.0f64; LANES];
    for run in block.chunks(RUN) {
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = run.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp::<FMA>((chunk[i] - max) * inverse);
            }
        }
        for (i, &z) in rest.iter().enumerate() {
            lanes[i] += exp::<FMA>((z - max) * inverse);
        }
        for i in 0..LANES {
            total[i] += f64::from(lanes[i]);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            total[i] += total[i + half];
        }
    }
    total[0]
}
