//! Products of a few rows with a weight, for decoding. The result for a row is the same, bit for bit, whatever rows are beside it
//! and however many threads there are: the order in which a sum is taken depends on its length alone.
//!
//! A decoding step is bound by reading the weights, so each weight row is read once for all rows of the input, and where it lies.

use tch::{Device, Kind, Tensor};

use super::exp::exp;
use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, multiplies_bf16, parallel};
use super::simd::{LANES, Vectorized, halved, on_best_cpu};

/// Weight rows whose sums are taken together.
const WIDE: usize = 4;
/// Input rows whose sums are taken together.
const TALL: usize = 4;
/// Weight rows that a thread takes at a time.
const BLOCK: usize = 64;

/// Whether [`product`] can multiply `x`: floats on the CPU.
pub fn fit(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16)
}

/// x·wᵀ + b, `[m, n]` in `kind`, for `x [m, k]`, `weight [n, k]` and `bias [n]`. Sums are in f32.
pub fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, kind: Kind) -> Tensor {
    let x = x.contiguous();
    match (x.kind(), kind) {
        (Kind::Float, _) => product_in::<f32, f32>(&x, weight, bias),
        (_, Kind::Float) => product_in::<Bf16, f32>(&x, weight, bias),
        _ => product_in::<Bf16, Bf16>(&x, weight, bias),
    }
}

fn product_in<E: Element, O: Element>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let ((m, k), (n, width)) = (x.size2().expect("rows of numbers"), weight.size2().expect("a matrix"));
    assert!(k == width, "rows of the weight are as long as those of the input");
    let mut out = Tensor::empty([m, n], (O::KIND, Device::Cpu));
    let [m, k, n] = [m, k, n].map(|n| n as usize);
    {
        let out = Parts::<O>::of(&mut out);
        let (x, weight, bias) = (numbers::<E>(x), numbers::<E>(weight), bias.map(numbers::<E>));
        parallel(
            n.div_ceil(BLOCK),
            || vec![0.0f32; m * BLOCK],
            |sums, block| {
                let (first, count) = (block * BLOCK, BLOCK.min(n - block * BLOCK));
                let weight = &weight[first * k..][..count * k];
                E::sums(Sums { x, weight, k, count, sums: &mut sums[..m * count] });
                for (row, sums) in sums.chunks_exact(count).take(m).enumerate() {
                    // SAFETY: each block of columns belongs to one call.
                    let out = unsafe { out.get(row * n + first, count) };
                    match bias {
                        Some(bias) => {
                            let bias = &bias[first..][..count];
                            out.iter_mut().zip(sums).zip(bias).for_each(|((out, &sum), &b)| *out = O::round(sum + b.widen()));
                        }
                        None => out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = O::round(sum)),
                    }
                }
            },
        );
    }
    out
}

/// The products of the rows of `x` with `count` weight rows, all of `k` numbers: to `sums [m, count]`.
pub struct Sums<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    k: usize,
    count: usize,
    sums: &'a mut [f32],
}

impl<E: Element> Sums<'_, E> {
    /// Walks over tiles of the result. `tile` gives the sums of up to [`TALL`] input rows, which are one after the other, with
    /// [`WIDE`] weight rows; it is told whether it is the first to read these weight rows.
    #[inline(always)]
    fn tiles(self, mut tile: impl FnMut(usize, bool, &[E], [&[E]; WIDE]) -> [[f32; WIDE]; TALL]) {
        let Self { x, weight, k, count, sums } = self;
        let m = x.len() / k.max(1);
        for column in (0..count).step_by(WIDE) {
            // Beyond the last row it is taken again: a sum that is not stored costs less than a loop of its own.
            let rows: [&[E]; WIDE] = std::array::from_fn(|i| &weight[(column + i).min(count - 1) * k..][..k]);
            for row in (0..m).step_by(TALL) {
                let tall = TALL.min(m - row);
                let found = tile(tall, row == 0, &x[row * k..][..tall * k], rows);
                let wide = WIDE.min(count - column);
                for (i, found) in found.iter().take(tall).enumerate() {
                    sums[(row + i) * count + column..][..wide].copy_from_slice(&found[..wide]);
                }
            }
        }
    }
}

