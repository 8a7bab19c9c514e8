//! Products of f32 matrices by blocks that stay in a core's cache, each by oneDNN's batch-reduce GEMM.
//!
//! They are for CPUs on which MKL, which ATen multiplies with, leaves AVX-512 unused: those that Intel did not make. The right operand
//! is put once into panels of [`COLUMNS`] columns; blocks have one size, the rest being zeros, since each distinct shape is a kernel
//! that is generated once and kept. Which thread computes a block does not matter: its sums are always in the same order.

use std::sync::LazyLock;

use hydrometer_base::numerics::family;
use tch::{Device, Kind, Tensor};

use super::memory::{Parts, numbers};
use super::native::{Element, Multiplier, Product, parallel};
use super::transpose::transpose_words;

/// Rows of the left operand in a block.
const ROWS: usize = 128;
/// Columns of the right operand in a panel.
const COLUMNS: usize = 64;
/// Summands of [`add_transposed_times`] in a block.
const DEPTH: usize = 512;

/// Whether these products are faster than ATen's for `x`. It depends on the CPU alone, never on a measurement, because it decides bits.
pub fn fit(x: &Tensor) -> bool {
    static SUIT: LazyLock<bool> = LazyLock::new(|| {
        let family = family();
        family.contains("avx512") && !family.starts_with("intel")
    });
    x.kind() == Kind::Float && x.device() == Device::Cpu && *SUIT
}

/// a·wᵀ + bias: `a [m, k]`, `w [n, k]`, `bias [n]`; `[m, n]`.
pub fn times_transposed(a: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], w.size()[0]], (Kind::Float, a.device()));
    multiply(a, w, Side::Transposed, bias, &mut out);
    out
}

/// The same without a bias, into `out`.
pub fn times_transposed_into(a: &Tensor, w: &Tensor, out: &mut Tensor) {
    multiply(a, w, Side::Transposed, None, out);
}

/// a·w: `a [m, k]`, `w [k, n]`; `[m, n]`.
pub fn times(a: &Tensor, w: &Tensor) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], w.size()[1]], (Kind::Float, a.device()));
    times_into(a, w, &mut out);
    out
}

/// The same into `out`.
pub fn times_into(a: &Tensor, w: &Tensor, out: &mut Tensor) {
    multiply(a, w, Side::Plain, None, out);
}

/// Adds aᵀ·b to `sum [m, n]`: `a [r, m]`, `b [r, n]`.
pub fn add_transposed_times(a: &Tensor, b: &Tensor, sum: &mut Tensor) {
    let (a, b) = (a.contiguous(), b.contiguous());
    let ([depth, m], [rows, n]) = (sizes(&a), sizes(&b));
    assert!(depth == rows && sizes(sum) == [m, n], "operands of a product match");
    if depth == 0 {
        return;
    }
    let packed = pack(numbers(&b), depth, n, Side::Plain);
    let mut transposed = vec![0.0f32; m.next_multiple_of(ROWS) * depth];
    let strips = Parts::slice(&mut transposed);
    let from = words(numbers(&a));
    parallel(
        m.div_ceil(COLUMNS),
        || (),
        |(), strip| {
            let (first, width) = (strip * COLUMNS, COLUMNS.min(m - strip * COLUMNS));
            // SAFETY: every strip belongs to one call.
            let to = unsafe { strips.get(first * depth, width * depth) };
            transpose_words(&from[first..], m, [depth, width], words_mut(to), depth);
        },
    );
    let (panels, blocks) = (n.div_ceil(COLUMNS), m.div_ceil(ROWS));
    let sum = Parts::<f32>::of(sum);
    let scratch = || (Multiplier::new(), vec![0.0f32; ROWS * COLUMNS]);
    parallel(blocks * panels, scratch, |(multiplier, sums), index| {
        let (first, panel) = (index / panels * ROWS, index % panels);
        for start in (0..depth).step_by(DEPTH) {
            let k = DEPTH.min(depth - start);
            let product = Product { m: ROWS, n: COLUMNS, k, lda: depth, ldb: COLUMNS, ldc: COLUMNS, add: start > 0 };
            multiplier.multiply(
                product,
                &transposed[first * depth + start..],
                &packed[(panel * depth + start) * COLUMNS..],
                sums,
            );
        }
        let width = COLUMNS.min(n - panel * COLUMNS);
        for (row, sums) in sums.chunks_exact(COLUMNS).take(m - first).enumerate() {
            // SAFETY: every block belongs to one call.
            let to = unsafe { sum.get((first + row) * n + panel * COLUMNS, width) };
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    });
}

/// How the right operand is in memory: `[k, n]`, or `[n, k]`.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Plain,
    Transposed,
}

fn sizes(x: &Tensor) -> [usize; 2] {
    let (rows, columns) = x.size2().expect("a matrix");
    [rows as usize, columns as usize]
}

