//! Where the tensor-parallel parts of a decoder begin and end, and who holds which tokens between them.

use anyhow::Result;
use tch::Tensor;

use super::layout::{AttentionLayout, Tokens};
use crate::dist::ProcessGroup;

/// A forward pass over `[B, T]` tokens, on the ranks of `tp`.
///
/// Between two tensor-parallel parts lie norms and residual sums, which treat each token alone. Every rank computes them for all
/// tokens, `[B, T, d]`; with sequence parallelism (Korthikanti et al. 2022) each for its own share `[m, d]` of the B·T tokens,
/// the last ranks' padded with zeros where they do not divide.
pub struct TpRegion<'a> {
    tp: &'a ProcessGroup,
    batch: i64,
    length: i64,
    layout: AttentionLayout,
    sequence_parallel: bool,
}

impl<'a> TpRegion<'a> {
    /// Of `tokens`, which lie as `layout` says.
    pub fn new(tokens: Tokens, layout: AttentionLayout, tp: &'a ProcessGroup, sequence_parallel: bool) -> Self {
        let (batch, length) = tokens.ids_bt.size2().expect("tokens are [B, T]");
        Self { tp, batch, length, layout, sequence_parallel: sequence_parallel && tp.size > 1 }
    }

    /// B and T
    pub fn size(&self) -> (i64, i64) {
        (self.batch, self.length)
    }

    pub fn layout(&self) -> &AttentionLayout {
        &self.layout
    }

    pub fn tp(&self) -> &ProcessGroup {
        self.tp
    }

    /// Into a tensor-parallel part: all tokens `[B, T, d]`, whose gradients are summed over the ranks on the way back.
    pub fn enter(&self, x: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { Ok(self.whole(&self.tp.gather_rows(x, true)?)) } else { self.tp.copy_to(x) }
    }

    /// Out of a tensor-parallel part: the sum over the ranks of `partial [B, T, d]`, as it is held between parts.
    pub fn leave(&self, partial: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { self.tp.reduce_to_rows(&self.padded(partial)) } else { self.tp.reduce_from(partial) }
    }

    /// What every rank knows of all tokens `[B, T, d]`, as it is held between parts.
    pub fn own(&self, known: &Tensor) -> Tensor {
        if !self.sequence_parallel {
            return known.shallow_clone();
        }
        self.padded(known).narrow(0, self.tp.rank as i64 * self.share(), self.share())
    }

    /// All tokens `[B, T, d]` of what is held between parts, for a reader whose gradient every rank will know whole.
    pub fn gather(&self, x: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { Ok(self.whole(&self.tp.gather_rows(x, false)?)) } else { Ok(x.shallow_clone()) }
    }

    /// Tokens of each rank.
    fn share(&self) -> i64 {
        (self.batch * self.length + self.tp.size as i64 - 1) / self.tp.size as i64
    }

    /// `[B, T, d]` as `[size·m, d]`.
    fn padded(&self, x: &Tensor) -> Tensor {
        let missing = self.share() * self.tp.size as i64 - self.batch * self.length;
        x.flatten(0, 1).constant_pad_nd([0, 0, 0, missing])
    }

    /// `[size·m, d]` as `[B, T, d]`.
    fn whole(&self, rows: &Tensor) -> Tensor {
        rows.narrow(0, 0, self.batch * self.length).view([self.batch, self.length, -1])
    }
}
