//! What a batch is held against: labels, and the teacher's top-k.

use tch::{Kind, Tensor};

/// Targets of N tokens.
pub struct Targets {
    /// `[N]` i64.
    pub labels_n: Tensor,
    pub teacher: Option<TopK>,
}

/// The teacher's k most likely ids of each token, distinct within a row.
pub struct TopK {
    /// `[N, k]` i64.
    pub ids_nk: Tensor,
    /// `[N, k]` f32: log-probabilities at the objective's temperature; −∞ carries no weight.
    pub logprobs_nk: Tensor,
    /// `[N, k]` f32: the same entries as logits.
    pub logits_nk: Tensor,
}

impl Targets {
    /// Rows `start .. start + length`.
    pub fn narrow(&self, start: i64, length: i64) -> Self {
        let rows = |t: &Tensor| t.narrow(0, start, length);
        Self {
            labels_n: rows(&self.labels_n),
            teacher: self.teacher.as_ref().map(|t| TopK {
                ids_nk: rows(&t.ids_nk),
                logprobs_nk: rows(&t.logprobs_nk),
                logits_nk: rows(&t.logits_nk),
            }),
        }
    }
}

impl TopK {
    /// Σ_j w_j and −Σ_j w_j ln w_j of each row, `[N]`.
    pub fn mass_and_entropy(&self) -> (Tensor, Tensor) {
        let weights = self.logprobs_nk.exp();
        let entropy = -(&weights * self.logprobs_nk.clamp_min(-1e4)).sum_dim_intlist(-1, false, Kind::Float);
        (weights.sum_dim_intlist(-1, false, Kind::Float), entropy)
    }
}
