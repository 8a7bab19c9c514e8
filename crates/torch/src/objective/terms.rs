//! Each objective on a chunk of rows, in f64: its value, and its gradient in a form that the head can write in place.
//!
//! With u = z/τ and p = softmax(u), the gradient with respect to u of every objective is some value at each id that the teacher
//! lists, and elsewhere `softmax_coef·p_i + tail_coef·p_i/P + constant`, where P is the total probability of all other ids. See
//! [`super::reference`] for the same objectives written for readability.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::exchange::{LogSumExp, row_sum};
use super::listed_ids::ListedColumns;
use super::targets::{Ids, Teacher};
use super::{Estimator, Objective, Tail};
use crate::dist::ProcessGroup;

/// C rows, as seen from one vocabulary shard.
pub struct Rows<'a> {
    pub own: &'a ListedColumns,
    /// u at the ids, `[C, k]`.
    pub u_ck: &'a Tensor,
    /// ln p at the ids, `[C, k]`.
    pub logp_ck: &'a Tensor,
    /// Σ exp(u) over the listed ids, over all others, and over both, for the whole vocabulary.
    pub ids: &'a LogSumExp,
    pub others: &'a LogSumExp,
    pub whole: &'a LogSumExp,
    /// Σ (z − y) over the compared ids `[C, 1]`, if the objective is centred.
    pub difference_c1: Option<&'a Tensor>,
    /// Σ ln p over the other ids of this shard `[C, 1]`, if the objective has a uniform tail.
    pub others_logp_c1: Option<&'a Tensor>,
    pub vocab_size: i64,
    pub tp: &'a ProcessGroup,
}

/// Value, and gradient with respect to u; see the module's formula for the coefficients `[C, 1]`.
pub struct Terms {
    /// This shard's part of the value `[C, 1]`.
    pub value_c1: Tensor,
    /// At the ids `[C, k]`; `constant_c1`, which is added everywhere, is already subtracted.
    pub listed_grad_ck: Tensor,
    pub softmax_coef_c1: Tensor,
    pub tail_coef_c1: Option<Tensor>,
    pub constant_c1: Option<Tensor>,
}

/// The teacher's weights for C rows, and quantities derived from them.
pub struct Weights {
    /// `[C, k]`, at the objective's temperature.
    logw_ck: Tensor,
    w_ck: Tensor,
    /// M `[C, 1]`.
    pub mass_c1: Tensor,
    /// R; zero if the teacher gives every id.
    tail_mass_c1: Tensor,
    /// Number of ids of the vocabulary that the row does not list.
    unlisted_c1: Tensor,
    /// −Σ w ln w over the listed ids.
    pub entropy_c1: Tensor,
}

impl Weights {
    /// The weights of `teacher` over a vocabulary of `vocab_size` ids; `None` if it gives only logits. A collective call on `tp`.
    pub fn of(teacher: &Teacher, vocab_size: i64, tp: &ProcessGroup) -> Result<Option<Self>> {
        let Some(logprobs) = &teacher.logprobs_nk else { return Ok(None) };
        let logprobs = logprobs.to_kind(Kind::Double);
        let (w_ck, logw_ck) = (logprobs.exp(), logprobs.clamp_min(-1e4));
        let (mass_c1, entropy_c1) = (row_sum(&w_ck), -row_sum(&(&w_ck * &logw_ck)));
        let listed_c1 = match &teacher.ids {
            Ids::All => {
                tp.all_reduce_sum(&mass_c1)?;
                tp.all_reduce_sum(&entropy_c1)?;
                mass_c1.full_like(vocab_size as f64)
            }
            Ids::Listed { first_nk: Some(first), .. } => row_sum(&first.to_kind(Kind::Double)),
            Ids::Listed { ids_nk, .. } => mass_c1.full_like(ids_nk.size()[1] as f64),
        };
        let unlisted_c1 = -listed_c1 + vocab_size as f64;
        let tail_mass_c1 = (-&mass_c1 + 1.0).clamp_min(0.0) * unlisted_c1.gt(0.0);
        Ok(Some(Self { logw_ck, w_ck, mass_c1, tail_mass_c1, unlisted_c1, entropy_c1 }))
    }

