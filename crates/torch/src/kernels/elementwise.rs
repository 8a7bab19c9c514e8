//! Element-wise operations in one walk, forward and backward, where ATen makes several: residual sums with their RMSNorm, and SwiGLU.

use tch::{Device, Kind, Tensor};

use super::autograd::{record, record_all};
use super::exp::exp;
use super::memory::{Parts, numbers};
use super::native::{Bf16, Element, parallel};
use super::simd::{LANES, Vectorized, halved, on_best_cpu};

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 15;
/// Whether the kernels can walk over `all`: floats of one kind on the CPU.
pub fn fit(all: &[&Tensor]) -> bool {
    let kind = all[0].kind();
    matches!(kind, Kind::Float | Kind::BFloat16) && all.iter().all(|x| x.kind() == kind && x.device() == Device::Cpu)
}

/// x / √(mean(x²) + ε) · w over the last dimension (Zhang & Sennrich 2019): `x [..., d]`, `weight [d]`. Computed in f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let [_, normal] = add_norm(x, None, weight, eps);
    normal
}

/// The residual sum x + `added`, and its [`rms_norm`]; x itself is the sum if nothing is added. The backward pass adds the gradients
/// of both in the same walk.
pub fn add_norm(x: &Tensor, added: Option<&Tensor>, weight: &Tensor, eps: f64) -> [Tensor; 2] {
    match x.kind() {
        Kind::Float => add_norm_in::<f32>(x, added, weight, eps),
        _ => add_norm_in::<Bf16>(x, added, weight, eps),
    }
}

fn add_norm_in<E: Element>(x: &Tensor, added: Option<&Tensor>, weight: &Tensor, eps: f64) -> [Tensor; 2] {
    let inputs: Vec<&Tensor> = [Some(x), added, Some(weight)].into_iter().flatten().collect();
    record_all(&inputs, || {
        let weight = weight.detach().contiguous();
        let x = x.detach().contiguous();
        let width = weight.numel();
        let rows = x.numel() / width;
        let mut sum = if added.is_some() { x.empty_like() } else { x.shallow_clone() };
        let mut normal = x.empty_like();
        let mut scales = Tensor::empty([rows as i64], (Kind::Float, Device::Cpu));
        {
            let added = added.map(|added| added.detach().contiguous());
            let added = added.as_ref().map(|added| (numbers::<E>(added), Parts::<E>::of(&mut sum)));
            let (out, scales) = (Parts::<E>::of(&mut normal), Parts::<f32>::of(&mut scales));
            let (x, weight) = (numbers::<E>(&x), numbers::<E>(&weight));
            for_rows(rows, width, |first, count| {
                let span = first * width..(first + count) * width;
                // SAFETY: every row belongs to one call.
                let (out, scales) = unsafe { (out.get(span.start, span.len()), scales.get(first, count)) };
                let x = match &added {
                    None => &x[span],
                    Some((added, sum)) => {
                        // SAFETY: as above.
                        let sum = unsafe { sum.get(span.start, span.len()) };
                        on_best_cpu(Sum { x: &x[span.clone()], added: &added[span], out: &mut *sum });
                        sum
                    }
                };
                on_best_cpu(Normalize { x, weight, eps: eps as f32, out, scales });
            });
        }
        let (read, two) = (sum.detach(), added.is_some());
        ([sum.detach(), normal], move |[d_sum, d_normal]: [Option<Tensor>; 2]| {
            let d_sum = d_sum.map(|gradient| gradient.contiguous());
            let (d_x, d_weight) = match d_normal {
                None => (d_sum, None),
                Some(gradient) => {
                    let (d_x, d_weight) = norm_backward::<E>(&read, &weight, &scales, &gradient.contiguous(), d_sum.as_ref());
                    (Some(d_x), Some(d_weight))
                }
            };
            match two {
                true => vec![d_x.as_ref().map(Tensor::shallow_clone), d_x, d_weight],
                false => vec![d_x, d_weight],
            }
        })
    })
}

