//! The fused output head and objective: from hidden states and the vocabulary-sharded output weight to the loss and both
//! gradients, processing tokens in chunks so that the full `[N, V]` logits never exist.
//!
//! The logits of a chunk are replaced by their gradient in place. The few ids that a teacher lists are taken out first and
//! treated separately, exactly; all other ids share a few coefficients per row, so two passes over them suffice. Shards exchange
//! (maximum, Σ exp) of both sets once, merged as in online softmax. Objectives that are not linear in the student's probabilities
//! need one more sum.

use std::cell::RefCell;
use std::ops::AddAssign;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::dense::{Dense, lacks_logprobs, with_logprobs};
use super::exchange::{LogSumExp, merge, row_sum};
use super::listed_ids::{ListedColumns, columns};
use super::logit_gradient::{GradientParts, LogitGradient};
use super::targets::{Ids, Targets};
use super::terms::{Rows, Weights, difference};
use super::{Loss, Objective, rows};
use crate::dist::ProcessGroup;
use crate::kernels::products;

/// Bytes of logits that exist at a time: enough that the products with a chunk are large and passes over the weight's gradient
/// few.
const CHUNK_BYTES: i64 = 192 << 20;
/// Bytes of a logit: f32, whatever the precision of the model.
pub const LOGIT_BYTES: i64 = 4;

thread_local! {
    /// Memory for a chunk's logits, reused from call to call, because fresh pages cost as much as a pass over the logits.
    static LOGITS: RefCell<Tensor> = RefCell::new(Tensor::new());
}

/// This rank's part of the output head.
pub struct Head<'a> {
    /// `[v, d]`: rows `vocab_start ..` of the whole weight.
    pub weight_vd: &'a Tensor,
    pub vocab_start: i64,
    /// Number of rows of the whole weight.
    pub vocab_size: i64,
    pub tp: &'a ProcessGroup,
}

/// The quantities of [`LossSums`] for each of N tokens: columns of an `[N, 5]` f64 tensor, equal on every rank.
pub struct TokenLosses(Tensor);

/// Sums over tokens. Losses, lse and entropy are in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    pub loss: f64,
    /// Cross-entropy on the labels at τ = 1.
    pub hard_loss: f64,
    /// logsumexp of the logits at τ = 1.
    pub lse: f64,
    pub retained_mass: f64,
    pub teacher_entropy: f64,
}

impl TokenLosses {
    /// The loss of each token, `[N]`.
    pub fn loss_n(&self) -> Tensor {
        self.0.select(1, 0)
    }

    /// Sums over the N tokens; one transfer from the device.
    pub fn sums(&self) -> Result<LossSums> {
        let sums = self.0.sum_dim_intlist(0, false, Kind::Double).to_device(Device::Cpu);
        let sums: [f64; 5] = Vec::try_from(sums)?.try_into().expect("five columns");
        Ok(sums.into())
    }
}

/// In the order of the columns of [`TokenLosses`].
impl From<[f64; 5]> for LossSums {
    fn from([loss, hard_loss, lse, retained_mass, teacher_entropy]: [f64; 5]) -> Self {
        Self { loss, hard_loss, lse, retained_mass, teacher_entropy }
    }
}

/// The sums over the tokens of both.
impl AddAssign for LossSums {
    fn add_assign(&mut self, other: Self) {
        let (mut numbers, others) = (self.numbers(), other.numbers());
        numbers.iter_mut().zip(others).for_each(|(number, other)| *number += other);
        *self = numbers.into();
    }
}

impl LossSums {
    fn numbers(self) -> [f64; 5] {
        let Self { loss, hard_loss, lse, retained_mass, teacher_entropy } = self;
        [loss, hard_loss, lse, retained_mass, teacher_entropy]
    }

    /// The sums over the parts of all ranks of `group`.
    pub fn reduced(self, group: &ProcessGroup, device: Device) -> Result<Self> {
        let mut numbers = self.numbers();
        group.sum(&mut numbers, device)?;
        Ok(numbers.into())
    }