    /// The same teacher with its mass on unlisted ids, at least `min_tail_mass`, spread evenly over all of them in the shard with the logits
    /// `z_cv`, whose first id is `start`.
    pub fn spread_over_all(&self, teacher: &Teacher, z_cv: &Tensor, start: i64, min_tail_mass: f64) -> Teacher {
        let logits_nk = None;
        let own = ListedColumns::of(&teacher.ids, z_cv, start);
        if own.is_all() {
            let logprobs_nk = teacher.logprobs_nk.as_ref().map(Tensor::shallow_clone);
            return Teacher { ids: Ids::All, logprobs_nk, logits_nk };
        }
        let tail_mass_c1 = self.tail_mass_c1.clamp_min(min_tail_mass.max(f64::MIN_POSITIVE));
        let each_c1 = (tail_mass_c1 / self.unlisted_c1.clamp_min(1.0)).log();
        let logprobs_cv = each_c1.expand_as(z_cv).contiguous();
        let added_ck = (&self.logw_ck - each_c1).masked_fill(&own.outcome_ck.eq(0.0), 0.0);
        Teacher { ids: Ids::All, logprobs_nk: Some(own.added(logprobs_cv, &added_ck)), logits_nk }
    }

    /// The label alone, whose weight is 1 less the part of `smoothing` that the other ids of the vocabulary have as their tail.
    pub fn label(labels_c1: &Tensor, vocab_size: i64, smoothing: f64) -> Self {
        let one = labels_c1.ones_like().to_kind(Kind::Double);
        let others = (vocab_size - 1) as f64;
        let tail_mass = smoothing * others / vocab_size as f64;
        let mass_c1 = one.full_like(1.0 - tail_mass);
        Self {
            logw_ck: mass_c1.log(),
            w_ck: mass_c1.shallow_clone(),
            mass_c1,
            tail_mass_c1: one.full_like(tail_mass),
            unlisted_c1: one.full_like(others),
            entropy_c1: one.zeros_like(),
        }
    }
}

