//! The head's three matrix products, with f32 results whatever the inputs: precision lost by rounding a long sum to bf16 cannot
//! be recovered by the softmax.

use tch::{Kind, Tensor};

use super::blocks::{self, LogitParts, Source};
use super::matmul;
use super::native::multiplies_bf16;

/// Writes h·Wᵀ, for h `[C, d]` and W `[V, d]` (f32 or bf16), into `z_cv` (f32).
pub fn logits(hidden_cd: &Tensor, weight_vd: &Tensor, z_cv: &Tensor) {
    Route::of(hidden_cd, weight_vd).logits(hidden_cd, weight_vd, z_cv);
}

/// For g `[C, V]` (f32): writes g·W into `d_hidden_cd` (f32), and adds gᵀ·h to `d_weight_vd` (f32). If h and W are bf16, g is
/// rounded to bf16.
pub fn gradients(gradient_cv: &Tensor, hidden_cd: &Tensor, weight_vd: &Tensor, d_hidden_cd: &Tensor, d_weight_vd: &Tensor) {
    Route::of(hidden_cd, weight_vd).gradients(gradient_cv, hidden_cd, weight_vd, d_hidden_cd, d_weight_vd);
}

/// [`gradients`] where g is computed from logits block by block, while a block is in cache. Only if [`from_logits_fit`].
pub fn gradients_from_logits(
    of: &LogitParts,
    hidden_cd: &Tensor,
    weight_vd: &Tensor,
    d_hidden_cd: &Tensor,
    d_weight_vd: &Tensor,
) {
    blocks::gradients(&Source::logits(of), hidden_cd, weight_vd, d_hidden_cd, d_weight_vd);
}

/// Whether [`gradients_from_logits`] can compute with them.
pub fn from_logits_fit(hidden_cd: &Tensor, weight_vd: &Tensor) -> bool {
    Route::of(hidden_cd, weight_vd) == Route::Blocks
}

/// Which implementation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Our blocked kernels: bf16 on a CPU with bf16 instructions.
    Blocks,
    /// ATen, bf16 inputs and f32 results: on a GPU.
    Mixed,
    /// In f32: by ATen, or by our blocks where they suit the CPU.
    Single,
}

impl Route {
    fn of(hidden_cd: &Tensor, weight_vd: &Tensor) -> Self {
        if (hidden_cd.kind(), weight_vd.kind()) != (Kind::BFloat16, Kind::BFloat16) {
            return Route::Single;
        }
        if hidden_cd.device().is_cuda() {
            return Route::Mixed;
        }
        if hidden_cd.size()[1] % 2 == 0 && multiplies_bf16() { Route::Blocks } else { Route::Single }
    }

    fn logits(self, hidden_cd: &Tensor, weight_vd: &Tensor, z_cv: &Tensor) {
        match self {
            Route::Blocks => blocks::logits(hidden_cd, weight_vd, z_cv),
            Route::Mixed => drop(hidden_cd.mm_dtype_out(z_cv, &weight_vd.tr(), Kind::Float)),
            Route::Single => {
                let (hidden_cd, weight_vd) = (single(hidden_cd), single(weight_vd));
                match matmul::fit(z_cv) {
                    true => matmul::times_transposed_into(&hidden_cd, &weight_vd, &mut z_cv.shallow_clone()),
                    false => drop(hidden_cd.mm_out(z_cv, &weight_vd.tr())),
                }
            }
        }
    }

    fn gradients(self, gradient_cv: &Tensor, hidden_cd: &Tensor, weight_vd: &Tensor, d_hidden_cd: &Tensor, d_weight_vd: &Tensor) {
        let mut d_weight_vd = d_weight_vd.shallow_clone();
        match self {
            Route::Blocks => blocks::gradients(&Source::gradient(gradient_cv), hidden_cd, weight_vd, d_hidden_cd, &d_weight_vd),
            Route::Mixed => {
                let rounded_cv = gradient_cv.to_kind(Kind::BFloat16);
                let _ = rounded_cv.mm_dtype_out(d_hidden_cd, weight_vd, Kind::Float);
                let _ = d_weight_vd.g_add_(&rounded_cv.tr().mm_dtype(hidden_cd, Kind::Float));
            }
            Route::Single => {
                let rounded_cv = single(&gradient_cv.to_kind(hidden_cd.kind()));
                if matmul::fit(&rounded_cv) {
                    matmul::times_into(&rounded_cv, &single(weight_vd), &mut d_hidden_cd.shallow_clone());
                    matmul::add_transposed_times(&rounded_cv, &single(hidden_cd), &mut d_weight_vd);
                } else {
                    let _ = rounded_cv.mm_out(d_hidden_cd, &single(weight_vd));
                    let _ = d_weight_vd.addmm_(&rounded_cv.tr(), &single(hidden_cd));
                }
            }
        }
    }
}

fn single(t: &Tensor) -> Tensor {
    t.to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// With shapes that are multiples of the block sizes and shapes that are not.
    #[test]
    fn block_products_agree_with_f32_products() {
        if !multiplies_bf16() {
            eprintln!("skipped: this CPU does not multiply bf16");
            return;
        }
        for [c, v, d] in [[1, 1, 2], [3, 130, 34], [129, 1000, 64], [700, 257, 576], [128, 384, 32]] {
            let normal = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
            let (h, w) = (normal([c, d]).to_kind(Kind::BFloat16), normal([v, d]).to_kind(Kind::BFloat16));
            let (g, start) = (normal([c, v]), normal([v, d]));
            let [blocks, exact] = [Route::Blocks, Route::Single].map(|route| {
                let (z, dh, dw) = (g.zeros_like(), h.to_kind(Kind::Float), start.copy());
                route.logits(&h, &w, &z);
                route.gradients(&g, &h, &w, &dh, &dw);
                [z, dh, dw]
            });
            for (what, (found, expected)) in ["logits", "d_hidden", "d_weight"].into_iter().zip(blocks.iter().zip(&exact)) {
                let off = (found - expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]);
                assert!(off < 1e-5, "{what} of {c} x {v} x {d}: {off}");
            }
        }
    }
}
