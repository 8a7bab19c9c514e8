//! The learning-rate schedule: linear warm-up, then half a cosine (Loshchilov & Hutter 2017).

use crate::train::recipe::OptimizerRecipe;

/// The learning rate of update `step` (counted from 0) of `updates`.
pub fn learning_rate(recipe: &OptimizerRecipe, step: u64, updates: u64) -> f64 {
    let warmup = (recipe.warmup * updates as f64).ceil() as u64;
    if step < warmup {
        return recipe.lr * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (updates - warmup).max(1) as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    recipe.lr * (recipe.final_lr + (1.0 - recipe.final_lr) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_warms_up_to_its_peak_and_decays_to_its_final_value() {
        let recipe = OptimizerRecipe {
            lr: 1.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            warmup: 0.1,
            final_lr: 0.1,
        };
        assert_eq!(learning_rate(&recipe, 0, 100), 0.1);
        assert_eq!(learning_rate(&recipe, 9, 100), 1.0);
        assert_eq!(learning_rate(&recipe, 10, 100), 1.0);
        assert!((learning_rate(&recipe, 55, 100) - 0.55).abs() < 1e-12);
        assert!(learning_rate(&recipe, 99, 100) < 0.101);
    }
}