impl Rows<'_> {
    /// Value and gradient of `objective`. Panics if `weights` or `teacher` lack what it needs. Collective on `tp`.
    pub fn terms(&self, objective: Objective, weights: Option<&Weights>, teacher: Option<&Teacher>) -> Result<Terms> {
        let weights = || weights.expect("checked: this objective has log-probabilities");
        Ok(match objective {
            Objective::HardCe { .. } => {
                // The mass that smoothing gives to the other ids is a uniform tail.
                self.soft_ce(weights(), if objective.spreads_evenly() { Tail::Uniform } else { Tail::Raw })
            }
            Objective::SoftCe { tail, .. } => self.soft_ce(weights(), tail),
            Objective::KlForward { tail, skew: 0.0, .. } => {
                let terms = self.soft_ce(weights(), tail);
                let least_c1 = self.once(&entropy_of_target(weights(), tail));
                Terms { value_c1: &terms.value_c1 - least_c1, ..terms }
            }
            Objective::KlForward { tail, skew, .. } => {
                let f = |logq: &Tensor, logw: &Tensor, w: &Tensor| skew_forward(logq, logw, w, skew);
                self.divergence(weights(), tail, objective.min_tail_mass(), true, f)?
            }
            Objective::KlReverse { tail, skew, .. } => {
                // Without, trained numbers of older versions are the same bit for bit.
                let exact_at_largest = tail != Tail::Bucket || skew > 0.0;
                let f = |logq: &Tensor, logw: &Tensor, _: &Tensor| kl_reverse(logq, logw, skew);
                self.divergence(weights(), tail, objective.min_tail_mass(), exact_at_largest, f)?
            }
            Objective::SampledKl { estimator, .. } => self.sampled_kl(weights(), estimator)?,
            Objective::Jsd { beta, .. } => {
                let f = |logq: &Tensor, logw: &Tensor, w: &Tensor| jsd(logq, logw, w, beta);
                self.divergence(weights(), Tail::Bucket, objective.min_tail_mass(), false, f)?
            }
            Objective::LogitMse { centered, mse_mean } => {
                let logits = teacher.and_then(|t| t.logits_nk.as_ref()).expect("checked: this objective has logits");
                self.logit_mse(logits, centered, mse_mean)
            }
            Objective::LogprobMse { mse_mean, .. } => {
                let logprobs = teacher.and_then(|t| t.logprobs_nk.as_ref()).expect("checked: has log-probabilities");
                self.logprob_mse(logprobs, mse_mean)?
            }
        })
    }

    /// A value known to every shard, counted only on the first.
    fn once(&self, value: &Tensor) -> Tensor {
        if self.tp.rank == 0 { value.shallow_clone() } else { value.zeros_like() }
    }

    /// Σ over the ids on this rank.
    fn sum(&self, of_ck: &Tensor) -> Tensor {
        row_sum(&(of_ck * &self.own.outcome_ck))
    }

    /// −Σ t ln p with t at the ids alone, whose sum is `total_c1`.
    fn cross_entropy(&self, t_ck: &Tensor, total_c1: &Tensor) -> Terms {
        Terms {
            value_c1: -self.sum(&(t_ck * self.logp_ck)),
            listed_grad_ck: (total_c1 * self.logp_ck.exp() - t_ck) * &self.own.outcome_ck,
            softmax_coef_c1: total_c1.shallow_clone(),
            tail_coef_c1: None,
            constant_c1: None,
        }
    }

    fn soft_ce(&self, weights: &Weights, tail: Tail) -> Terms {
        let Weights { w_ck, mass_c1, tail_mass_c1, unlisted_c1, .. } = weights;
        match tail {
            Tail::Raw | Tail::Sampled => self.cross_entropy(w_ck, mass_c1),
            Tail::Metaseq => {
                let value_c1 = self.cross_entropy(w_ck, mass_c1).value_c1;
                Terms { value_c1, ..self.cross_entropy(w_ck, &mass_c1.ones_like()) }
            }
            Tail::Renormalize => {
                let (t_ck, total_c1) = renormalized(weights);
                self.cross_entropy(&t_ck, &total_c1)
            }
            Tail::DoubleRenormalize => {
                let (t_ck, total_c1) = renormalized(weights);
                let logq_ck = self.u_ck - &self.ids.max - self.ids.log_sum();
                Terms {
                    value_c1: -self.sum(&(&t_ck * &logq_ck)),
                    // For ids on other ranks u is that of another id, so its exponential is unbounded.
                    listed_grad_ck: (total_c1 * logq_ck.clamp_max(0.0).exp() - t_ck) * &self.own.outcome_ck,
                    softmax_coef_c1: mass_c1.zeros_like(),
                    tail_coef_c1: None,
                    constant_c1: None,
                }
            }
            Tail::Uniform => {
                let each_c1 = tail_mass_c1 / unlisted_c1.clamp_min(1.0);
                let terms = self.cross_entropy(w_ck, &(mass_c1 + tail_mass_c1));
                let others_logp_c1 = self.others_logp_c1.expect("gathered for the uniform tail");
                Terms {
                    value_c1: terms.value_c1 - &each_c1 * others_logp_c1,
                    listed_grad_ck: terms.listed_grad_ck + &each_c1 * &self.own.outcome_ck,
                    constant_c1: Some(-each_c1),
                    ..terms
                }
            }
            Tail::Bucket => {
                let terms = self.cross_entropy(w_ck, &(mass_c1 + tail_mass_c1));
                let value_c1 = terms.value_c1 - self.once(&(tail_mass_c1 * self.log_others()));
                Terms { value_c1, tail_coef_c1: Some(-tail_mass_c1), ..terms }
            }
        }
    }

    /// ln P `[C, 1]`, where P is the probability of all ids that are not listed.
    fn log_others(&self) -> Tensor {
        &self.others.max - &self.whole.max + self.others.log_sum() - self.whole.log_sum()
    }

    /// The gradient, whose entries and `elsewhere_c1` sum to zero, with the entry of the id whose u is `max_c1`, if one of the listed ids
    /// alone has it, computed from the others: it is a small difference where the student is certain of that id.
    fn balanced(&self, gradient_ck: &Tensor, max_c1: &Tensor, elsewhere_c1: Option<Tensor>) -> Result<Tensor> {
        let largest_ck = self.u_ck.eq_tensor(max_c1).to_kind(Kind::Double) * &self.own.outcome_ck;
        let others_c1 = row_sum(&gradient_ck.masked_fill(&largest_ck.not_equal(0.0), 0.0));
        let sums_c2 = Tensor::cat(&[others_c1, row_sum(&largest_ck)], 1);
        self.tp.all_reduce_sum(&sums_c2)?;
        let (others_c1, count_c1) = (sums_c2.narrow(1, 0, 1), sums_c2.narrow(1, 1, 1));
        let exact_c1 = -elsewhere_c1.map_or_else(|| others_c1.shallow_clone(), |elsewhere| &others_c1 + elsewhere);
        let chosen_ck = largest_ck.not_equal(0.0).logical_and(&count_c1.eq(1.0));
        Ok(exact_c1.where_self(&chosen_ck, gradient_ck))
    }

    /// Σ f(ln q, ln w, w) over the outcomes that count with `tail`. f gives its value and t = q·∂f/∂q. `exact_at_largest`: see
    /// [`Self::balanced`].
    fn divergence(
        &self,
        weights: &Weights,
        tail: Tail,
        min_tail_mass: f64,
        exact_at_largest: bool,
        f: impl Fn(&Tensor, &Tensor, &Tensor) -> (Tensor, Tensor),
    ) -> Result<Terms> {
        let Weights { logw_ck, w_ck, mass_c1, tail_mass_c1, .. } = weights;
        let on_others = |w: &Tensor| f(&self.log_others(), &w.clamp_min(min_tail_mass.max(f64::MIN_POSITIVE)).log(), w);
        let divided = |w: &Tensor| w / mass_c1.clamp_min(f64::MIN_POSITIVE);
        let scaled = || (logw_ck - mass_c1.clamp_min(f64::MIN_POSITIVE).log(), divided(w_ck));
        let nothing_c1 = mass_c1.zeros_like();
        let (logq_ck, (value_ck, t_ck), (value_others, t_others)) = match tail {
            Tail::Bucket => (self.logp_ck.shallow_clone(), f(self.logp_ck, logw_ck, w_ck), on_others(tail_mass_c1)),
            Tail::Renormalize => {
                let (logw_ck, w_ck) = scaled();
                (self.logp_ck.shallow_clone(), f(self.logp_ck, &logw_ck, &w_ck), on_others(&nothing_c1))
            }
            Tail::DoubleRenormalize => {
                let (logw_ck, w_ck) = scaled();
                // For ids on other ranks u is that of another id, so its exponential is unbounded.
                let logq_ck = (self.u_ck - &self.ids.max - self.ids.log_sum()).clamp_max(0.0);
                let on_listed = f(&logq_ck, &logw_ck, &w_ck);
                (logq_ck, on_listed, (nothing_c1.shallow_clone(), nothing_c1.shallow_clone()))
            }
            // A uniform tail has been spread over all ids.
            Tail::Raw | Tail::Uniform | Tail::Metaseq | Tail::Sampled => {
                let on_listed = f(self.logp_ck, logw_ck, w_ck);
                (self.logp_ck.shallow_clone(), on_listed, (nothing_c1.shallow_clone(), nothing_c1.shallow_clone()))
            }
        };
        let sum_c1 = self.sum(&t_ck);
        self.tp.all_reduce_sum(&sum_c1)?;
        let sum_c1 = sum_c1 + &t_others;
        let mut listed_grad_ck = (t_ck - logq_ck.exp() * &sum_c1) * &self.own.outcome_ck;
        if exact_at_largest {
            let (among, elsewhere_c1) = match tail {
                Tail::DoubleRenormalize => (self.ids, None),
                _ => (self.whole, Some(&t_others - self.log_others().exp() * &sum_c1)),
            };
            listed_grad_ck = self.balanced(&listed_grad_ck, &among.max, elsewhere_c1)?;
        }
        Ok(Terms {
            value_c1: self.sum(&value_ck) + self.once(&value_others),
            listed_grad_ck,
            softmax_coef_c1: if tail == Tail::DoubleRenormalize { nothing_c1 } else { -sum_c1 },
            tail_coef_c1: Some(t_others),
            constant_c1: None,
        })
    }

    fn sampled_kl(&self, weights: &Weights, estimator: Estimator) -> Result<Terms> {
        let l_ck = &weights.logw_ck - self.logp_ck;
        // The gradient is this times p − e_y.
        let (value_ck, factor_ck) = match estimator {
            Estimator::K1 => (-&l_ck, l_ck),
            Estimator::K2 => (l_ck.square() / 2.0, l_ck),
            Estimator::K3AsLoss => {
                let factor_ck = l_ck.expm1();
                (&factor_ck - l_ck, factor_ck)
            }
        };
        // The id is on one of the shards; on others the ratio is that of another id, and may be infinite.
        let own = |of: &Tensor| row_sum(&of.masked_fill(&self.own.outcome_ck.eq(0.0), 0.0));
        let factor_c1 = own(&factor_ck);
        self.tp.all_reduce_sum(&factor_c1)?;
        Ok(Terms {
            value_c1: own(&value_ck),
            listed_grad_ck: self.logp_ck.expm1() * &factor_c1 * &self.own.outcome_ck,
            softmax_coef_c1: factor_c1,
            tail_coef_c1: None,
            constant_c1: None,
        })
    }

    fn logit_mse(&self, y_ck: &Tensor, centered: bool, mse_mean: bool) -> Terms {
        let compared = y_ck.isfinite().to_kind(Kind::Double);
        let count_c1 = self.count(&compared);
        let mut d_ck = difference(self.u_ck, y_ck, &compared) * &self.own.here_ck;
        if centered {
            d_ck -= self.difference_c1.expect("gathered where the objective centres") / &count_c1 * compared * &self.own.here_ck;
        }
        let scale_c1 = if mse_mean { count_c1.reciprocal() } else { count_c1.ones_like() };
        Terms {
            value_c1: row_sum(&d_ck.square()) * &scale_c1,
            listed_grad_ck: d_ck * &scale_c1 * 2.0,
            softmax_coef_c1: scale_c1.zeros_like(),
            tail_coef_c1: None,
            constant_c1: None,
        }
    }

    fn logprob_mse(&self, y_ck: &Tensor, mse_mean: bool) -> Result<Terms> {
        let compared = y_ck.isfinite().to_kind(Kind::Double);
        let count_c1 = self.count(&compared);
        let d_ck = difference(self.logp_ck, y_ck, &compared) * &self.own.here_ck;
        let scale_c1 = if mse_mean { count_c1.reciprocal() } else { count_c1.ones_like() };
        let sum_c1 = row_sum(&d_ck);
        self.tp.all_reduce_sum(&sum_c1)?;
        let softmax_coef_c1 = sum_c1 * &scale_c1 * -2.0;
        Ok(Terms {
            value_c1: row_sum(&d_ck.square()) * &scale_c1,
            listed_grad_ck: d_ck * &scale_c1 * 2.0 + &softmax_coef_c1 * self.logp_ck.exp() * &self.own.outcome_ck,
            softmax_coef_c1,
            tail_coef_c1: None,
            constant_c1: None,
        })
    }

    /// Number of compared entries of a row, at least 1. Every rank knows all listed ids; if the ids are all columns, V are
    /// compared.
    fn count(&self, compared: &Tensor) -> Tensor {
        if self.own.is_all() { self.others.sum.full_like(self.vocab_size as f64) } else { row_sum(compared).clamp_min(1.0) }
    }
}

