//! The teacher's ids within one rank's vocabulary shard.

use tch::{Kind, Tensor};

use super::targets::Ids;

/// The columns of a chunk's logits `[C, v]` that hold the k ids of each row, and which of the ids are on this rank.
pub struct ListedColumns {
    /// `[C, k]` i64, 0 if the id is not on this rank; `None` if the ids are all columns, in order.
    columns_ck: Option<Tensor>,
    /// `[C, k]` f64, 1 if an entry is on this rank and counts as an outcome (an id listed twice counts once).
    pub outcome_ck: Tensor,
    /// `[C, k]` f64, 1 if an entry is on this rank.
    pub here_ck: Tensor,
}

/// Global ids as columns of the shard `start .. start + width`, with 1 for ids in it; other ids get column 0 and 0.
pub fn columns(ids: &Tensor, start: i64, width: i64) -> (Tensor, Tensor) {
    let local = ids - start;
    let here = local.ge(0).logical_and(&local.lt(width));
    (local.masked_fill(&here.logical_not(), 0), here.to_kind(Kind::Double))
}

impl ListedColumns {
    /// Finds `ids` in the shard whose logits are `z_cv` and whose first id is `start`.
    pub fn of(ids: &Ids, z_cv: &Tensor, start: i64) -> Self {
        let (rows, width) = (z_cv.size()[0], z_cv.size()[1]);
        match ids {
            Ids::All => {
                let here = Tensor::ones([1, 1], (Kind::Double, z_cv.device())).expand([rows, width], false);
                Self { columns_ck: None, outcome_ck: here.shallow_clone(), here_ck: here }
            }
            Ids::Listed { ids_nk, first_nk } => {
                let (columns_ck, here_ck) = columns(ids_nk, start, width);
                let outcome_ck = first_nk.as_ref().map_or_else(|| here_ck.shallow_clone(), |first| &here_ck * first);
                Self { columns_ck: Some(columns_ck), outcome_ck, here_ck }
            }
        }
    }

    /// Whether the ids are all columns of this shard.
    pub fn is_all(&self) -> bool {
        self.columns_ck.is_none()
    }

    /// The logits at the ids `[C, k]`, f64; for ids on other ranks, the logits of column 0.
    pub fn take(&self, z_cv: &Tensor) -> Tensor {
        let taken = self.columns_ck.as_ref().map_or_else(|| z_cv.copy(), |columns| z_cv.gather(1, columns, false));
        taken.to_kind(Kind::Double)
    }

    /// Sets the logits at the ids to −∞, so that only the other ids remain.
    pub fn hide(&self, z_cv: &mut Tensor) {
        let _ = match &self.columns_ck {
            None => z_cv.fill_(f64::NEG_INFINITY),
            // Ids on other ranks map to column 0, where adding 0 is harmless.
            Some(columns) => {
                let hidden = self.here_ck.zeros_like().masked_fill(&self.here_ck.gt(0.0), f64::NEG_INFINITY);
                z_cv.scatter_add_(1, columns, &hidden.to_kind(z_cv.kind()))
            }
        };
    }

    /// `to_cv` with `values_ck` added at the ids, which must be listed; values are 0 for ids on other ranks.
    pub fn added(&self, mut to_cv: Tensor, values_ck: &Tensor) -> Tensor {
        let columns_ck = self.columns_ck.as_ref().expect("ids that are listed");
        let _ = to_cv.scatter_add_(1, columns_ck, values_ck);
        to_cv
    }

    /// The columns of the ids, or `None` if they are all columns; and `values_ck` there, f32, zero for ids on other ranks.
    pub fn placed(&self, values_ck: &Tensor) -> (Option<Tensor>, Tensor) {
        match &self.columns_ck {
            None => (None, values_ck.to_kind(Kind::Float)),
            Some(columns_ck) => (Some(columns_ck.shallow_clone()), (values_ck * &self.here_ck).to_kind(Kind::Float)),
        }
    }

    /// 1 at the outcome that is the row's label (`[C, 1]`, global ids), if it is listed and on this rank, `[C, k]` f64.
    pub fn at(&self, labels_c1: &Tensor, start: i64) -> Tensor {
        match &self.columns_ck {
            None => {
                let width = self.here_ck.size()[1];
                let ids = Tensor::arange(width, (Kind::Int64, labels_c1.device())) + start;
                ids.eq_tensor(labels_c1).to_kind(Kind::Double)
            }
            // For an id on another rank the column is meaningless, but it is no outcome either.
            Some(columns) => (columns + start).eq_tensor(labels_c1) * &self.outcome_ck,
        }
    }
}
