//! How many activations a pass holds, and so how many tokens it may take.

use super::config::ModelConfig;
use super::variant::FeedForward;

/// Most input tokens of a forward pass without gradients: evaluation, fidelity and teacher passes.
pub const FORWARD_TOKENS: usize = 8192;
/// Most numbers in any one tensor of such a pass. It holds only a few tensors at a time, since none is kept for a backward pass.
pub const FORWARD_NUMBERS: usize = 16 << 20;

/// Rows of `width` tokens that a forward pass without gradients takes at a time, if its widest tensor has `widest` numbers per
/// token. At least one.
pub fn rows_per_forward(width: usize, widest: usize) -> usize {
    (FORWARD_TOKENS.min(FORWARD_NUMBERS / widest.max(1)) / width.max(1)).max(1)
}

impl ModelConfig {
    /// Numbers per token of the widest activation.
    pub fn widest_activation(&self) -> usize {
        let queries = self.num_attention_heads * self.head_dim();
        self.hidden_size.max(self.intermediate_size).max(self.embedding_size()).max(queries)
    }

    /// Number of activations that the backward pass reads, per token. For each block: the two residual sums and their norms; queries,
    /// keys, values and the output of attention; and the inner activations of the feed-forward layer. `tp` ranks shard the blocks;
    /// norms and sums are sharded over `sharers` ranks.
    pub fn activations_per_token(&self, tp: f64, sharers: f64) -> f64 {
        let (d, f) = (self.hidden_size as f64 / sharers, self.intermediate_size as f64 / tp);
        let queries = (self.num_attention_heads * self.head_dim()) as f64 / tp;
        let keys = (self.num_key_value_heads * self.head_dim()) as f64 / tp;
        let inner = if self.variant.feed_forward == FeedForward::SwiGlu { 3.0 } else { 2.0 };
        let block = 4.0 * d + 2.0 * queries + 2.0 * keys + inner * f;
        self.num_hidden_layers as f64 * block + 4.0 * d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_pass_is_bounded_in_tokens_and_in_the_size_of_its_widest_tensor() {
        assert_eq!(rows_per_forward(128, 704), 64, "small models: 8,192 tokens");
        assert_eq!(rows_per_forward(512, 11008), 2, "a 7B model: 16 Mi numbers");
        assert_eq!(rows_per_forward(1 << 20, 11008), 1);
        assert_eq!(rows_per_forward(0, 0), FORWARD_TOKENS);
    }
}
