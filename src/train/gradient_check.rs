//! The gradient check: whether the logged loss changes as its gradient predicts. A wrong objective could hide behind a falling
//! curve.

use anyhow::Result;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::Weights;
use tch::{Tensor, no_grad};

/// Step size to each side, as the predicted change of the loss in parts of the loss: large enough that the difference is visible
/// in f32, small enough that the loss is nearly linear.
const REACH: f64 = 1e-3;

/// The loss's slope along its gradient g, (L(θ + εg/|g|) − L(θ − εg/|g|)) / 2ε, divided by |g|: 1 if g is the gradient of the
/// loss. `loss` computes the loss of the global batch at the current weights and leaves its gradient in `weights`, on every rank.
/// The weights are restored bit for bit. `None` if the gradient is zero, which predicts nothing, or if the result is not finite.
pub fn slope(weights: &Weights, mesh: &Mesh, mut loss: impl FnMut() -> Result<f64>) -> Result<Option<f64>> {
    let value = loss()?;
    let norm = weights.gradient_square_sum(mesh)?.sqrt();
    // The same on every rank, because the sum is over all of them.
    if norm == 0.0 {
        return Ok(None);
    }
    let reach = REACH * (value.abs() + REACH) / norm;
    let start = weights.master.copy();
    let direction = &weights.gradient / norm;
    let mut at = |signed: f64| -> Result<f64> {
        set(weights, &(&start + &direction * signed));
        loss()
    };
    let rise = at(reach)? - at(-reach)?;
    set(weights, &start);
    Ok(Some(rise / (2.0 * reach) / norm).filter(|slope| slope.is_finite()))
}

fn set(weights: &Weights, to: &Tensor) {
    no_grad(|| weights.master.shallow_clone().copy_(to));
    weights.refresh_leaves();
}
