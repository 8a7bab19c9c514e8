//! Sums and additions over whole buffers: each in one walk, and the same bit for bit on any number of threads.

use tch::{Device, Kind, Tensor};

use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, parallel};
use super::simd::{Vectorized, on_best_cpu};

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 16;
/// Numbers that a vector register of f64 holds.
const LANES: usize = 8;

/// Σ x² in f64, for a contiguous f32 tensor.
pub fn square_sum(x: &Tensor) -> f64 {
    if x.device() != Device::Cpu || !x.is_contiguous() {
        return x.to_kind(Kind::Double).square_().sum(Kind::Double).double_value(&[]);
    }
    let x = numbers::<f32>(x);
    let mut sums = vec![0.0f64; x.len().div_ceil(PART)];
    let parts = Parts::slice(&mut sums);
    parallel(
        x.len().div_ceil(PART),
        || (),
        |(), index| {
            let part = &x[index * PART..][..PART.min(x.len() - index * PART)];
            // SAFETY: every index belongs to one call.
            let sum = unsafe { parts.get(index, 1) };
            sum[0] = on_best_cpu(SquareSum(part));
        },
    );
    sums.iter().sum()
}

struct SquareSum<'a>(&'a [f32]);

impl Vectorized for SquareSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f64 {
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let mut lanes = [0.0f64; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
            }
        }
        lanes.into_iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// Adds `x` (f32 or bf16) to `sum` (f32), of one size.
pub fn add(sum: &mut Tensor, x: &Tensor) {
    let ours = sum.device() == Device::Cpu && sum.is_contiguous();
    match x.kind() {
        Kind::BFloat16 if ours => add_in::<Bf16>(sum, &x.contiguous()),
        _ => drop(sum.g_add_(x)),
    }
}

fn add_in<E: Element>(sum: &mut Tensor, x: &Tensor) {
    assert_eq!(sum.size(), x.size(), "what is added has the size of the sum");
    let x = numbers::<E>(x);
    let sum = Parts::<f32>::of(sum);
    parallel(
        x.len().div_ceil(PART),
        || (),
        |(), index| {
            let x = &x[index * PART..][..PART.min(x.len() - index * PART)];
            // SAFETY: every part belongs to one call.
            let sum = unsafe { sum.get(index * PART, x.len()) };
            on_best_cpu(Add { sum, x });
        },
    );
}

struct Add<'a, E> {
    sum: &'a mut [f32],
    x: &'a [E],
}

impl<E: Element> Vectorized for Add<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.sum.iter_mut().zip(self.x).for_each(|(sum, x)| *sum += x.widen());
    }
}

/// Adds row n of `rows [N, d]` (f32 or bf16) to row `ids[n]` of `sum [V, d]` (f32), in the order of n.
pub fn add_rows(sum: &mut Tensor, ids: &[i64], rows: &Tensor) {
    match rows.kind() {
        Kind::BFloat16 => add_rows_in::<Bf16>(sum, ids, &rows.contiguous()),
        _ => add_rows_in::<f32>(sum, ids, &rows.contiguous()),
    }
}

fn add_rows_in<E: Element>(sum: &mut Tensor, ids: &[i64], rows: &Tensor) {
    /// Each takes the ids of one remainder.
    const SHARES: usize = 16;
    let (count, width) = rows.size2().expect("rows are [N, d]");
    let height = sum.size()[0];
    assert!(count as usize == ids.len() && sum.size()[1] == width && ids.iter().all(|&id| 0 <= id && id < height));
    let (rows, width) = (numbers::<E>(rows), width as usize);
    let sum = Parts::<f32>::of(sum);
    parallel(
        SHARES,
        || (),
        |(), share| {
            for (row, &id) in rows.chunks_exact(width).zip(ids) {
                if id as usize % SHARES == share {
                    // SAFETY: every id belongs to one call.
                    let sum = unsafe { sum.get(id as usize * width, width) };
                    on_best_cpu(Add { sum, x: row });
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: ATen, in double precision.
    #[test]
    fn sums_and_additions_are_those_of_aten() {
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let double = |x: &Tensor| x.to_kind(Kind::Double);
        for count in [1, 7, 65536, 200_001] {
            let x = normal(&[count]);
            let exact = double(&x).square().sum(Kind::Double).double_value(&[]);
            assert!((square_sum(&x) - exact).abs() < 1e-13 * exact);
            let (mut sum, rounded) = (normal(&[count]), x.to_kind(Kind::BFloat16));
            let exact = double(&sum) + double(&rounded);
            add(&mut sum, &rounded);
            assert!((double(&sum) - exact).abs().max().double_value(&[]) < 1e-6);
        }
        let ids = [5i64, 0, 5, 21, 16, 5];
        for kind in [Kind::Float, Kind::BFloat16] {
            let (mut sum, rows) = (normal(&[22, 9]), normal(&[6, 9]).to_kind(kind));
            let exact = double(&sum).index_add(0, &Tensor::from_slice(&ids), &double(&rows));
            add_rows(&mut sum, &ids, &rows);
            assert!((double(&sum) - exact).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
