//! Draws from the whole distribution of a head: the same ids however the vocabulary is sharded.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::head::Head;

/// What a row's largest probability is counted as. Whole numbers add up exactly in any order, and those of 2²² ids to less than
/// 2⁶³; an id that is less likely than the first by this factor is never drawn.
const UNITS: f64 = (1u64 << 40) as f64;

impl Head<'_> {
    /// k ids `[N, k]` i64 for N rows, each an independent draw from softmax(z/τ) where the N·k numbers in `at` are independent
    /// and uniform over all u64. A number stands for the id whose share of the row's cumulative probabilities it falls in. The
    /// shares are whole numbers, so that shards of the same logits give the same ids, to the last one.
    pub fn draw(&self, hidden_nd: &Tensor, temperature: f64, at: &[u64], k: usize) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let count = hidden_nd.size()[0];
        assert_eq!(at.len(), count as usize * k, "a number for every draw");
        let mut ids = Vec::new();
        let mut start = 0;
        while start < count {
            // Cumulative sums take two more words a logit.
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
            // The first id whose cumulative share is above the point.
            let found_ck = local_ck.searchsorted(&cumulative_cv, false, true, "right", None::<Tensor>) + self.vocab_start;
            ids.push(sum(self.tp.all_gather(&found_ck.masked_fill(&elsewhere_ck, 0))?));
            start += length;
        }
        Ok(Tensor::cat(&ids, 0))
    }
}