impl<E: Element> Vectorized for Sums<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let k = self.k;
        self.tiles(|tall, _, x, w| {
            let mut out = [[0.0; WIDE]; TALL];
            match tall {
                1 => out[..1].copy_from_slice(&tile::<E, FMA, 1>(x, w, k)),
                2 => out[..2].copy_from_slice(&tile::<E, FMA, 2>(x, w, k)),
                3 => out[..3].copy_from_slice(&tile::<E, FMA, 3>(x, w, k)),
                _ => out.copy_from_slice(&tile::<E, FMA, TALL>(x, w, k)),
            }
            out
        });
    }
}

#[inline(always)]
fn tile<E: Element, const FMA: bool, const M: usize>(x: &[E], w: [&[E]; WIDE], k: usize) -> [[f32; WIDE]; M] {
    let mut sums = [[[0.0f32; LANES]; WIDE]; M];
    let x: [&[E]; M] = std::array::from_fn(|i| &x[i * k..][..k]);
    let x_chunks = x.map(|row| row.as_chunks::<LANES>());
    let w_chunks = w.map(|row| row.as_chunks::<LANES>());
    for chunk in 0..k / LANES {
        for j in 0..WIDE {
            let w = w_chunks[j].0[chunk].map(Element::widen);
            for i in 0..M {
                let x = x_chunks[i].0[chunk].map(Element::widen);
                for lane in 0..LANES {
                    sums[i][j][lane] = add_product::<FMA>(x[lane], w[lane], sums[i][j][lane]);
                }
            }
        }
    }
    let mut out = [[0.0; WIDE]; M];
    for i in 0..M {
        for j in 0..WIDE {
            for (lane, (&x, &w)) in x_chunks[i].1.iter().zip(w_chunks[j].1).enumerate() {
                sums[i][j][lane] = add_product::<FMA>(x.widen(), w.widen(), sums[i][j][lane]);
            }
            out[i][j] = halved(sums[i][j], |a, b| a + b);
        }
    }
    out
}

#[inline(always)]
fn add_product<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// A number format in which weights are multiplied where they lie.
trait Multiplied: Element {
    fn sums(of: Sums<Self>);
}

impl<E: Element> Multiplied for E {
    fn sums(of: Sums<Self>) {
        #[cfg(target_arch = "x86_64")]
        if E::KIND == Kind::BFloat16 && multiplies_bf16() && super::simd::has_avx512() {
            // SAFETY: the features were detected.
            return unsafe { pairs::sums(of) };
        }
        on_best_cpu(of);
    }
}

