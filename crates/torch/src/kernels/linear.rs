//! Operations on parameters whose gradients are added to the f32 buffer of all gradients at once, in the backward pass, instead of
//! being kept by autograd in the parameter's own number format and added later.

use tch::{Device, Kind, Tensor};

use super::autograd::record;
use super::matmul;
use super::reductions::{add, add_rows};

/// A parameter and the f32 view, of the same shape, to which its gradient is added.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a> {
    pub value: &'a Tensor,
    pub gradient: &'a Tensor,
}

/// Whether these operations can run: floats on the CPU.
pub fn fit(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16)
}

/// x·wᵀ + b: `x [..., in]`, `w [out, in]`, `b [out]`.
pub fn linear(x: &Tensor, weight: Trained, bias: Option<Trained>) -> Tensor {
    let mut inputs = vec![x, weight.value];
    inputs.extend(bias.map(|bias| bias.value));
    let count = inputs.len();
    record(&inputs, || {
        let out = product(x, weight.value, bias.map(|bias| bias.value));
        let (x, w) = (x.detach(), weight.value.detach());
        let mut d_weight = weight.gradient.shallow_clone();
        let mut d_bias = bias.map(|bias| bias.gradient.shallow_clone());
        let backward = move |gradient: Tensor| {
            let gradient_rows = rows(&gradient);
            add_product(&mut d_weight, &gradient_rows, &rows(&x));
            if let Some(d_bias) = &mut d_bias {
                add(d_bias, &gradient_rows.sum_dim_intlist(0, false, Kind::Float));
            }
            let mut gradients = vec![Some(times(&gradient_rows, &w).view(&x.size()[..])), None];
            gradients.resize_with(count, || None);
            gradients
        };
        (out, backward)
    })
}

/// x·wᵀ + b, without a gradient.
pub fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if !matmul::fit(x) {
        return x.linear(weight, bias);
    }
    let mut size = x.size();
    *size.last_mut().expect("rows of numbers") = weight.size()[0];
    matmul::times_transposed(&rows(x), weight, bias).view(&size[..])
}

fn times(g: &Tensor, weight: &Tensor) -> Tensor {
    if matmul::fit(g) { matmul::times(g, weight) } else { g.mm(weight) }
}

/// Adds gᵀ·x to `sum [out, in]` (f32): `g [N, out]`, `x [N, in]`.
fn add_product(sum: &mut Tensor, g: &Tensor, x: &Tensor) {
    match x.kind() {
        Kind::Float if matmul::fit(x) => matmul::add_transposed_times(g, x, sum),
        Kind::Float => drop(sum.addmm_(&g.tr(), x)),
        _ => add(sum, &g.tr().mm(x)),
    }
}

/// `[..., d]` as `[N, d]`.
fn rows(x: &Tensor) -> Tensor {
    x.reshape([-1, x.size()[x.dim() - 1]])
}

/// The rows of `weight [V, d]` that `ids [...]` (i64) name: `[..., d]`.
pub fn embedding(weight: Trained, ids: &Tensor) -> Tensor {
    record(&[weight.value], || {
        let out = Tensor::embedding(weight.value, ids, -1, false, false);
        let (ids, mut d_weight) = (ids.shallow_clone(), weight.gradient.shallow_clone());
        let backward = move |gradient: Tensor| {
            let ids = Vec::<i64>::try_from(ids.flatten(0, -1)).expect("ids are integers");
            add_rows(&mut d_weight, &ids, &rows(&gradient));
            vec![None]
        };
        (out, backward)
    })
}
