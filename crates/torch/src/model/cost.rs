//! What a model costs: parameters and FLOPs.

use super::config::ModelConfig;
use super::parameters::parameters;

impl ModelConfig {
    /// Parameters of the whole model, a tied embedding counted once.
    pub fn parameter_count(&self) -> u64 {
        parameters(self).iter().map(|p| p.shape.iter().product::<i64>() as u64).sum()
    }

    /// FLOPs of a forward pass per token: 2 per weight of every matrix product (the output head counts, lookups of tokens and
    /// positions do not), plus causal attention, 2·L·d·T for scores and values together (Kaplan et al. 2020, table 1, with
    /// half of the T² pairs).
    pub fn forward_flops_per_token(&self, context: usize) -> f64 {
        let looked_up = |name: &str| {
            name == "model.embed_positions.weight" || (self.variant.untied_head && name == "model.embed_tokens.weight")
        };
        let matrices: i64 = parameters(self)
            .iter()
            .filter(|p| p.shape.len() == 2 && !looked_up(&p.name))
            .map(|p| p.shape.iter().product::<i64>())
            .sum();
        let attention = 2.0 * (self.num_hidden_layers * self.num_attention_heads * self.head_dim() * context) as f64;
        2.0 * matrices as f64 + attention
    }

    /// FLOPs of forward and backward per token: three times the forward pass.
    pub fn train_flops_per_token(&self, context: usize) -> f64 {
        3.0 * self.forward_flops_per_token(context)
    }
}
