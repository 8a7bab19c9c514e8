//! Element-wise operations in one walk, forward and backward, where ATen makes several: RMSNorm and SwiGLU.

use tch::{Device, Kind, Tensor};

use super::autograd::record;
use super::exp::exp;
use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, parallel};
use super::simd::{Vectorized, on_best_cpu};

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 15;
/// Numbers that a vector register holds.
const LANES: usize = 16;

/// Whether the kernels can walk over `all`: floats of one kind on the CPU.
pub fn fit(all: &[&Tensor]) -> bool {
    let kind = all[0].kind();
    matches!(kind, Kind::Float | Kind::BFloat16) && all.iter().all(|x| x.kind() == kind && x.device() == Device::Cpu)
}

/// x / √(mean(x²) + ε) · w over the last dimension (Zhang & Sennrich 2019): `x [..., d]`, `weight [d]`. Computed in f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    match x.kind() {
        Kind::Float => rms_norm_in::<f32>(x, weight, eps),
        _ => rms_norm_in::<Bf16>(x, weight, eps),
    }
}

fn rms_norm_in<E: Element>(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    record(&[x, weight], || {
        let (x, weight) = (x.detach().contiguous(), weight.detach().contiguous());
        let width = weight.numel();
        let rows = x.numel() / width;
        let mut out = x.empty_like();
        let mut scales = Tensor::empty([rows as i64], (Kind::Float, Device::Cpu));
        {
            let (out, scales) = (Parts::<E>::of(&mut out), Parts::<f32>::of(&mut scales));
            let (x, weight) = (numbers::<E>(&x), numbers::<E>(&weight));
            for_rows(rows, width, |first, count| {
                // SAFETY: every row belongs to one call.
                let (out, scales) = unsafe { (out.get(first * width, count * width), scales.get(first, count)) };
                on_best_cpu(Normalize { x: &x[first * width..][..count * width], weight, eps: eps as f32, out, scales });
            });
        }
        (out, move |gradient: Tensor| {
            let gradient = gradient.contiguous();
            let mut d_x = x.empty_like();
            let blocks = rows.div_ceil(rows_at_a_time(width));
            // One sum for each block of rows: added in order, the total does not depend on the threads.
            let mut sums = Tensor::zeros([blocks as i64, width as i64], (Kind::Float, Device::Cpu));
            {
                let (d_x, sums) = (Parts::<E>::of(&mut d_x), Parts::<f32>::of(&mut sums));
                let (x, weight, scales, gradient) =
                    (numbers::<E>(&x), numbers::<E>(&weight), numbers::<f32>(&scales), numbers::<E>(&gradient));
                for_rows(rows, width, |first, count| {
                    let span = first * width..(first + count) * width;
                    // SAFETY: every row, and so every block, belongs to one call.
                    let (d_x, d_weight) =
                        unsafe { (d_x.get(span.start, span.len()), sums.get(first / rows_at_a_time(width) * width, width)) };
                    let (x, gradient) = (&x[span.clone()], &gradient[span]);
                    on_best_cpu(NormalizeBackward { x, weight, scales: &scales[first..], gradient, d_x, d_weight });
                });
            }
            vec![Some(d_x), Some(sums.sum_dim_intlist(0, false, Kind::Float).to_kind(E::KIND))]
        })
    })
}

/// silu(gate) · up (Shazeer 2020), of two tensors of one shape. Computed in f32.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    match gate.kind() {
        Kind::Float => swiglu_in::<f32>(gate, up),
        _ => swiglu_in::<Bf16>(gate, up),
    }
}

fn swiglu_in<E: Element>(gate: &Tensor, up: &Tensor) -> Tensor {
    record(&[gate, up], || {
        let (gate, up) = (gate.detach().contiguous(), up.detach().contiguous());
        let count = gate.numel();
        let mut out = gate.empty_like();
        {
            let out = Parts::<E>::of(&mut out);
            let (gate, up) = (numbers::<E>(&gate), numbers::<E>(&up));
            for_rows(count, 1, |first, count| {
                // SAFETY: every number belongs to one call.
                let out = unsafe { out.get(first, count) };
                on_best_cpu(Gate { gate: &gate[first..][..count], up: &up[first..][..count], out });
            });
        }
        (out, move |gradient: Tensor| {
            let gradient = gradient.contiguous();
            let (mut d_gate, mut d_up) = (gate.empty_like(), up.empty_like());
            {
                let (d_gate, d_up) = (Parts::<E>::of(&mut d_gate), Parts::<E>::of(&mut d_up));
                let (gate, up, gradient) = (numbers::<E>(&gate), numbers::<E>(&up), numbers::<E>(&gradient));
                for_rows(count, 1, |first, count| {
                    // SAFETY: every number belongs to one call.
                    let (d_gate, d_up) = unsafe { (d_gate.get(first, count), d_up.get(first, count)) };
                    let [gate, up, gradient] = [gate, up, gradient].map(|all| &all[first..][..count]);
                    on_best_cpu(GateBackward { gate, up, gradient, d_gate, d_up });
                });
            }
            vec![Some(d_gate), Some(d_up)]
        })
    })
}

fn rows_at_a_time(width: usize) -> usize {
    (PART / width).max(1)
}

/// Calls `of(first row, rows)` for blocks of rows, on several threads.
fn for_rows(rows: usize, width: usize, of: impl Fn(usize, usize) + Sync) {
    let block = rows_at_a_time(width);
    parallel(rows.div_ceil(block), || (), |(), index| of(index * block, block.min(rows - index * block)));
}

struct Normalize<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    eps: f32,
    out: &'a mut [E],
    /// Of each row, 1 / √(mean(x²) + ε).
    scales: &'a mut [f32],
}

