//! Matrix products by blocks that stay in a core's cache, each by oneDNN's batch-reduce GEMM: with AMX tiles, AVX-512 BF16, AVX-512 or
//! AVX2, whatever this CPU has. Sums are f32, whatever the inputs.
//!
//! The right operand is put into the layout that the products read once, in panels of [`COLUMNS`] columns; blocks have one size, the
//! rest being zeros, since each distinct shape is a kernel that is generated once and kept. Which thread computes a block does not
//! matter: its sums are always in the same order.

use tch::{Device, Kind, Tensor};

use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, Multiplier, Product, multiplies_bf16, parallel};
use super::pack::{Rows, pack_rows, transpose, transpose_words};
use super::simd::{Vectorized, on_best_cpu};

/// Rows of the left operand in a block.
const ROWS: usize = 128;
/// Columns of the right operand in a panel.
const COLUMNS: usize = 64;
/// Summands of [`add_transposed_times`] in a block.
const DEPTH: usize = 512;
/// What the number of summands is padded to.
const STEP: usize = 32;

/// Whether the kernels can multiply matrices of `kind` on `device`.
pub fn fit(kind: Kind, device: Device) -> bool {
    device == Device::Cpu && (kind == Kind::Float || kind == Kind::BFloat16 && multiplies_bf16())
}

/// a·wᵀ + bias: `a [m, k]`, `w [n, k]`, `bias [n]`; the result `[m, n]` is of their kind.
pub fn times_transposed(a: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], w.size()[0]], (a.kind(), a.device()));
    match a.kind() {
        Kind::Float => multiply::<f32, f32>(a, w, Side::Transposed, bias, &mut out),
        _ => multiply::<Bf16, Bf16>(a, w, Side::Transposed, bias, &mut out),
    }
    out
}

/// The same without a bias, into `out` (f32).
pub fn times_transposed_into(a: &Tensor, w: &Tensor, out: &mut Tensor) {
    match a.kind() {
        Kind::Float => multiply::<f32, f32>(a, w, Side::Transposed, None, out),
        _ => multiply::<Bf16, f32>(a, w, Side::Transposed, None, out),
    }
}

/// a·w: `a [m, k]`, `w [k, n]`; the result `[m, n]` is of their kind.
pub fn times(a: &Tensor, w: &Tensor) -> Tensor {
    let mut out = Tensor::empty([a.size()[0], w.size()[1]], (a.kind(), a.device()));
    match a.kind() {
        Kind::Float => multiply::<f32, f32>(a, w, Side::Plain, None, &mut out),
        _ => multiply::<Bf16, Bf16>(a, w, Side::Plain, None, &mut out),
    }
    out
}

/// Adds aᵀ·b to `sum [m, n]` (f32): `a [r, m]`, `b [r, n]`.
pub fn add_transposed_times(a: &Tensor, b: &Tensor, sum: &mut Tensor) {
    match a.kind() {
        Kind::Float => add_products::<f32>(a, b, sum),
        _ => add_products::<Bf16>(a, b, sum),
    }
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

fn multiply<E: Element, O: Element>(a: &Tensor, w: &Tensor, side: Side, bias: Option<&Tensor>, out: &mut Tensor) {
    let (a, w, bias) = (a.contiguous(), w.contiguous(), bias.map(Tensor::contiguous));
    let ([m, k], [n, depth]) = (
        sizes(&a),
        if side == Side::Plain {
            let [k, n] = sizes(&w);
            [n, k]
        } else {
            sizes(&w)
        },
    );
    assert!(k == depth && sizes(out) == [m, n], "operands of a product match");
    if m == 0 || n == 0 {
        return;
    }
    let (a, w, bias) = (numbers::<E>(&a), numbers::<E>(&w), bias.as_ref().map(numbers::<E>));
    // An odd number of summands is padded, in both operands.
    let padded = k.next_multiple_of(E::PAIR);
    let panels = n.div_ceil(COLUMNS);
    let mut packed = vec![E::default(); panels * padded * COLUMNS];
    let panel_parts = Parts::slice(&mut packed);
    parallel(
        panels,
        || (),
        |(), panel| {
            // SAFETY: every panel belongs to one call.
            let to = unsafe { panel_parts.get(panel * padded * COLUMNS, padded * COLUMNS) };
            on_best_cpu(PackPanel { w, k, n, side, first: panel * COLUMNS, to });
        },
    );
    let out = Parts::<O>::of(out);
    let blocks = m.div_ceil(ROWS);
    let scratch = || (Multiplier::new(), vec![0.0f32; ROWS * COLUMNS], Vec::<E>::new());
    // Neighbouring indices share the rows of a, which stay in cache.
    parallel(blocks * panels, scratch, |(multiplier, sums, rows), index| {
        let (block, panel) = (index / panels, index % panels);
        let (first, column) = (block * ROWS, panel * COLUMNS);
        let count = ROWS.min(m - first);
        let left = if count == ROWS && padded == k {
            &a[first * k..]
        } else {
            rows.clear();
            rows.resize(ROWS * padded, E::default());
            for (row, to) in rows.chunks_exact_mut(padded).take(count).enumerate() {
                to[..k].copy_from_slice(&a[(first + row) * k..][..k]);
            }
            &rows[..]
        };
        let product = Product { m: ROWS, n: COLUMNS, k: padded, lda: padded, ldb: COLUMNS, ldc: COLUMNS, add: false };
        multiplier.multiply(product, left, &packed[panel * padded * COLUMNS..], sums);
        let width = COLUMNS.min(n - column);
        for (row, sums) in sums.chunks_exact(COLUMNS).take(count).enumerate() {
            // SAFETY: every block belongs to one call.
            let to = unsafe { out.get((first + row) * n + column, width) };
            on_best_cpu(Finish { sums: &sums[..width], bias: bias.map(|bias| &bias[column..][..width]), to });
        }
    });
}

/// One panel of the right operand: `[k/PAIR][COLUMNS][PAIR]`, zero beyond the last column.
struct PackPanel<'a, E> {
    w: &'a [E],
    k: usize,
    n: usize,
    side: Side,
    /// The first column.
    first: usize,
    to: &'a mut [E],
}

