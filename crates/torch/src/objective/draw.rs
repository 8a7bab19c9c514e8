//! Samples ids from the full distribution of a head. The ids do not depend on how the vocabulary is sharded.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::head::Head;

/// The integer that represents a row's largest probability. Integers add up exactly in any order, and their sum over 2²² ids
/// stays below 2⁶³. An id less likely than the largest by more than this factor is never drawn.
const UNITS: f64 = (1u64 << 40) as f64;

impl Head<'_> {
    /// Draws k ids `[N, k]` i64 for N rows, independently from softmax(z/τ), given N·k independent random numbers `at`, uniform
    /// over u64. Each number selects the id in whose share of the row's cumulative probability it falls. The shares are integers,
    /// so every sharding of the same logits gives exactly the same ids.
    pub fn draw(&self, hidden_nd: &Tensor, temperature: f64, at: &[u64], k: usize) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let count = hidden_nd.size()[0];
        assert_eq!(at.len(), count as usize * k, "a number for every draw");
        let mut ids = Vec::new();
        let mut start = 0;
        while start < count {
            // Shares and cumulative sums are i64 and take extra memory, so chunks are half as long.
            let length = (self.chunk_length() / 2).max(1).min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let max_c1 = self.tp.all_gather(&z_cv.amax([-1], true))?.amax([0], false);
            let shares_cv = ((z_cv - max_c1).g_div_scalar_(temperature).exp_() * UNITS).to_kind(Kind::Int64);
            let cumulative_cv = shares_cv.cumsum(-1, Kind::Int64);
            let own_c1 = cumulative_cv.narrow(1, cumulative_cv.size()[1] - 1, 1);
            let shards_rc1 = self.tp.all_gather(&own_c1)?;
            let sum = |shards: Tensor| shards.sum_dim_intlist(0, false, Kind::Int64);
            let before_c1 = sum(shards_rc1.narrow(0, 0, self.tp.rank as i64));
            let whole: Vec<i64> = Vec::try_from(sum(shards_rc1).to_device(Device::Cpu).flatten(0, -1))?;

            let numbers = at[start as usize * k..].chunks(k.max(1)).zip(&whole);
            let scaled = |at: u64, whole: i64| ((u128::from(at) * whole as u128) >> 64) as i64;
            let points: Vec<i64> = numbers.flat_map(|(row, &whole)| row.iter().map(move |&at| scaled(at, whole))).collect();
            let local_ck = Tensor::from_slice(&points).view([length, k as i64]).to_device(self.weight_vd.device()) - before_c1;
            let elsewhere_ck = local_ck.lt(0).logical_or(&local_ck.ge_tensor(&own_c1));
            // The first id whose cumulative share exceeds the point.
            let found_ck = local_ck.searchsorted(&cumulative_cv, false, true, "right", None::<Tensor>) + self.vocab_start;
            ids.push(sum(self.tp.all_gather(&found_ck.masked_fill(&elsewhere_ck, 0))?));
            start += length;
        }
        Ok(Tensor::cat(&ids, 0))
    }
}
