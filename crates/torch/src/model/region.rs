//! Boundaries of the tensor-parallel regions of a decoder, and the distribution of tokens between them.

use anyhow::Result;
use tch::Tensor;

use super::layout::{AttentionLayout, Tokens};
use crate::dist::ProcessGroup;

/// A forward pass over `[B, T]` tokens, on the ranks of `tp`.
///
/// Between two tensor-parallel regions there are norms and residual sums, which treat each token separately. Every rank computes
/// them for all tokens, `[B, T, d]`. With sequence parallelism (Korthikanti et al. 2022) each rank computes them for its share
/// `[m, d]` of the B·T tokens, the last ranks' shares padded with zeros if B·T is not a multiple of the ranks.
pub struct TpRegion<'a> {
    tp: &'a ProcessGroup,
    batch: i64,
    length: i64,
    layout: AttentionLayout,
    sequence_parallel: bool,
}

impl<'a> TpRegion<'a> {
    /// The region of a pass over `tokens` in `layout`.
    pub fn new(tokens: Tokens, layout: AttentionLayout, tp: &'a ProcessGroup, sequence_parallel: bool) -> Self {
        let (batch, length) = tokens.ids_bt.size2().expect("tokens are [B, T]");
        Self { tp, batch, length, layout, sequence_parallel: sequence_parallel && tp.size > 1 }
    }

    /// B and T.
    pub fn size(&self) -> (i64, i64) {
        (self.batch, self.length)
    }

    pub fn layout(&self) -> &AttentionLayout {
        &self.layout
    }

    pub fn tp(&self) -> &ProcessGroup {
        self.tp
    }

    /// Enters a tensor-parallel region: all tokens `[B, T, d]`. Backward sums their gradients over the ranks.
    pub fn enter(&self, x: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { Ok(self.whole(&self.tp.gather_rows(x, true)?)) } else { self.tp.copy_to(x) }
    }

    /// Leaves a tensor-parallel region: the sum of `partial [B, T, d]` over the ranks, in the layout used between regions.
    pub fn leave(&self, partial: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { self.tp.reduce_to_rows(&self.padded(partial)) } else { self.tp.reduce_from(partial) }
    }

    /// Converts `known [B, T, d]`, all tokens on every rank, to the layout used between regions.
    pub fn own(&self, known: &Tensor) -> Tensor {
        if !self.sequence_parallel {
            return known.shallow_clone();
        }
        self.padded(known).narrow(0, self.tp.rank as i64 * self.share(), self.share())
    }

    /// Gathers all tokens `[B, T, d]` from the layout used between regions, for a consumer whose gradient is complete on every
    /// rank.
    pub fn gather(&self, x: &Tensor) -> Result<Tensor> {
        if self.sequence_parallel { Ok(self.whole(&self.tp.gather_rows(x, false)?)) } else { Ok(x.shallow_clone()) }
    }

    /// Number of tokens per rank.
    fn share(&self) -> i64 {
        (self.batch * self.length + self.tp.size as i64 - 1) / self.tp.size as i64
    }

    /// `[B, T, d]` as `[size·m, d]`, padded.
    fn padded(&self, x: &Tensor) -> Tensor {
        let missing = self.share() * self.tp.size as i64 - self.batch * self.length;
        x.flatten(0, 1).constant_pad_nd([0, 0, 0, missing])
    }

    /// `[size·m, d]` as `[B, T, d]`, without the padding.
    fn whole(&self, rows: &Tensor) -> Tensor {
        rows.narrow(0, 0, self.batch * self.length).view([self.batch, self.length, -1])
    }
}
