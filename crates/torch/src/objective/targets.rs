//! The targets of a batch: labels, and the teacher's distribution over some ids or all of them.

use tch::{Kind, Tensor};

/// Targets of N tokens.
pub struct Targets {
    /// `[N]` i64.
    pub labels_n: Tensor,
    pub teacher: Option<Teacher>,
}

/// Teacher targets for N tokens.
pub struct Teacher {
    pub ids: Ids,
    /// `[N, k]` f32: logprobs at the objective's temperature; −∞ carries no weight. Logits of all ids stand for these too.
    pub logprobs_nk: Option<Tensor>,
    /// `[N, k]` f32 (or bf16, if they are of all ids): logits; −∞ is left out of the comparison.
    pub logits_nk: Option<Tensor>,
}

/// The ids of the teacher targets.
pub enum Ids {
    /// k ids per row, known on every rank.
    Listed {
        /// `[N, k]` i64.
        ids_nk: Tensor,
        /// `[N, k]` bool, true at the first occurrence of an id in its row; `None` if no row lists an id twice.
        first_nk: Option<Tensor>,
    },
    /// All ids of this rank's vocabulary shard, k = v, in order.
    All,
}

impl Ids {
    /// k distinct ids per row.
    pub fn distinct(ids_nk: Tensor) -> Self {
        Ids::Listed { ids_nk, first_nk: None }
    }

    /// The same ids; the tensors share memory.
    pub fn share(&self) -> Self {
        match self {
            Ids::All => Ids::All,
            Ids::Listed { ids_nk, first_nk } => {
                Ids::Listed { ids_nk: ids_nk.shallow_clone(), first_nk: first_nk.as_ref().map(Tensor::shallow_clone) }
            }
        }
    }
}

impl Targets {
    /// Rows `start .. start + length`.
    pub fn narrow(&self, start: i64, length: i64) -> Self {
        let rows = |t: &Tensor| t.narrow(0, start, length);
        Self {
            labels_n: rows(&self.labels_n),
            teacher: self.teacher.as_ref().map(|t| Teacher {
                ids: match &t.ids {
                    Ids::All => Ids::All,
                    Ids::Listed { ids_nk, first_nk } => {
                        Ids::Listed { ids_nk: rows(ids_nk), first_nk: first_nk.as_ref().map(rows) }
                    }
                },
                logprobs_nk: t.logprobs_nk.as_ref().map(rows),
                logits_nk: t.logits_nk.as_ref().map(rows),
            }),
        }
    }
}

impl Teacher {
    /// Targets as stored in a cache, at `temperature`: distinct `ids [N, k]`, their logits, and their logsumexp `[N, 1]` at it.
    pub fn from_logits(ids_nk: Tensor, logits_nk: Tensor, lse_n1: &Tensor, temperature: f64) -> Self {
        let logprobs_nk = &logits_nk / temperature - lse_n1;
        Self { ids: Ids::distinct(ids_nk), logprobs_nk: Some(logprobs_nk), logits_nk: Some(logits_nk) }
    }

    /// k ids per row with logprobs, logits or both. If a row repeats an id, the first occurrence gets the added weight, and the
    /// logprob of the others becomes −∞. Logits are not merged: each is compared.
    pub fn listed(ids_nk: Tensor, logprobs_nk: Option<Tensor>, logits_nk: Option<Tensor>) -> Self {
        let (sorted, order) = ids_nk.sort_stable(true, -1, false);
        let (n, k) = ids_nk.size2().expect("two dimensions");
        let again = sorted.narrow(1, 1, k - 1).eq_tensor(&sorted.narrow(1, 0, k - 1));
        if !again.any().int64_value(&[]).eq(&1) {
            return Self { ids: Ids::distinct(ids_nk), logprobs_nk, logits_nk };
        }
        let first_sorted = Tensor::cat(&[&Tensor::ones([n, 1], (Kind::Bool, ids_nk.device())), &again.logical_not()], 1);
        let back = order.argsort(-1, false);
        let first_nk = first_sorted.gather(1, &back, false);
        let logprobs_nk = logprobs_nk.map(|logprobs| {
            // After sorting, entries with the same id are neighbours; the position of the first represents all.
            let group = first_sorted.to_kind(Kind::Int64).cumsum(-1, Kind::Int64) - 1;
            let weights = logprobs.to_kind(Kind::Double).exp().gather(1, &order, false);
            let sums = weights.zeros_like().scatter_add(1, &group, &weights).gather(1, &group, false);
            let kept = sums.log().masked_fill(&first_sorted.logical_not(), f64::NEG_INFINITY);
            kept.gather(1, &back, false).to_kind(logprobs.kind())
        });
        Self { ids: Ids::Listed { ids_nk, first_nk: Some(first_nk) }, logprobs_nk, logits_nk }
    }
}