impl<E: Element> Vectorized for Normalize<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, weight, eps, out, scales } = self;
        let width = weight.len();
        for ((x, out), scale) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(scales) {
            *scale = 1.0 / (sum(width, |i| x[i].widen() * x[i].widen()) / width as f32 + eps).sqrt();
            for i in 0..width {
                out[i] = E::round(x[i].widen() * *scale * weight[i].widen());
            }
        }
    }
}

struct NormalizeBackward<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    scales: &'a [f32],
    gradient: &'a [E],
    d_x: &'a mut [E],
    /// The sum over these rows is added.
    d_weight: &'a mut [f32],
}

impl<E: Element> Vectorized for NormalizeBackward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, weight, scales, gradient, d_x, d_weight } = self;
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
        for (((x, gradient), d_x), &scale) in rows.zip(scales) {
            let d_weight = &mut d_weight[..width];
            let mean = sum(width, |i| x[i].widen() * gradient[i].widen() * weight[i].widen()) * scale / width as f32;
            for i in 0..width {
                let (normal, gradient) = (x[i].widen() * scale, gradient[i].widen());
                d_x[i] = E::round(scale * (gradient * weight[i].widen() - normal * mean));
                d_weight[i] += gradient * normal;
            }
        }
    }
}

struct Gate<'a, E> {
    gate: &'a [E],
    up: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Vectorized for Gate<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { gate, up, out } = self;
        for ((&gate, &up), out) in gate.iter().zip(up).zip(out) {
            let gate = gate.widen();
            *out = E::round(gate * sigmoid::<FMA>(gate) * up.widen());
        }
    }
}

struct GateBackward<'a, E> {
    gate: &'a [E],
    up: &'a [E],
    gradient: &'a [E],
    d_gate: &'a mut [E],
    d_up: &'a mut [E],
}

impl<E: Element> Vectorized for GateBackward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { gate, up, gradient, d_gate, d_up } = self;
        let count = gate.len();
        let (up, gradient, d_gate, d_up) = (&up[..count], &gradient[..count], &mut d_gate[..count], &mut d_up[..count]);
        for i in 0..count {
            let (gate, up, gradient) = (gate[i].widen(), up[i].widen(), gradient[i].widen());
            let sigmoid = sigmoid::<FMA>(gate);
            d_up[i] = E::round(gradient * gate * sigmoid);
            d_gate[i] = E::round(gradient * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
        }
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Σ of(i) for i below `count`, in lanes.
#[inline(always)]
fn sum(count: usize, of: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = count / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += of(first + i);
        }
    }
    for i in whole..count {
        lanes[i - whole] += of(i);
    }
    lanes.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of `of` and the gradients of its inputs, weighted by `gradient`.
    fn run(inputs: &[Tensor], gradient: &Tensor, kind: Kind, of: impl Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
        let leaves: Vec<Tensor> = inputs.iter().map(|x| x.to_kind(kind).detach().copy().set_requires_grad(true)).collect();
        let out = of(&leaves);
        (&out * gradient.to_kind(kind)).sum(kind).backward();
        [out].into_iter().chain(leaves.iter().map(Tensor::grad)).map(|x| x.to_kind(Kind::Double)).collect()
    }

    fn agree(what: &str, inputs: &[Tensor], kind: Kind, fast: impl Fn(&[Tensor]) -> Tensor, exact: impl Fn(&[Tensor]) -> Tensor) {
        let gradient = inputs[0].randn_like();
        let (found, exact) = (run(inputs, &gradient, kind, fast), run(inputs, &gradient, Kind::Double, exact));
        let tolerance = if kind == Kind::Float { 2e-6 } else { 8e-3 };
        for (index, (found, exact)) in found.iter().zip(&exact).enumerate() {
            // What is zero but for rounding is compared with its summands, of about 1.
            let off = (found - exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]).max(0.1);
            assert!(off < tolerance, "{what}, {kind:?}, {index}: {off}");
        }
    }

    /// Oracle: the definitions in double precision, of the same rounded inputs.
    #[test]
    fn walks_compute_their_definitions_and_gradients() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let normal = |shape: &[i64]| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 2.0).to_kind(kind);
            for shape in [[1, 1], [3, 7], [5, 64], [700, 100]] {
                agree(
                    "RMSNorm",
                    &[normal(&shape), normal(&shape[1..])],
                    kind,
                    |x| rms_norm(&x[0], &x[1], 1e-5),
                    |x| &x[0] / (x[0].square().mean_dim(-1, true, Kind::Double) + 1e-5).sqrt() * &x[1],
                );
                agree(
                    "SwiGLU",
                    &[normal(&shape), normal(&shape)],
                    kind,
                    |x| swiglu(&x[0], &x[1]),
                    |x| &x[0] * x[0].sigmoid() * &x[1],
                );
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_walk() {
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (inputs, gradient) = ([normal(&[900, 130]), normal(&[130])], normal(&[900, 130]));
        let before = tch::get_num_threads();
        let [one, two] = [1, 2].map(|threads| {
            tch::set_num_threads(threads);
            run(&inputs, &gradient, Kind::Float, |x| rms_norm(&x[0], &x[1], 1e-5))
        });
        tch::set_num_threads(before);
        assert!(one.iter().zip(&two).all(|(one, two)| one == two));
    }

    #[test]
    fn gates_far_from_zero_saturate() {
        let gate = Tensor::from_slice(&[-200.0f32, 200.0, f32::NAN]);
        let found = Vec::<f32>::try_from(swiglu(&gate, &gate.ones_like())).unwrap();
        assert_eq!(found[..2], [-0.0, 200.0]);
        assert!(found[2].is_nan());
    }
}
