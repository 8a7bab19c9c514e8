//! The gradient of a chunk's logits in the parts that it is computed from, so that the head's products can compute it block by block.

use tch::{Kind, Tensor};

use super::rows;
use crate::kernels::{LogitParts, RowFactors, products};

/// The gradient with respect to logits `[C, v]` of a shard.
pub enum LogitGradient {
    /// Not yet computed.
    Parts(GradientParts),
    /// In the memory of the logits, f32.
    Written(Tensor),
}

/// The logits, and the numbers from which the gradient follows. Columns of numbers are f64 `[C, 1]`; see [`RowFactors`].
pub struct GradientParts {
    /// f32; −∞ at the listed ids.
    pub z_cv: Tensor,
    pub temperature: f64,
    pub max_c1: Tensor,
    pub exp_c1: Tensor,
    pub plain_exp_c1: Option<Tensor>,
    pub constant_c1: Option<Tensor>,
    /// Columns `[C, k]` of the listed ids, or `None` if they are all columns; and what is added there (f32).
    pub listed: (Option<Tensor>, Tensor),
    /// The label: its column (i64), the gradient there instead of what the factors give, and 0 where that does not apply.
    pub label: Option<[Tensor; 3]>,
}

impl GradientParts {
    fn factors(&self) -> RowFactors<'_> {
        let (plain_exp, constant) = (self.plain_exp_c1.as_ref(), self.constant_c1.as_ref());
        RowFactors { max: &self.max_c1, exp: &self.exp_c1, plain_exp, constant }
    }

    fn write(self) -> Tensor {
        let mut g_cv = self.z_cv.shallow_clone();
        rows::gradient(&mut g_cv, self.temperature, &self.factors());
        let (columns_ck, added_ck) = &self.listed;
        let _ = match columns_ck {
            None => g_cv.g_add_(added_ck),
            Some(columns_ck) => g_cv.scatter_add_(1, columns_ck, added_ck),
        };
        if let Some([column_c1, exact_c1, there_c1]) = &self.label {
            let written_c1 = g_cv.gather(1, column_c1, false);
            let label_c1 = exact_c1.to_kind(Kind::Float).where_self(&there_c1.not_equal(0.0), &written_c1);
            let _ = g_cv.scatter_(1, column_c1, &label_c1);
        }
        g_cv
    }
}

impl LogitGradient {
    /// The gradient, f32, in the memory of the logits.
    pub fn write(self) -> Tensor {
        match self {
            Self::Parts(parts) => parts.write(),
            Self::Written(g_cv) => g_cv,
        }
    }

    /// Writes g·W into `d_hidden_cd` (f32), and adds gᵀ·h to `d_weight_vd` (f32), for this gradient g, h `[C, d]` and W `[v, d]`. If h
    /// and W are bf16, g is rounded to bf16.
    pub fn products(self, hidden_cd: &Tensor, weight_vd: &Tensor, d_hidden_cd: &Tensor, d_weight_vd: &Tensor) {
        if let (Self::Parts(of), true) = (&self, products::from_logits_fit(hidden_cd, weight_vd))
            && let (Some(columns_ck), added_ck) = &of.listed
        {
            let parts = LogitParts {
                z_cv: &of.z_cv,
                temperature: of.temperature,
                factors: of.factors(),
                listed: (columns_ck, added_ck),
                exact: of.label.as_ref().map(|label| label.each_ref()),
            };
            return products::gradients_from_logits(&parts, hidden_cd, weight_vd, d_hidden_cd, d_weight_vd);
        }
        products::gradients(&self.write(), hidden_cd, weight_vd, d_hidden_cd, d_weight_vd);
    }
}