/// The gradients with respect to x, to which `more` is added, and the weight.
fn norm_backward<E: Element>(
    x: &Tensor,
    weight: &Tensor,
    scales: &Tensor,
    gradient: &Tensor,
    more: Option<&Tensor>,
) -> (Tensor, Tensor) {
    let width = weight.numel();
    let rows = x.numel() / width;
    let mut d_x = x.empty_like();
    let blocks = rows.div_ceil(rows_at_a_time(width));
    // One sum for each block of rows: added in order, the total does not depend on the threads.
    let mut sums = Tensor::zeros([blocks as i64, width as i64], (Kind::Float, Device::Cpu));
    {
        let (d_x, sums) = (Parts::<E>::of(&mut d_x), Parts::<f32>::of(&mut sums));
        let (x, weight, scales, gradient) =
            (numbers::<E>(x), numbers::<E>(weight), numbers::<f32>(scales), numbers::<E>(gradient));
        let more = more.map(numbers::<E>);
        for_rows(rows, width, |first, count| {
            let span = first * width..(first + count) * width;
            // SAFETY: every row, and so every block, belongs to one call.
            let (d_x, d_weight) =
                unsafe { (d_x.get(span.start, span.len()), sums.get(first / rows_at_a_time(width) * width, width)) };
            let (x, gradient, more) = (&x[span.clone()], &gradient[span.clone()], more.map(|more| &more[span]));
            on_best_cpu(NormalizeBackward { x, weight, scales: &scales[first..], gradient, more, d_x, d_weight });
        });
    }
    (d_x, sums.sum_dim_intlist(0, false, Kind::Float).to_kind(E::KIND))
}

/// silu(gate) · up (Shazeer 2020): the gates are the first half of the last dimension of `both [..., 2f]`, the others the second.
/// Returns `[..., f]`. Computed in f32.
pub fn swiglu(both: &Tensor) -> Tensor {
    match both.kind() {
        Kind::Float => swiglu_in::<f32>(both),
        _ => swiglu_in::<Bf16>(both),
    }
}

fn swiglu_in<E: Element>(both: &Tensor) -> Tensor {
    record(&[both], || {
        let both = both.detach().contiguous();
        let mut size = both.size();
        let last = size.last_mut().expect("rows of gates and others");
        *last /= 2;
        let width = *last as usize;
        let rows = both.numel() / (2 * width).max(1);
        let mut out = Tensor::empty(&size[..], (E::KIND, Device::Cpu));
        {
            let out = Parts::<E>::of(&mut out);
            let both = numbers::<E>(&both);
            for_rows(rows, width, |first, count| {
                // SAFETY: every row belongs to one call.
                let out = unsafe { out.get(first * width, count * width) };
                on_best_cpu(Gate { both: &both[2 * first * width..][..2 * count * width], width, out });
            });
        }
        (out, move |gradient: Tensor| {
            let gradient = gradient.contiguous();
            let mut d_both = both.empty_like();
            {
                let d_both = Parts::<E>::of(&mut d_both);
                let (both, gradient) = (numbers::<E>(&both), numbers::<E>(&gradient));
                for_rows(rows, width, |first, count| {
                    let (start, length) = (2 * first * width, 2 * count * width);
                    // SAFETY: every row belongs to one call.
                    let d_both = unsafe { d_both.get(start, length) };
                    let gradient = &gradient[first * width..][..count * width];
                    on_best_cpu(GateBackward { both: &both[start..][..length], width, gradient, d_both });
                });
            }
            vec![Some(d_both)]
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

struct Sum<'a, E> {
    x: &'a [E],
    added: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Vectorized for Sum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((x, added), out) in self.x.iter().zip(self.added).zip(self.out) {
            *out = E::round(x.widen() + added.widen());
        }
    }
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
            *scale = 1.0 / (sum([x; 3], |x, _, _| x * x) / width as f32 + eps).sqrt();
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
    /// Added to the gradient of x.
    more: Option<&'a [E]>,
    d_x: &'a mut [E],
    /// The sum over these rows is added.
    d_weight: &'a mut [f32],
}

impl<E: Element> Vectorized for NormalizeBackward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { x, weight, scales, gradient, more, d_x, d_weight } = self;
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(d_x.chunks_exact_mut(width));
        for (row, (((x, gradient), d_x), &scale)) in rows.zip(scales).enumerate() {
            let d_weight = &mut d_weight[..width];
            let mean = sum([x, gradient, weight], |x, gradient, weight| x * gradient * weight) * scale / width as f32;
            let mut write = |i: usize, more: f32| {
                let (normal, gradient) = (x[i].widen() * scale, gradient[i].widen());
                d_x[i] = E::round(more + scale * (gradient * weight[i].widen() - normal * mean));
                d_weight[i] += gradient * normal;
            };
            match more {
                None => (0..width).for_each(|i| write(i, 0.0)),
                Some(more) => {
                    let more = &more[row * width..][..width];
                    (0..width).for_each(|i| write(i, more[i].widen()));
                }
            }
        }
    }
}

struct Gate<'a, E> {
    both: &'a [E],
    width: usize,
    out: &'a mut [E],
}

