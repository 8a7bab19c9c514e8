//! The head's products in bf16, by blocks of the vocabulary that fit a core's cache, each by oneDNN's batch-reduce GEMM (with AMX tiles
//! if available, else AVX-512 BF16).
//!
//! Block sizes are few and fixed, because each distinct shape needs its own generated kernel, which is then kept.

use tch::{Kind, Tensor};

use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, Multiplier, Product, parallel};
use super::pack::{Rows, pack_rows, pack_transposed};
use super::rows::{RowFactors, factors};
use super::simd::{Vectorized, on_best_cpu, prefetch};
use super::transpose::transpose_words;
use super::vector::{self, Factors};

/// Rows of the vocabulary in a block.
const COLUMNS: usize = 128;
/// Tokens in a block.
const ROWS: usize = 128;
/// Tokens that the weight's gradient sums over in a block.
const DEPTH: usize = 512;
/// Tokens whose gradient is computed and rounded at a time; the remainder of [`DEPTH`] is padded to a multiple of it.
const STRIP: usize = 32;
/// Rows that are fetched ahead.
const AHEAD: usize = 8;

/// What the gradient of logits is computed from.
pub struct LogitParts<'a> {
    /// `[C, V]` (f32); −∞ at the listed columns.
    pub z_cv: &'a Tensor,
    pub temperature: f64,
    pub factors: RowFactors<'a>,
    /// Columns `[C, k]` (i64) and what is added there (f32).
    pub listed: (&'a Tensor, &'a Tensor),
    /// Columns `[C, 1]` (i64), the gradient there (f32) instead of what the factors give, and 0 for rows where it does not apply (f64).
    pub exact: Option<[&'a Tensor; 3]>,
}

/// The gradient of a chunk's logits.
pub enum Source<'a> {
    /// `[C, V]`, f32.
    Gradient(&'a [f32]),
    Logits {
        z_cv: &'a [f32],
        factors: Vec<Factors>,
        corrections: Corrections,
    },
}

impl<'a> Source<'a> {
    /// A gradient that is written, `[C, V]` (f32).
    pub fn gradient(g_cv: &'a Tensor) -> Self {
        Self::Gradient(numbers(g_cv))
    }

    pub fn logits(of: &LogitParts<'a>) -> Self {
        let LogitParts { z_cv, temperature, listed, exact, .. } = *of;
        let corrections = Corrections::new(z_cv.size()[1] as usize, listed, exact);
        Self::Logits { z_cv: numbers(z_cv), factors: factors(temperature, &of.factors), corrections }
    }

    fn numbers(&self) -> &'a [f32] {
        match self {
            Self::Gradient(numbers) | Self::Logits { z_cv: numbers, .. } => numbers,
        }
    }
}

/// Corrections of the gradient at single columns, by blocks of columns, and in the order of rows within a block.
pub struct Corrections {
    all: Vec<Correction>,
    /// Where each block's corrections begin; one more at the end.
    starts: Vec<usize>,
}

#[derive(Clone, Copy, Default)]
struct Correction {
    row: u32,
    /// Within the block.
    column: u16,
    /// Whether the value replaces the gradient, rather than being added.
    exact: bool,
    value: f32,
}

impl Corrections {
    fn new(width: usize, (columns_ck, values_ck): (&Tensor, &Tensor), exact: Option<[&Tensor; 3]>) -> Self {
        let whole = |x: &Tensor| Vec::<i64>::try_from(x.flatten(0, -1)).expect("columns");
        let values = |x: &Tensor| Vec::<f32>::try_from(x.to_kind(Kind::Float).flatten(0, -1)).expect("floats");
        let k = columns_ck.size()[1] as usize;
        let listed = whole(columns_ck).into_iter().zip(values(values_ck)).enumerate().filter(|(_, (_, value))| *value != 0.0);
        let listed = listed.map(|(index, (column, value))| (index / k, column, false, value));
        let exact = exact.map(|[columns, found, there]| {
            let rows = whole(columns).into_iter().zip(values(found)).zip(values(there)).enumerate();
            rows.filter(|(_, (_, there))| *there != 0.0).map(|(row, ((column, value), _))| (row, column, true, value))
        });
        let mut given: Vec<(usize, i64, bool, f32)> = listed.chain(exact.into_iter().flatten()).collect();
        // By block, then by row.
        given.sort_by_key(|&(row, column, ..)| (column as usize / COLUMNS, row));
        let mut starts = vec![0; width.div_ceil(COLUMNS) + 1];
        given.iter().for_each(|&(_, column, ..)| starts[column as usize / COLUMNS + 1] += 1);
        (1..starts.len()).for_each(|block| starts[block] += starts[block - 1]);
        let correction = |(row, column, exact, value): (usize, i64, bool, f32)| Correction {
            row: row as u32,
            column: (column as usize % COLUMNS) as u16,
            exact,
            value,
        };
        Self { all: given.into_iter().map(correction).collect(), starts }
    }