/// Products of bfloat16 numbers by the instruction that adds two of them to each lane.
#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Element, Sums, TALL, WIDE};

    /// Numbers in a register.
    const STEP: usize = 32;

    /// `E` is [`super::Bf16`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    pub unsafe fn sums<E: Element>(of: Sums<E>) {
        assert!(size_of::<E>() == 2);
        let k = of.k;
        of.tiles(|tall, first, x, w| {
            assert!(x.len() == tall * k && w.iter().all(|row| row.len() == k));
            let (x, w) = (x.as_ptr().cast(), w.map(|row| row.as_ptr().cast()));
            // SAFETY: there are `tall` rows of `k` numbers at `x`, and `k` numbers at each of `w`, as was checked. The features are
            // those of this function.
            unsafe {
                match (tall, first) {
                    (1, true) => tile::<1, true>(x, w, k),
                    (1, false) => tile::<1, false>(x, w, k),
                    (2, true) => tile::<2, true>(x, w, k),
                    (2, false) => tile::<2, false>(x, w, k),
                    (3, true) => tile::<3, true>(x, w, k),
                    (3, false) => tile::<3, false>(x, w, k),
                    (_, true) => tile::<TALL, true>(x, w, k),
                    (_, false) => tile::<TALL, false>(x, w, k),
                }
            }
        });
    }

    /// With `FETCH`, the weight rows after these are fetched meanwhile: rows are too short for the hardware to foresee them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    unsafe fn tile<const M: usize, const FETCH: bool>(x: *const u16, w: [*const u16; WIDE], k: usize) -> [[f32; WIDE]; TALL] {
        let mut sums = [[_mm512_setzero_ps(); WIDE]; M];
        let whole = k / STEP * STEP;
        let mut at = 0;
        while at < whole {
            // SAFETY: STEP numbers from `at` on are within the k of each row.
            unsafe {
                let x: [__m512i; M] = std::array::from_fn(|i| _mm512_loadu_si512(x.add(i * k + at).cast()));
                for j in 0..WIDE {
                    if FETCH {
                        _mm_prefetch::<_MM_HINT_T0>(w[j].wrapping_add(at + WIDE * k).cast());
                    }
                    let w = _mm512_loadu_si512(w[j].add(at).cast());
                    for i in 0..M {
                        sums[i][j] =
                            _mm512_dpbf16_ps(sums[i][j], transmute::<__m512i, __m512bh>(x[i]), transmute::<__m512i, __m512bh>(w));
                    }
                }
            }
            at += STEP;
        }
        if at < k {
            let mask = (1u32 << (k - at)) - 1;
            // SAFETY: the mask leaves only numbers within the k of each row.
            unsafe {
                for j in 0..WIDE {
                    let w = _mm512_maskz_loadu_epi16(mask, w[j].add(at).cast());
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_maskz_loadu_epi16(mask, x.add(i * k + at).cast());
                        sums[j] = _mm512_dpbf16_ps(sums[j], transmute::<__m512i, __m512bh>(x), transmute::<__m512i, __m512bh>(w));
                    }
                }
            }
        }
        let mut out = [[0.0; WIDE]; TALL];
        for i in 0..M {
            out[i] = totals(sums[i]);
        }
        out
    }

    /// The sum of the lanes of each of four registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
    fn totals([a, b, c, d]: [__m512; WIDE]) -> [f32; WIDE] {
        // Quarters of a register are added crosswise, so that in the end each quarter has the sums of one of the four.
        let halves = |x, y| _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
        let (ab, cd) = (halves(a, b), halves(c, d));
        let quarters = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
        let pairs = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0b01_00_11_10));
        let all = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0b10_11_00_01));
        // SAFETY: both are 64 bytes, and any bits are numbers.
        let lanes: [f32; 16] = unsafe { transmute(all) };
        [lanes[0], lanes[4], lanes[8], lanes[12]]
    }
}

/// exp((z − max)/τ) of each row of logits `z_cv` (f32), given each row's maximum: a new tensor.
pub fn exponentials(z_cv: &Tensor, max: &[f64], temperature: f64) -> Tensor {
    let width = z_cv.size()[1] as usize;
    let mut out = z_cv.copy();
    {
        let parts = Parts::<f32>::of(&mut out);
        let inverse = (1.0 / temperature) as f32;
        parallel(
            max.len(),
            || (),
            |(), row| {
                // SAFETY: each row belongs to one call.
                let z = unsafe { parts.get(row * width, width) };
                on_best_cpu(Exponentials { z, max: max[row] as f32, inverse });
            },
        );
    }
    out
}

struct Exponentials<'a> {
    z: &'a mut [f32],
    max: f32,
    inverse: f32,
}

impl Vectorized for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { z, max, inverse } = self;
        z.iter_mut().for_each(|z| *z = exp::<FMA>((*z - max) * inverse));
    }
}

/// GELU, which ATen computes differently at the end of a tensor than in the middle: `x` in its own number format. `tanh`: in the
/// approximation by tanh.
pub fn gelu(x: &Tensor, tanh: bool) -> Tensor {
    match x.kind() {
        Kind::Float => gelu_in::<f32>(x, tanh),
        _ => gelu_in::<Bf16>(x, tanh),
    }
}