/// q ln(q/m) with m = (1 − α) w + α q.
fn kl_reverse(logq: &Tensor, logw: &Tensor, skew: f64) -> (Tensor, Tensor) {
    if skew == 0.0 {
        let value = logq.exp() * (logq - logw);
        let t = &value + logq.exp();
        return (value, t);
    }
    let of_student = logq + skew.ln();
    let log_m = (logw + (1.0 - skew).ln()).logaddexp(&of_student);
    let value = logq.exp() * (logq - &log_m);
    let t = &value - logq.exp() * (of_student - log_m).expm1();
    (value, t)
}

/// w ln(w/m) with m = α w + (1 − α) q.
fn skew_forward(logq: &Tensor, logw: &Tensor, w: &Tensor, skew: f64) -> (Tensor, Tensor) {
    let of_student = logq + (1.0 - skew).ln();
    let log_m = (logw + skew.ln()).logaddexp(&of_student);
    (w * (logw - &log_m), -(w * (of_student - log_m).exp()))
}

/// β w ln(w/m) + (1 − β) q ln(q/m) with m = β w + (1 − β) q.
fn jsd(logq: &Tensor, logw: &Tensor, w: &Tensor, beta: f64) -> (Tensor, Tensor) {
    let log_m = (logw + beta.ln()).logaddexp(&(logq + (1.0 - beta).ln()));
    let t = logq.exp() * (logq - &log_m) * (1.0 - beta);
    (w * (logw - log_m) * beta + &t, t)
}

