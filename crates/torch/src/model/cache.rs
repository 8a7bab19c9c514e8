//! The keys and values of a sequence's tokens, so that the next token is computed alone.

use tch::Tensor;

use super::config::ModelConfig;
use crate::kernels::step_attention::Kept;

/// The keys and values of one sequence, in all layers.
pub struct KvCache {
    /// `[layers, 2, G, capacity, D]`: this rank's heads.
    numbers: Tensor,
    length: usize,
}

impl KvCache {
    pub(super) fn new(numbers: Tensor) -> Self {
        Self { numbers, length: 0 }
    }

    /// Number of tokens whose keys and values are kept.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A cache of the same tokens, with room for as many.
    pub fn fork(&self) -> Self {
        let numbers = self.numbers.empty_like();
        let filled = |x: &Tensor| x.narrow(3, 0, self.length as i64);
        filled(&numbers).copy_(&filled(&self.numbers));
        Self { numbers, length: self.length }
    }

    pub(super) fn numbers_mut(&mut self) -> &mut Tensor {
        &mut self.numbers
    }

    pub(super) fn kept(&mut self) -> Kept<'_> {
        Kept { numbers: &mut self.numbers, length: self.length }
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.length = length;
    }
}

impl ModelConfig {
    /// Numbers of a token's keys and values in all layers, on each of `tp` ranks.
    pub fn cached_numbers_per_token(&self, tp: usize) -> usize {
        2 * self.num_hidden_layers * (self.num_key_value_heads / tp).max(1) * self.head_dim()
    }
}
