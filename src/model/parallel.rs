//! Shards of a parameter over the tensor-parallel ranks, and the way back.

use anyhow::Result;
use tch::Tensor;

use super::config::Shard;
use crate::dist::Axis;

/// The rows that rank `rank` of `size` holds of `total`: near-equal parts, the first ones larger.
pub fn part(total: i64, rank: usize, size: usize) -> (i64, i64) {
    let (rank, size) = (rank as i64, size as i64);
    let (base, extra) = (total / size, total % size);
    (rank * base + rank.min(extra), base + i64::from(rank < extra))
}

/// The piece of `full` that this rank holds.
pub fn shard(full: &Tensor, how: Shard, tp: &Axis) -> Tensor {
    let dim = match how {
        Shard::Replicated => return full.shallow_clone(),
        Shard::Rows => 0,
        Shard::Columns => 1,
    };
    let (start, length) = part(full.size()[dim], tp.rank, tp.size);
    full.narrow(dim as i64, start, length).contiguous()
}

/// The whole tensor (`shape`), from the pieces of all ranks.
pub fn unshard(local: &Tensor, how: Shard, shape: &[i64], tp: &Axis) -> Result<Tensor> {
    let dim = match how {
        Shard::Replicated => return Ok(local.shallow_clone()),
        Shard::Rows => 0,
        Shard::Columns => 1,
    };
    if tp.size == 1 {
        return Ok(local.shallow_clone());
    }
    // Parts may differ by one row; every rank contributes one as long as the longest.
    let longest = part(shape[dim], 0, tp.size).1;
    let missing = longest - local.size()[dim];
    let padding = if dim == 0 { vec![0, 0, 0, missing] } else { vec![0, missing] };
    let padded = if shape.len() == 1 { local.constant_pad_nd([0, missing]) } else { local.constant_pad_nd(padding) };
    let all = tp.all_gather(&padded.contiguous())?;
    let pieces: Vec<Tensor> =
        (0..tp.size).map(|rank| all.get(rank as i64).narrow(dim as i64, 0, part(shape[dim], rank, tp.size).1)).collect();
    Ok(Tensor::cat(&pieces, dim as i64))
}
