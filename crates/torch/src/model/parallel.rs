//! Shards parameters over the tensor-parallel ranks, and gathers them again.

use anyhow::Result;
use tch::Tensor;

use super::parameters::{Parameter, Shard};
use crate::dist::{ProcessGroup, part};

impl Shard {
    /// Number of ranks, of `size`, that hold the same shard; they are neighbours.
    pub fn copies(self, size: usize) -> usize {
        match self {
            Self::Replicated | Self::ReplicatedPartial => size,
            Self::Dim0 | Self::Dim1 => 1,
            Self::Heads(heads) => (size / heads).max(1),
        }
    }

    /// The shard of a parameter of this shape that rank `rank` of `size` holds: dimension, start, length.
    fn piece(self, shape: &[i64], rank: usize, size: usize) -> (usize, i64, i64) {
        let dim = usize::from(self == Self::Dim1);
        let copies = self.copies(size);
        let (start, length) = part(shape[dim], rank / copies, size / copies);
        (dim, start, length)
    }
}

/// The shard of `full` that this rank holds.
pub fn shard(full: &Tensor, how: Shard, tp: &ProcessGroup) -> Tensor {
    if how.copies(tp.size) == tp.size {
        return full.shallow_clone();
    }
    let (dim, start, length) = how.piece(&full.size(), tp.rank, tp.size);
    full.narrow(dim as i64, start, length).contiguous()
}

/// The size of the shard of `parameter` that this rank holds.
pub fn shard_size(parameter: &Parameter, tp: &ProcessGroup) -> Vec<i64> {
    let (how, mut size) = (parameter.shard, parameter.shape.clone());
    if how.copies(tp.size) != tp.size {
        let (dim, _, length) = how.piece(&size, tp.rank, tp.size);
        size[dim] = length;
    }
    size
}

/// The whole tensor (`shape`), gathered from the shards of all ranks.
pub fn unshard(local: &Tensor, how: Shard, shape: &[i64], tp: &ProcessGroup) -> Result<Tensor> {
    let copies = how.copies(tp.size);
    if copies == tp.size {
        return Ok(local.shallow_clone());
    }
    // Shards may differ by one row; every rank contributes as many rows as the largest has.
    let (dim, _, longest) = how.piece(shape, 0, tp.size);
    let missing = longest - local.size()[dim];
    let padding = if dim + 1 == shape.len() { vec![0, missing] } else { vec![0, 0, 0, missing] };
    let all = tp.all_gather(&local.constant_pad_nd(padding).contiguous())?;
    let pieces: Vec<Tensor> = (0..tp.size)
        .step_by(copies)
        .map(|rank| all.get(rank as i64).narrow(dim as i64, 0, how.piece(shape, rank, tp.size).2))
        .collect();
    Ok(Tensor::cat(&pieces, dim as i64))
}

/// Sums `gradient`, of a parameter sharded `how`, over the ranks that hold the same shard: in place, and in the same order on
/// each of them. A no-op if they see the same gradient: that of a replicated parameter, unless sequence parallelism gave each
/// rank its own tokens.
pub fn sum_copies(gradient: &Tensor, how: Shard, tp: &ProcessGroup, sequence_parallel: bool) -> Result<()> {
    let copies = how.copies(tp.size);
    if copies == 1 || how == Shard::Replicated && !sequence_parallel {
        return Ok(());
    }
    let first = tp.rank / copies * copies;
    let all = tp.all_gather(gradient)?.narrow(0, first as i64, copies as i64);
    gradient.shallow_clone().copy_(&all.sum_dim_intlist(0, false, gradient.kind()));
    Ok(())
}