/// x − y where `compared` is 1, else 0.
pub fn difference(x_ck: &Tensor, y_ck: &Tensor, compared: &Tensor) -> Tensor {
    (x_ck - y_ck).masked_fill(&compared.eq(0.0), 0.0)
}

/// w/M and its sum: 1, or 0 if the teacher gives no weight at all.
fn renormalized(weights: &Weights) -> (Tensor, Tensor) {
    let t_ck = &weights.w_ck / weights.mass_c1.clamp_min(f64::MIN_POSITIVE);
    (t_ck, weights.mass_c1.gt(0.0).to_kind(Kind::Double))
}

/// −Σ t ln t of the target of the tail `[C, 1]`.
fn entropy_of_target(weights: &Weights, tail: Tail) -> Tensor {
    let Weights { mass_c1, tail_mass_c1, unlisted_c1, entropy_c1, .. } = weights;
    let minus_x_log = |x: &Tensor, y: &Tensor| -(x * y.clamp_min(f64::MIN_POSITIVE).log());
    match tail {
        Tail::Raw | Tail::Metaseq | Tail::Sampled => entropy_c1.shallow_clone(),
        Tail::Renormalize | Tail::DoubleRenormalize => {
            let mass_c1 = mass_c1.clamp_min(f64::MIN_POSITIVE);
            entropy_c1 / &mass_c1 + mass_c1.log() * weights.mass_c1.gt(0.0)
        }
        Tail::Bucket => entropy_c1 + minus_x_log(tail_mass_c1, tail_mass_c1),
        Tail::Uniform => entropy_c1 + minus_x_log(tail_mass_c1, &(tail_mass_c1 / unlisted_c1.clamp_min(1.0))),
    }
}
