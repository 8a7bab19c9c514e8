//! Samples ids from the full distribution of a head. The ids do not depend on how the vocabulary is sharded.

use anyhow::Result;
use hydrometer_base::user_error;
use tch::{Device, Kind, Tensor};

use super::head::Head;
use super::shares::Shares;

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
            // Where the shares are tensors they are i64 and take extra memory, so chunks are half as long.
            let length = (self.chunk_length() / 2).max(1).min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let max_c1 = self.tp.all_gather(&z_cv.amax([-1], true))?.amax([0], false);
            if max_c1.isfinite().all().int64_value(&[]) == 0 {
                return Err(user_error!(
                    "the logits are not finite because the model's activations overflow; no ids can be drawn"
                ));
            }
            let shares = Shares::of(z_cv, &max_c1, temperature);
            let own_c1 = shares.totals();
            let shards_rc1 = self.tp.all_gather(&own_c1)?;
            let sum = |shards: Tensor| shards.sum_dim_intlist(0, false, Kind::Int64);
            let before_c1 = sum(shards_rc1.narrow(0, 0, self.tp.rank as i64));
            let whole: Vec<i64> = Vec::try_from(sum(shards_rc1).to_device(Device::Cpu).flatten(0, -1))?;

            let numbers = at[start as usize * k..].chunks(k.max(1)).zip(&whole);
            let scaled = |at: u64, whole: i64| ((u128::from(at) * whole as u128) >> 64) as i64;
            let points: Vec<i64> = numbers.flat_map(|(row, &whole)| row.iter().map(move |&at| scaled(at, whole))).collect();
            let local_ck = Tensor::from_slice(&points).view([length, k as i64]).to_device(self.weight_vd.device()) - before_c1;
            let elsewhere_ck = local_ck.lt(0).logical_or(&local_ck.ge_tensor(&own_c1));
            let found_ck = shares.find(&local_ck) + self.vocab_start;
            ids.push(sum(self.tp.all_gather(&found_ck.masked_fill(&elsewhere_ck, 0))?));
            start += length;
        }
        Ok(Tensor::cat(&ids, 0))
    }
}