    fn of_block(&self, block: usize) -> &[Correction] {
        &self.all[self.starts[block]..self.starts[block + 1]]
    }
}

/// Writes h·Wᵀ, for h `[C, d]` and W `[V, d]` (bf16, d even), into `z_cv` (f32).
pub fn logits(hidden_cd: &Tensor, weight_vd: &Tensor, z_cv: &Tensor) {
    let (hidden_cd, weight_vd) = (hidden_cd.contiguous(), weight_vd.contiguous());
    let (h, w) = (numbers::<Bf16>(&hidden_cd), numbers::<Bf16>(&weight_vd));
    let [rows, d, vocab] = shape(&hidden_cd, &weight_vd);
    let z = Parts::<f32>::of(&mut z_cv.shallow_clone());
    let scratch = || (Multiplier::new(), vec![Bf16::default(); COLUMNS * d]);
    parallel(vocab.div_ceil(COLUMNS), scratch, |(multiplier, packed), block| {
        let (first, columns) = (block * COLUMNS, COLUMNS.min(vocab - block * COLUMNS));
        if columns < COLUMNS {
            packed.fill(Bf16::default());
        }
        on_best_cpu(Transpose { from: &w[first * d..][..columns * d], rows: columns, width: d, to: packed });
        for row in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - row);
            let product = Product { m: count, n: columns, k: d, lda: d, ldb: COLUMNS, ldc: vocab, add: false };
            // SAFETY: every block of columns belongs to one call.
            unsafe { multiplier.multiply_at(product, &h[row * d..], packed, z.rest(row * vocab + first)) };
        }
    });
}

struct Transpose<'a> {
    from: &'a [Bf16],
    rows: usize,
    width: usize,
    to: &'a mut [Bf16],
}

impl Vectorized for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        pack_transposed(self.from, self.rows, self.width, self.to, COLUMNS);
    }
}

/// C, d and V.
fn shape(hidden_cd: &Tensor, weight_vd: &Tensor) -> [usize; 3] {
    let ((rows, d), (vocab, width)) = (hidden_cd.size2().expect("a matrix"), weight_vd.size2().expect("a matrix"));
    assert!(d == width && d % 2 == 0, "operands of a product match");
    [rows, d, vocab].map(|n| n as usize)
}

/// Memory of a part.
struct Scratch {
    multiplier: Multiplier<Bf16>,
    weight_pairs: Vec<Bf16>,
    /// `[C][COLUMNS]`
    gradient: Vec<Bf16>,
    /// `[COLUMNS][C, padded]`
    gradient_t: Vec<Bf16>,
    strip: Vec<f32>,
    words: Vec<u32>,
}

/// For the gradient g `[C, V]` of `source`, rounded to bf16: writes g·W into `d_hidden_cd` (f32), and adds gᵀ·h to `d_weight_vd` (f32).
pub fn gradients(source: &Source, hidden_cd: &Tensor, weight_vd: &Tensor, d_hidden_cd: &Tensor, d_weight_vd: &Tensor) {
    let (hidden_cd, weight_vd) = (hidden_cd.contiguous(), weight_vd.contiguous());
    let [rows, d, vocab] = shape(&hidden_cd, &weight_vd);
    let padded = rows.next_multiple_of(STRIP);
    let h = Rows { data: numbers::<Bf16>(&hidden_cd), stride: d, count: rows, width: d };
    let mut h_pairs = vec![Bf16::default(); padded * d];
    on_best_cpu(Interleave { from: h, to: &mut h_pairs });
    let (read, w) = (source.numbers(), numbers::<Bf16>(&weight_vd));
    assert!(read.len() == rows * vocab, "the gradient is [C, V]");
    let blocks = vocab.div_ceil(COLUMNS);
    // Each thread has its own part of the vocabulary, and sums the gradient of h over it.
    let threads = (tch::get_num_threads().max(1) as usize).min(blocks);
    let mut sums = Tensor::zeros([threads as i64, rows as i64, d as i64], (Kind::Float, d_hidden_cd.device()));
    {
        let sums = Parts::<f32>::of(&mut sums);
        let dw = Parts::<f32>::of(&mut d_weight_vd.shallow_clone());
        parallel(
            threads,
            || Scratch {
                multiplier: Multiplier::new(),
                weight_pairs: vec![Bf16::default(); COLUMNS * d],
                gradient: vec![Bf16::default(); rows * COLUMNS],
                gradient_t: vec![Bf16::default(); padded * COLUMNS],
                strip: vec![0.0; STRIP * COLUMNS],
                words: vec![0; STRIP / 2 * COLUMNS],
            },
            |scratch, thread| {
                // SAFETY: every part of the sums belongs to one call.
                let dh = unsafe { sums.get(thread * rows * d, rows * d) };
                for block in thread * blocks / threads..(thread + 1) * blocks / threads {
                    let (first, columns) = (block * COLUMNS, COLUMNS.min(vocab - block * COLUMNS));
                    on_best_cpu(RoundBlock { source, read, block, rows, vocab, scratch: &mut *scratch });
                    let from = Rows { data: &w[first * d..], stride: d, count: columns, width: d };
                    on_best_cpu(Interleave { from, to: &mut scratch.weight_pairs });
                    let Scratch { multiplier, weight_pairs, gradient, gradient_t, .. } = &*scratch;
                    for row in (0..rows).step_by(ROWS) {
                        let m = ROWS.min(rows - row);
                        let product = Product { m, n: d, k: COLUMNS, lda: COLUMNS, ldb: d, ldc: d, add: true };
                        multiplier.multiply(product, &gradient[row * COLUMNS..], weight_pairs, &mut dh[row * d..]);
                    }
                    // SAFETY: every block of the vocabulary belongs to one call.
                    let dw = unsafe { dw.get(first * d, columns * d) };
                    for row in (0..padded).step_by(DEPTH) {
                        let k = DEPTH.min(padded - row);
                        let product = Product { m: columns, n: d, k, lda: padded, ldb: d, ldc: d, add: true };
                        multiplier.multiply(product, &gradient_t[row..], &h_pairs[row * d..], dw);
                    }
                }
            },
        );
    }
    d_hidden_cd.shallow_clone().copy_(&sums.sum_dim_intlist(0, false, Kind::Float));
}