impl<E: Element> Vectorized for Gate<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { both, width, out } = self;
        for (both, out) in both.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = both.split_at(width);
            for ((&gate, &up), out) in gate.iter().zip(up).zip(out) {
                let gate = gate.widen();
                *out = E::round(gate * sigmoid::<FMA>(gate) * up.widen());
            }
        }
    }
}

struct GateBackward<'a, E> {
    both: &'a [E],
    width: usize,
    gradient: &'a [E],
    d_both: &'a mut [E],
}

impl<E: Element> Vectorized for GateBackward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { both, width, gradient, d_both } = self;
        let rows = both.chunks_exact(2 * width).zip(gradient.chunks_exact(width)).zip(d_both.chunks_exact_mut(2 * width));
        for ((both, gradient), d_both) in rows {
            let ((gate, up), (d_gate, d_up)) = (both.split_at(width), d_both.split_at_mut(width));
            let (up, d_gate, d_up) = (&up[..width], &mut d_gate[..width], &mut d_up[..width]);
            for i in 0..width {
                let (gate, up, gradient) = (gate[i].widen(), up[i].widen(), gradient[i].widen());
                let sigmoid = sigmoid::<FMA>(gate);
                d_up[i] = E::round(gradient * gate * sigmoid);
                d_gate[i] = E::round(gradient * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
            }
        }
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Σ of(a, b, c) over three slices of one length.
#[inline(always)]
fn sum<E: Element>([a, b, c]: [&[E]; 3], of: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let [(a, a_rest), (b, b_rest), (c, c_rest)] = [a, b, c].map(<[E]>::as_chunks::<LANES>);
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] += of(a[i].widen(), b[i].widen(), c[i].widen());
        }
    }
    for (lane, ((a, b), c)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest).zip(c_rest)) {
        *lane += of(a.widen(), b.widen(), c.widen());
    }
    halved(lanes, |a, b| a + b)
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
        let gradient = exact(inputs).randn_like();
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
                    "residual sum and RMSNorm",
                    &[normal(&shape), normal(&shape), normal(&shape[1..])],
                    kind,
                    |x| {
                        let [sum, normal] = add_norm(&x[0], Some(&x[1]), &x[2], 1e-5);
                        Tensor::cat(&[sum * 0.5, normal], -1)
                    },
                    |x| {
                        // Rounded, as the norm reads it.
                        let sum = &x[0] + &x[1];
                        let sum = &sum + (sum.to_kind(kind).to_kind(Kind::Double) - &sum).detach();
                        let normal = &sum / (sum.square().mean_dim(-1, true, Kind::Double) + 1e-5).sqrt() * &x[2];
                        Tensor::cat(&[sum * 0.5, normal], -1)
                    },
                );
                agree(
                    "SwiGLU",
                    &[normal(&[shape[0], 2 * shape[1]])],
                    kind,
                    |x| swiglu(&x[0]),
                    |x| {
                        let halves = x[0].chunk(2, -1);
                        &halves[0] * halves[0].sigmoid() * &halves[1]
                    },
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
        let found = Vec::<f32>::try_from(swiglu(&Tensor::cat(&[&gate, &gate.ones_like()], 0))).unwrap();
        assert_eq!(found[..2], [-0.0, 200.0]);
        assert!(found[2].is_nan());
    }
}