    /// The means over `tokens` tokens.
    pub fn per_token(self, tokens: usize) -> Self {
        self.numbers().map(|sum| sum / tokens as f64).into()
    }
}

/// Tokens whose logits over `width` ids exist at a time.
pub fn chunk_length(width: i64) -> i64 {
    (CHUNK_BYTES / (LOGIT_BYTES * width).max(1)).clamp(64, 4096)
}

impl Head<'_> {
    /// The losses of the N rows of `hidden_nd`, and the gradient of `scale · Σ loss` with respect to `hidden_nd` (f32). The
    /// gradient with respect to the weight is added to `weight_gradient_vd` (f32).
    pub fn loss_and_gradients(
        &self,
        loss: &Loss,
        hidden_nd: &Tensor,
        targets: &Targets,
        scale: f64,
        weight_gradient_vd: &Tensor,
    ) -> Result<(TokenLosses, Tensor)> {
        let _guard = tch::no_grad_guard();
        let d_hidden_nd = Tensor::zeros(hidden_nd.size(), (Kind::Float, hidden_nd.device()));
        let measured = self.chunks(hidden_nd.size()[0], |start, length| {
            let hidden_cd = hidden_nd.narrow(0, start, length);
            let z_cv = self.logits(&hidden_cd);
            let (measured_c5, gradient_cv) = self.chunk(loss, z_cv, &targets.narrow(start, length), scale)?;
            gradient_cv.products(&hidden_cd, self.weight_vd, &d_hidden_nd.narrow(0, start, length), weight_gradient_vd);
            Ok(measured_c5)
        })?;
        self.tp.all_reduce_sum(&d_hidden_nd)?;
        Ok((measured, d_hidden_nd))
    }

    /// The same from logits `[N, v]` of this shard; returns the gradient with respect to them.
    pub fn loss_and_logit_gradient(
        &self,
        loss: &Loss,
        z_nv: &Tensor,
        targets: &Targets,
        scale: f64,
    ) -> Result<(TokenLosses, Tensor)> {
        let _guard = tch::no_grad_guard();
        let gradient_nv = z_nv.zeros_like();
        let measured = self.chunks(z_nv.size()[0], |start, length| {
            let z_cv = z_nv.narrow(0, start, length).copy();
            let (measured_c5, gradient_cv) = self.chunk(loss, z_cv, &targets.narrow(start, length), scale)?;
            gradient_nv.narrow(0, start, length).copy_(&gradient_cv.write());
            Ok(measured_c5)
        })?;
        Ok((measured, gradient_nv))
    }

    /// Number of tokens whose logits exist at a time.
    pub(super) fn chunk_length(&self) -> i64 {
        chunk_length(self.weight_vd.size()[0])
    }

    /// The logits `[C, v]` of this shard, f32, in memory that the thread's next call overwrites.
    pub(super) fn logits(&self, hidden_cd: &Tensor) -> Tensor {
        let (rows, width) = (hidden_cd.size()[0], self.weight_vd.size()[0]);
        let z_cv = LOGITS.with_borrow_mut(|kept| {
            if !kept.defined() || kept.device() != hidden_cd.device() || (kept.numel() as i64) < rows * width {
                *kept = Tensor::empty([rows * width], (Kind::Float, hidden_cd.device()));
            }
            kept.narrow(0, 0, rows * width).view([rows, width])
        });
        products::logits(hidden_cd, self.weight_vd, &z_cv);
        z_cv
    }

    fn chunks(&self, count: i64, mut of: impl FnMut(i64, i64) -> Result<Tensor>) -> Result<TokenLosses> {
        let length = self.chunk_length();
        let starts = (0..count).step_by(length as usize);
        let parts = starts.map(|start| of(start, length.min(count - start))).collect::<Result<Vec<Tensor>>>()?;
        ensure!(!parts.is_empty(), "no tokens to compute a loss for");
        let measured_n5 = Tensor::cat(&parts, 0);
        self.tp.all_reduce_sum(&measured_n5)?;
        Ok(TokenLosses(measured_n5))
    }

    /// This rank's part of the token losses `[C, 5]`, and the gradient of `scale · Σ loss` with respect to this shard's logits
    /// `z_cv`, whose memory it keeps.
    fn chunk(&self, loss: &Loss, mut z_cv: Tensor, targets: &Targets, scale: f64) -> Result<(Tensor, LogitGradient)> {
        let Loss { objective, .. } = *loss;
        // Without one, logits are compared as they are.
        let temperature = objective.temperature().unwrap_or(1.0);
        let width = z_cv.size()[1];
        if let Some(dense) = Dense::of(self, loss, &z_cv, targets, scale) {
            return dense.chunk(self, z_cv, &targets.labels_n);
        }
        let labels_c1 = targets.labels_n.unsqueeze(1);
        let (label_column_c1, label_here_c1) = columns(&labels_c1, self.vocab_start, width);
        let label_z_c1 = z_cv.gather(1, &label_column_c1, false).to_kind(Kind::Double);
        let given = targets.teacher.as_ref().filter(|_| objective.needs_teacher());
        let normalized = match given {
            Some(teacher) if lacks_logprobs(teacher, objective) => Some(with_logprobs(teacher, temperature, self.tp)?),
            _ => None,
        };
        let given = normalized.as_ref().or(given);
        let given_weights = match given {
            Some(teacher) => Weights::of(teacher, self.vocab_size, self.tp)?,
            None => Some(Weights::label(&labels_c1, self.vocab_size, objective.label_smoothing())),
        };
        let spread = match (given, &given_weights) {
            (Some(teacher), Some(weights)) if objective.spreads_over_all() => {
                Some(weights.spread_over_all(teacher, &z_cv, self.vocab_start, objective.min_tail_mass()))
            }
            _ => None,
        };
        let spread_weights = match &spread {
            Some(teacher) => Weights::of(teacher, self.vocab_size, self.tp)?,
            None => None,
        };
        let (teacher, weights) = (spread.as_ref().or(given), spread_weights.as_ref().or(given_weights.as_ref()));
        let label_only = Ids::distinct(labels_c1.shallow_clone());
        let own = ListedColumns::of(teacher.map_or(&label_only, |teacher| &teacher.ids), &z_cv, self.vocab_start);
        let z_ck = own.take(&z_cv);
        let u_ck = &z_ck / temperature;
        own.hide(&mut z_cv);

        // First pass; then the sums over the listed and the other ids are merged across shards.
        let row_sums = rows::sums(&z_cv, temperature, objective.spreads_evenly());
        let mut sets =
            vec![LogSumExp { max: &row_sums.max / temperature, sum: row_sums.exp }, LogSumExp::among(&u_ck, &own.outcome_ck)];
        // Cross-entropy on the labels uses the softmax at temperature 1, apart from the objective's own.
        if let Some(sum) = row_sums.plain_exp {
            sets.push(LogSumExp { max: row_sums.max.shallow_clone(), sum }.union(&LogSumExp::among(&z_ck, &own.outcome_ck)));
        }
        let centred = match (objective, teacher.and_then(|teacher| teacher.logits_nk.as_ref())) {
            (Objective::LogitMse { centered: true, .. }, Some(y_ck)) => {
                let compared = y_ck.isfinite().to_kind(Kind::Double);
                Some(row_sum(&(difference(&u_ck, y_ck, &compared) * &own.here_ck)))
            }
            _ => None,
        };
        let (sets, sums) = merge(self.tp, sets, centred.into_iter().collect())?;
        let (others, ids) = (&sets[0], &sets[1]);
        let whole = others.union(ids);
        let plain = sets.get(2).unwrap_or(&whole);
        let logp_ck = &u_ck - &whole.max - whole.log_sum();
        let others_logp_c1 = row_sums.difference.map(|difference| {
            let count = -row_sum(&own.outcome_ck) + width as f64;
            difference / temperature + count * (&row_sums.max / temperature - &whole.max - whole.log_sum())
        });

        let seen = Rows {
            own: &own,
            u_ck: &u_ck,
            logp_ck: &logp_ck,
            ids,
            others,
            whole: &whole,
            difference_c1: sums.first(),
            others_logp_c1: others_logp_c1.as_ref(),
            vocab_size: self.vocab_size,
            tp: self.tp,
        };
        let terms = seen.terms(objective, weights, teacher)?;

        // The second pass computes the gradient from these.
        let (weight, hard_weight) = (loss.objective_weight(), loss.hard_weight());
        let (g, hard_g) = (scale * weight / temperature, scale * hard_weight);
        let max_u_c1 = &row_sums.max / temperature;
        let mut factor_c1 = &terms.softmax_coef_c1 * whole.share(&max_u_c1) * g;
        if let Some(tail_coef_c1) = &terms.tail_coef_c1 {
            factor_c1 += tail_coef_c1 * others.share(&max_u_c1) * g;
        }
        let plain_factor_c1 = plain.share(&row_sums.max) * hard_g;
        let constant_c1 = terms.constant_c1.map(|constant| constant * g);
        let mut listed_grad_ck = terms.listed_grad_ck * g;
        if hard_weight > 0.0 {
            listed_grad_ck += (&z_ck - &plain.max - plain.log_sum()).clamp_max(0.0).exp() * &own.outcome_ck * hard_g;
            listed_grad_ck -= own.at(&labels_c1, self.vocab_start) * hard_g;
        }
        let tempered = temperature != 1.0 && hard_weight > 0.0;
        if hard_weight > 0.0 && !tempered {
            factor_c1 += &plain_factor_c1;
        }
        let plain_exp_c1 = tempered.then_some(plain_factor_c1);
        let label = (hard_weight > 0.0).then(|| {
            // The label, if it is not listed: its gradient is computed in f64, like that of listed ids.
            let x_c1 = &label_z_c1 - &row_sums.max;
            let mut exact_c1 = (&x_c1 / temperature).exp() * &factor_c1 - hard_g;
            if let Some(factor_c1) = &plain_exp_c1 {
                exact_c1 += x_c1.exp() * factor_c1;
            }
            if let Some(constant_c1) = &constant_c1 {
                exact_c1 += constant_c1;
            }
            let unlisted_c1 = &label_here_c1 - row_sum(&own.at(&labels_c1, self.vocab_start));
            [label_column_c1, exact_c1, unlisted_c1]
        });
        let gradient_cv = LogitGradient::Parts(GradientParts {
            z_cv,
            temperature,
            max_c1: row_sums.max.shallow_clone(),
            exp_c1: factor_c1,
            plain_exp_c1,
            constant_c1,
            listed: own.placed(&listed_grad_ck),
            label,
        });

        let hard_loss_c1 = (plain.log_sum() + (&plain.max - label_z_c1)) * label_here_c1;
        let value_c1 = terms.value_c1 * weight + &hard_loss_c1 * hard_weight;
        let once = if self.tp.rank == 0 { 1.0 } else { 0.0 };
        let (mass_c1, entropy_c1) = match &given_weights {
            // One id's weight is no retained mass.
            Some(weights) if teacher.is_some() && objective.estimator().is_none() => {
                (&weights.mass_c1 * once, &weights.entropy_c1 * once)
            }
            _ => (value_c1.zeros_like(), value_c1.zeros_like()),
        };
        Ok((Tensor::cat(&[value_c1, hard_loss_c1, plain.value() * once, mass_c1, entropy_c1], 1), gradient_cv))
    }
}