impl<E: Element> Vectorized for PackPanel<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { w, k, n, side, first, to } = self;
        let width = COLUMNS.min(n - first);
        if width < COLUMNS || k % E::PAIR > 0 {
            to.fill(E::default());
        }
        match side {
            Side::Transposed if k % E::PAIR == 0 => {
                transpose_words(E::words(&w[first * k..][..width * k]), width, k / E::PAIR, E::words_mut(to), COLUMNS);
            }
            Side::Transposed => {
                for (column, row) in w[first * k..].chunks_exact(k).take(width).enumerate() {
                    for (i, &x) in row.iter().enumerate() {
                        to[(i / E::PAIR * COLUMNS + column) * E::PAIR + i % E::PAIR] = x;
                    }
                }
            }
            Side::Plain if width == COLUMNS => pack_rows(Rows { data: &w[first..], stride: n, count: k, width }, to),
            Side::Plain => {
                for i in 0..k {
                    for (column, &x) in w[i * n + first..][..width].iter().enumerate() {
                        to[(i / E::PAIR * COLUMNS + column) * E::PAIR + i % E::PAIR] = x;
                    }
                }
            }
        }
    }
}

/// Rounds a row of sums, with the bias.
struct Finish<'a, E, O> {
    sums: &'a [f32],
    bias: Option<&'a [E]>,
    to: &'a mut [O],
}

impl<E: Element, O: Element> Vectorized for Finish<'_, E, O> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { sums, bias, to } = self;
        match bias {
            None => to.iter_mut().zip(sums).for_each(|(to, &sum)| *to = O::round(sum)),
            Some(bias) => to.iter_mut().zip(sums).zip(bias).for_each(|((to, &sum), &bias)| *to = O::round(sum + bias.widen())),
        }
    }
}

fn add_products<E: Element>(a: &Tensor, b: &Tensor, sum: &mut Tensor) {
    let (a, b) = (a.contiguous(), b.contiguous());
    let ([count, m], [rows, n]) = (sizes(&a), sizes(&b));
    assert!(count == rows && sizes(sum) == [m, n], "operands of a product match");
    let (a, b) = (numbers::<E>(&a), numbers::<E>(&b));
    let depth = count.next_multiple_of(STEP);
    let panels = n.div_ceil(COLUMNS);
    let mut packed = vec![E::default(); panels * depth * COLUMNS];
    let mut transposed = vec![E::default(); m.next_multiple_of(ROWS) * depth];
    let (panel_parts, left_parts) = (Parts::slice(&mut packed), Parts::slice(&mut transposed));
    let strips = m.div_ceil(STEP);
    parallel(
        panels + strips,
        || (),
        |(), index| match index.checked_sub(panels) {
            None => {
                // SAFETY: every panel belongs to one call.
                let to = unsafe { panel_parts.get(index * depth * COLUMNS, depth * COLUMNS) };
                on_best_cpu(PackPanel { w: b, k: count, n, side: Side::Plain, first: index * COLUMNS, to });
            }
            Some(strip) => {
                let (first, width) = (strip * STEP, STEP.min(m - strip * STEP));
                // SAFETY: every strip belongs to one call.
                let to = unsafe { left_parts.get(first * depth, width * depth) };
                on_best_cpu(Transpose { a, count, m, first, width, to, stride: depth });
            }
        },
    );
    let sum = Parts::<f32>::of(sum);
    let blocks = m.div_ceil(ROWS);
    parallel(
        blocks * panels,
        || (Multiplier::new(), vec![0.0f32; ROWS * COLUMNS]),
        |(multiplier, sums), index| {
            let (block, panel) = (index / panels, index % panels);
            let (first, column) = (block * ROWS, panel * COLUMNS);
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
            let width = COLUMNS.min(n - column);
            for (row, sums) in sums.chunks_exact(COLUMNS).take(m - first).enumerate() {
                // SAFETY: every block belongs to one call.
                let to = unsafe { sum.get((first + row) * n + column, width) };
                to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
            }
        },
    );
}

