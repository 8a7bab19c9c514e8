//! Whether the logged loss moves as its own gradient says: a wrong objective cannot hide behind a falling curve.

use anyhow::Result;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::Weights;
use tch::{Tensor, no_grad};

/// How far to each side, as the change of the loss that the gradient foretells, in parts of the loss: far enough that single
/// precision sees the difference, near enough that the loss is straight.
const REACH: f64 = 1e-3;

/// The loss's slope along its gradient g, (L(θ + εg/|g|) − L(θ − εg/|g|)) / 2ε, over |g|: 1 where the gradient is that of the
/// loss. `loss` computes the loss of the global batch at the weights as they are and leaves its gradient in `weights`, on
/// every rank; the weights are put back bit for bit. `None` where the gradient is zero, which foretells nothing, or no number
/// comes of it.
pub fn slope(weights: &Weights, mesh: &Mesh, mut loss: impl FnMut() -> Result<f64>) -> Result<Option<f64>> {
    let value = loss()?;
    let norm = weights.gradient_square_sum(mesh)?.sqrt();
    // The same on every rank: the sum is over all of them.
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
