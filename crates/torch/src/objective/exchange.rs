//! The exchange between vocabulary shards: per chunk, one all-gather of sums of exponentials, merged as in online softmax
//! (Milakov & Gimelshein 2018), and of plain sums. In f64, like every quantity with few numbers per row: near its minimum a
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

/// The sum of each row `[C, 1]`, in the number format of `x`.
pub fn row_sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(-1, true, x.kind())
}
