//! The exchange between vocabulary shards: per chunk, one all-gather of sums of exponentials, merged as in online softmax
//! (Milakov & Gimelshein 2018), and of plain sums; and the merging of the shards' best ids. In f64, like every quantity with few numbers per row: near its minimum a
//! gradient is a small difference of large terms.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::dist::ProcessGroup;
use crate::kernels::EMPTY_MAX;

/// ln Σ exp(x) of each row over some set, as `max + ln sum`, each `[C, 1]` f64; sum is 0 for an empty set.
pub struct LogSumExp {
    pub max: Tensor,
    pub sum: Tensor,
}

impl LogSumExp {
    /// Over the entries of `x_ck` where `among_ck` is 1.
    pub fn among(x_ck: &Tensor, among_ck: &Tensor) -> Self {
        let max = x_ck.masked_fill(&among_ck.eq(0.0), EMPTY_MAX).amax([-1], true);
        Self { sum: row_sum(&((x_ck - &max).clamp_max(0.0).exp() * among_ck)), max }
    }

    /// Over the union of both sets.
    pub fn union(&self, other: &LogSumExp) -> LogSumExp {
        let max = self.max.maximum(&other.max);
        let at = |set: &LogSumExp| &set.sum * (&set.max - &max).exp();
        LogSumExp { sum: at(self) + at(other), max }
    }

    /// ln of the sum, without the maximum.
    pub fn log_sum(&self) -> Tensor {
        self.sum.clamp_min(f64::MIN_POSITIVE).log()
    }

    /// ln Σ exp(x), `[C, 1]`.
    pub fn value(&self) -> Tensor {
        &self.max + self.log_sum()
    }

    /// The factor that turns `exp(x − max)`, for another maximum `max`, into `exp(x)` divided by this sum of exponentials.
    pub fn share(&self, max: &Tensor) -> Tensor {
        (max - &self.max).exp() / self.sum.clamp_min(f64::MIN_POSITIVE)
    }
}

/// Merges the sets and adds the sums of all ranks of `tp`.
pub fn merge(tp: &ProcessGroup, sets: Vec<LogSumExp>, sums: Vec<Tensor>) -> Result<(Vec<LogSumExp>, Vec<Tensor>)> {
    if tp.size == 1 {
        return Ok((sets, sums));
    }
    let columns: Vec<&Tensor> = sets.iter().flat_map(|set| [&set.max, &set.sum]).chain(&sums).collect();
    let all_rcs = tp.all_gather(&Tensor::cat(&columns, 1))?;
    let column = |index: usize| all_rcs.select(2, index as i64).unsqueeze(-1);
    let over_ranks = |of: &Tensor| of.sum_dim_intlist(0, false, Kind::Double);
    let merged = (0..sets.len()).map(|set| {
        let (max_rc1, sum_rc1) = (column(2 * set), column(2 * set + 1));
        let max = max_rc1.amax([0], false);
        LogSumExp { sum: over_ranks(&(sum_rc1 * (max_rc1 - &max).exp())), max }
    });
    let summed = (0..sums.len()).map(|sum| over_ranks(&column(2 * sets.len() + sum)));
    Ok((merged.collect(), summed.collect()))
}

/// The k best of each row over all shards, best first: `(values f32, ids i64)`, each `[C, k]`. Every shard gives its own k best, or
/// all it has if those are fewer. Of equal values, the lower id comes first if the shards' lists are ordered so.
pub fn best_of_shards(tp: &ProcessGroup, values_cs: Tensor, ids_cs: Tensor, k: i64) -> Result<(Tensor, Tensor)> {
    if tp.size == 1 {
        return Ok((values_cs, ids_cs));
    }
    let own = values_cs.size()[1];
    let lengths = Vec::<i64>::try_from(tp.all_gather(&Tensor::from(own).to_device(values_cs.device()))?)?;
    // An f64 represents both exactly.
    let pairs_c2s = Tensor::stack(&[values_cs, ids_cs], 1).to_kind(Kind::Double);
    let all_rc2k = tp.all_gather(&pairs_c2s.constant_pad_nd([0, k - own]))?;
    let lists = lengths.iter().enumerate().map(|(rank, &length)| all_rc2k.get(rank as i64).narrow(2, 0, length));
    let all_c2l = Tensor::cat(&lists.collect::<Vec<_>>(), 2);
    let (values_cl, order_cl) = all_c2l.select(1, 0).sort_stable(true, -1, true);
    let ids_ck = all_c2l.select(1, 1).gather(1, &order_cl.narrow(1, 0, k), false);
    Ok((values_cl.narrow(1, 0, k).to_kind(Kind::Float), ids_ck.to_kind(Kind::Int64)))
}

/// The sum of each row `[C, 1]`, in the number format of `x`.
pub fn row_sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(-1, true, x.kind())
}