struct Interleave<'a> {
    from: Rows<'a, Bf16>,
    to: &'a mut [Bf16],
}

impl Vectorized for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        pack_rows(self.from, self.to);
    }
}

/// The gradient of a block of columns, rounded: as it is, zeros beyond the vocabulary, and transposed, zeros beyond the rows.
struct RoundBlock<'a> {
    source: &'a Source<'a>,
    /// Logits or gradient, `[C, V]`.
    read: &'a [f32],
    block: usize,
    rows: usize,
    vocab: usize,
    scratch: &'a mut Scratch,
}

impl Vectorized for RoundBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { source, read, block, rows, vocab, scratch } = self;
        let Scratch { gradient, gradient_t, strip, words, .. } = scratch;
        let (first, columns) = (block * COLUMNS, COLUMNS.min(vocab - block * COLUMNS));
        let padded = rows.next_multiple_of(STRIP);
        let mut corrections = match source {
            Source::Gradient(_) => &[][..],
            Source::Logits { corrections, .. } => corrections.of_block(block),
        };
        strip.fill(0.0);
        for top in (0..rows).step_by(STRIP) {
            let count = STRIP.min(rows - top);
            for (r, out) in strip.chunks_exact_mut(COLUMNS).enumerate() {
                if r >= count {
                    out.fill(0.0);
                    continue;
                }
                let from = &read[(top + r) * vocab + first..][..columns];
                // Rows are far apart, so that the CPU does not foresee them.
                let ahead = top + r + AHEAD;
                if ahead < rows {
                    prefetch(&read[ahead * vocab + first..][..columns]);
                }
                match source {
                    Source::Gradient(_) => out[..columns].copy_from_slice(from),
                    Source::Logits { factors, .. } => vector::gradient_of::<FMA>(from, factors[top + r], &mut out[..columns]),
                }
            }
            while let Some((&Correction { row, column, exact, value }, rest)) = corrections.split_first() {
                let Some(row) = (row as usize).checked_sub(top).filter(|&row| row < STRIP) else { break };
                let at = &mut strip[row * COLUMNS + usize::from(column)];
                *at = if exact { value } else { *at + value };
                corrections = rest;
            }
            for (pair, words) in words.chunks_exact_mut(COLUMNS).enumerate() {
                let (low, high) = strip[2 * pair * COLUMNS..][..2 * COLUMNS].split_at(COLUMNS);
                for i in 0..COLUMNS {
                    words[i] = u32::from(Bf16::round(low[i]).0) | u32::from(Bf16::round(high[i]).0) << 16;
                }
            }
            for (out, from) in gradient[top * COLUMNS..][..count * COLUMNS].iter_mut().zip(&*strip) {
                *out = Bf16::round(*from);
            }
            transpose_words(words, COLUMNS, [STRIP / 2, COLUMNS], &mut Bf16::words_mut(gradient_t)[top / 2..], padded / 2);
        }
    }
}