fn gelu_in<E: Element>(x: &Tensor, tanh: bool) -> Tensor {
    const PART: usize = 1 << 10;
    let mut out = x.contiguous().copy();
    let count = out.numel();
    {
        let parts = Parts::<E>::of(&mut out);
        parallel(
            count.div_ceil(PART),
            || (),
            |(), index| {
                // SAFETY: each part belongs to one call.
                let x = unsafe { parts.get(index * PART, PART.min(count - index * PART)) };
                match tanh {
                    true => on_best_cpu(TanhGelu(x)),
                    false => x.iter_mut().for_each(|x| *x = E::round(exact_gelu(x.widen()))),
                }
            },
        );
    }
    out
}

/// x·Φ(x), in f64.
fn exact_gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// The error function: 2/√π·e^(−x²)·Σ 2ⁿ·x^(2n+1)/(2n+1)!!, whose terms are of one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 || x.is_nan() {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 2.0;
        term *= 2.0 * x * x / n;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

struct TanhGelu<'a, E>(&'a mut [E]);

impl<E: Element> Vectorized for TanhGelu<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const FACTOR: f32 = 1.595_769_2; // 2·√(2/π)
        for out in self.0.iter_mut() {
            let x = out.widen();
            // (1 + tanh(y))/2 is the logistic function of 2y.
            let y = FACTOR * (x + 0.044_715 * x * x * x);
            let e = exp::<FMA>(-y.abs());
            let logistic = if y < 0.0 { e } else { 1.0 } / (1.0 + e);
            *out = E::round(x * logistic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: i64, columns: i64, kind: Kind) -> Tensor {
        Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    fn worst(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    /// Oracle: ATen's product in f64.
    #[test]
    fn products_are_those_of_double_precision() {
        tch::manual_seed(1);
        for kind in [Kind::Float, Kind::BFloat16] {
            for (m, n, k) in [(1, 1, 1), (1, 70, 33), (3, 5, 64), (5, 131, 576), (16, 97, 24)] {
                let (x, w, b) = (random(m, k, kind), random(n, k, kind), random(1, n, kind).squeeze_dim(0));
                let exact = x.to_kind(Kind::Double).matmul(&w.to_kind(Kind::Double).tr()) + b.to_kind(Kind::Double);
                let scale = (k as f64).sqrt();
                let found = product(&x, &w, Some(&b), Kind::Float);
                assert!(worst(&found, &exact) < 1e-6 * scale, "{kind:?} {m} {n} {k}: {}", worst(&found, &exact));
                assert!(worst(&(&product(&x, &w, None, Kind::Float) + &b), &exact) < 2e-6 * scale);
                assert!(product(&x, &w, Some(&b), kind) == found.to_kind(kind));
            }
        }
    }

    /// Oracle: each row alone, on one thread's share.
    #[test]
    fn a_row_is_the_same_bit_for_bit_beside_any_others() {
        tch::manual_seed(2);
        for kind in [Kind::Float, Kind::BFloat16] {
            for k in [24, 45, 576] {
                let (x, w) = (random(11, k, kind), random(203, k, kind));
                for rows in 1..=11 {
                    let several = product(&x.narrow(0, 11 - rows, rows), &w, None, Kind::Float);
                    for row in 0..rows {
                        let alone = product(&x.narrow(0, 11 - rows + row, 1), &w, None, Kind::Float);
                        assert!(several.narrow(0, row, 1) == alone, "{kind:?} {k}: row {row} of {rows}");
                    }
                }
            }
        }
    }

    /// Oracle: ATen's GELU in f64.
    #[test]
    fn gelu_is_that_of_double_precision() {
        let x = Tensor::linspace(-12.0, 12.0, 4001, (Kind::Float, Device::Cpu));
        for (tanh, name) in [(true, "tanh"), (false, "none")] {
            let exact = x.to_kind(Kind::Double).gelu(name);
            assert!(worst(&gelu(&x, tanh), &exact) < 1e-6, "{name}: {}", worst(&gelu(&x, tanh), &exact));
            let short = x.to_kind(Kind::BFloat16);
            let exact = short.to_kind(Kind::Double).gelu(name);
            assert!(
                (gelu(&short, tanh).to_kind(Kind::Double) - &exact)
                    .abs()
                    .le_tensor(&(exact.abs() / 255.0 + 1e-6))
                    .all()
                    .int64_value(&[])
                    == 1
            );
        }
    }
}