fn multiply(a: &Tensor, w: &Tensor, side: Side, bias: Option<&Tensor>, out: &mut Tensor) {
    let (a, w, bias) = (a.contiguous(), w.contiguous(), bias.map(Tensor::contiguous));
    let [m, k] = sizes(&a);
    let [depth, n] = match (side, sizes(&w)) {
        (Side::Plain, [k, n]) | (Side::Transposed, [n, k]) => [k, n],
    };
    assert!(k == depth && sizes(out) == [m, n], "operands of a product match");
    if m == 0 || n == 0 || k == 0 {
        drop(out.zero_());
        return;
    }
    let (a, bias) = (numbers::<f32>(&a), bias.as_ref().map(numbers::<f32>));
    let packed = pack(numbers(&w), k, n, side);
    let panels = n.div_ceil(COLUMNS);
    let out = Parts::<f32>::of(out);
    let scratch = || (Multiplier::new(), vec![0.0f32; ROWS * COLUMNS], Vec::<f32>::new());
    // Neighbouring indices share the rows of a, which stay in cache.
    parallel(m.div_ceil(ROWS) * panels, scratch, |(multiplier, sums, rows), index| {
        let (first, panel) = (index / panels * ROWS, index % panels);
        let count = ROWS.min(m - first);
        let mut left = &a[first * k..][..count * k];
        if count < ROWS {
            rows.clear();
            rows.extend(left);
            rows.resize(ROWS * k, 0.0);
            left = rows;
        }
        let product = Product { m: ROWS, n: COLUMNS, k, lda: k, ldb: COLUMNS, ldc: COLUMNS, add: false };
        multiplier.multiply(product, left, &packed[panel * k * COLUMNS..], sums);
        let (column, width) = (panel * COLUMNS, COLUMNS.min(n - panel * COLUMNS));
        for (row, sums) in sums.chunks_exact(COLUMNS).take(count).enumerate() {
            // SAFETY: every block belongs to one call.
            let to = unsafe { out.get((first + row) * n + column, width) };
            match bias {
                None => to.copy_from_slice(&sums[..width]),
                Some(bias) => to.iter_mut().zip(sums).zip(&bias[column..]).for_each(|((to, sum), bias)| *to = sum + bias),
            }
        }
    });
}

/// The right operand in panels, `[n/COLUMNS][k][COLUMNS]`, zero beyond the last column.
fn pack(w: &[f32], k: usize, n: usize, side: Side) -> Vec<f32> {
    let panels = n.div_ceil(COLUMNS);
    let mut packed = vec![0.0f32; panels * k * COLUMNS];
    let parts = Parts::slice(&mut packed);
    parallel(
        panels,
        || (),
        |(), panel| {
            let (first, width) = (panel * COLUMNS, COLUMNS.min(n - panel * COLUMNS));
            // SAFETY: every panel belongs to one call.
            let to = unsafe { parts.get(panel * k * COLUMNS, k * COLUMNS) };
            match side {
                Side::Transposed => transpose_words(words(&w[first * k..]), k, [width, k], words_mut(to), COLUMNS),
                Side::Plain => {
                    for (row, to) in to.chunks_exact_mut(COLUMNS).enumerate() {
                        to[..width].copy_from_slice(&w[row * n + first..][..width]);
                    }
                }
            }
        },
    );
    packed
}

fn words(of: &[f32]) -> &[u32] {
    Element::words(of)
}

fn words_mut(of: &mut [f32]) -> &mut [u32] {
    Element::words_mut(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the products in double precision, of the same rounded inputs. Sizes below, at and beyond every block size, odd ones too.
    #[test]
    fn products_of_blocks_are_the_products() {
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        for [m, n, k] in [[1, 1, 1], [3, 130, 33], [128, 64, 64], [129, 65, 576], [700, 257, 7], [256, 200, 1030]] {
            let (a, w, b, bias) = (normal(&[m, k]), normal(&[n, k]), normal(&[k, n]), normal(&[n]));
            let (start, g) = (normal(&[n, k]), normal(&[m, n]));
            let mut sum = start.copy();
            add_transposed_times(&g, &a, &mut sum);
            let transposed = double(&a).mm(&double(&w).tr());
            for (what, found, exact) in [
                ("a·wᵀ + bias", times_transposed(&a, &w, Some(&bias)), &transposed + double(&bias)),
                ("a·wᵀ", times_transposed(&a, &w, None), transposed),
                ("a·b", times(&a, &b), double(&a).mm(&double(&b))),
                ("sum + gᵀ·a", sum, double(&start) + double(&g).tr().mm(&double(&a))),
            ] {
                let off = (double(&found) - &exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]);
                assert!(off < 2e-6, "{what}, {m} × {n} × {k}: {off}");
            }
        }
    }
}