/// Some columns of a matrix `[count, m]` as rows, `stride` apart; what is beyond `count` stays.
struct Transpose<'a, E> {
    a: &'a [E],
    count: usize,
    m: usize,
    first: usize,
    width: usize,
    to: &'a mut [E],
    stride: usize,
}

impl<E: Element> Vectorized for Transpose<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { a, count, m, first, width, to, stride } = self;
        transpose(Rows { data: &a[first..], stride: m, count, width }, to, stride);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the products in double precision, of the same rounded inputs. Sizes below, at and beyond every block size, odd ones too.
    #[test]
    fn products_of_blocks_are_the_products() {
        for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 5e-3)] {
            if !fit(kind, Device::Cpu) {
                eprintln!("skipped: this CPU does not multiply bf16");
                continue;
            }
            let normal = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let double = |x: &Tensor| x.to_kind(Kind::Double);
            for [m, n, k] in [[1, 1, 1], [3, 130, 33], [128, 64, 64], [129, 65, 576], [700, 257, 7], [256, 200, 1030]] {
                let (a, w, b) = (normal([m, k]), normal([n, k]), normal([k, n]));
                let (bias, start, g) = (normal([1, n]).view([n]), normal([n, k]).to_kind(Kind::Float), normal([m, n]));
                let mut sum = start.copy();
                add_transposed_times(&g, &a, &mut sum);
                let exact = double(&a).mm(&double(&w).tr());
                let mut single = Tensor::empty([m, n], (Kind::Float, Device::Cpu));
                times_transposed_into(&a, &w, &mut single);
                let found = [
                    ("a·wᵀ + bias", times_transposed(&a, &w, Some(&bias)), &exact + double(&bias), tolerance),
                    ("a·wᵀ", single, exact, 2e-6),
                    ("a·b", times(&a, &b), double(&a).mm(&double(&b)), tolerance),
                    ("sum + gᵀ·a", sum, double(&start) + double(&g).tr().mm(&double(&a)), 2e-6),
                ];
                for (what, found, exact, tolerance) in found {
                    let off = (double(&found) - &exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]);
                    assert!(off < tolerance, "{what}, {m} × {n} × {k}, {kind:?}: {off}");
                }
            }
        }
    }

    #[test]
    #[ignore = "timing"]
    fn timing() {
        tch::set_num_threads(2);
        for kind in [Kind::BFloat16, Kind::Float] {
            for [m, n, k] in [
                [4096i64, 576, 576],
                [4096, 192, 576],
                [4096, 1536, 576],
                [4096, 576, 1536],
                [4096, 704, 256],
                [4096, 256, 704],
                [4096, 256, 256],
                [2048, 96, 256],
            ] {
                let normal = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
                let (a, w, g) = (normal([m, k]), normal([n, k]), normal([m, n]));
                let mut sum = w.to_kind(Kind::Float);
                let mut line = format!("{kind:?} {m} x {n} x {k}:");
                let flop = 2.0 * (m * n * k) as f64;
                let mut time = |name: &str, f: &mut dyn FnMut()| {
                    f();
                    let mut all: Vec<f64> = (0..15)
                        .map(|_| {
                            let start = std::time::Instant::now();
                            f();
                            start.elapsed().as_secs_f64()
                        })
                        .collect();
                    all.sort_by(f64::total_cmp);
                    line += &format!(" {name} {:.0}", flop / all[4] / 1e9);
                };
                time("linear aten", &mut || drop(a.linear(&w, None::<Tensor>)));
                time("ours", &mut || drop(times_transposed(&a, &w, None)));
                time("dx aten", &mut || drop(g.mm(&w)));
                time("ours", &mut || drop(times(&g, &w)));
                time("dw aten", &mut || drop(g.tr().mm(&a)));
                time("ours", &mut || add_transposed_times(&g, &a, &mut sum));
                eprintln!("{line} GF/s");
            }
        }
    }
}
