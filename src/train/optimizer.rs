//! AdamW on the flat buffers of [`Weights`]: ATen's fused kernel, called once for matrices (with weight decay) and once for
//! norms.

use anyhow::Result;
use hydrometer_torch::dist::{Mesh, c10d};
use hydrometer_torch::model::Weights;
use tch::{Kind, Tensor};

use crate::train::recipe::OptimizerRecipe;

/// First and second moments, laid out like the master buffer.
pub struct AdamW {
    pub exp_avg: Tensor,
    pub exp_avg_sq: Tensor,
    /// Number of updates made.
    pub updates: u64,
}

impl AdamW {
    /// Zero moments, before the first update.
    pub fn new(weights: &Weights) -> Self {
        Self { exp_avg: weights.master.zeros_like(), exp_avg_sq: weights.master.zeros_like(), updates: 0 }
    }

    /// Makes one update with the gradient in `weights`, clipped to norm `recipe.clip`. Returns the gradient norm before clipping.
    /// If the norm is not finite, nothing is updated.
    pub fn step(&mut self, weights: &Weights, recipe: &OptimizerRecipe, lr: f64, mesh: &Mesh) -> Result<f64> {
        let norm = weights.gradient_square_sum(mesh)?.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let too_large = if recipe.clip > 0.0 { (norm / recipe.clip).max(1.0) } else { 1.0 };
        let scale = Tensor::from(too_large as f32).to_device(mesh.device);
        let count = weights.master.size()[0];
        for (start, length, weight_decay) in
            [(0, weights.decayed, recipe.weight_decay), (weights.decayed, count - weights.decayed, 0.0)]
        {
            if length == 0 {
                continue;
            }
            let part = |t: &Tensor| t.narrow(0, start, length);
            let step = Tensor::full([], self.updates as f64, (Kind::Float, mesh.device));
            let settings = c10d::AdamwSettings { lr, beta1: recipe.beta1, beta2: recipe.beta2, eps: recipe.eps, weight_decay };
            c10d::fused_adamw(
                &part(&weights.master),
                &part(&weights.gradient),
                [&part(&self.exp_avg), &part(&self.exp_avg_sq), &step],
                settings,
                &scale,
            )?;
        }
        self.updates += 1;
        weights.refresh_leaves();
        Ok(norm)
    }
}
