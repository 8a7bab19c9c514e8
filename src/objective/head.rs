//! The output head and the objective as one: from hidden states and the vocabulary-sharded output weight to the loss and both
//! gradients, walking the tokens in chunks so that the `[N, V]` logits never exist whole.
//!
//! Every objective here has a gradient in the logits of the form `a·p + b + Σ_j c_j e_j`: a multiple of the softmax, a
//! constant, and corrections at the target ids. So a chunk needs one pass for a few numbers per token, one exchange of those
//! between shards (merged as in online softmax, Milakov & Gimelshein 2018), and one pass for the gradient in place.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::targets::{Targets, TopK};
use super::{Objective, Tail};
use crate::dist::Axis;

/// Tokens whose logits exist at a time.
pub const CHUNK: i64 = 512;

/// This rank's part of the output head.
pub struct Head<'a> {
    /// `[v, d]`, rows `vocab_start ..` of the whole weight.
    pub weight_vd: &'a Tensor,
    pub vocab_start: i64,
    /// Rows of the whole weight.
    pub vocab_size: i64,
    pub tp: &'a Axis,
}

/// Sums over tokens, in nats where they are losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub loss: f64,
    /// Cross-entropy on the labels at τ = 1.
    pub hard_loss: f64,
    /// logsumexp of the logits at τ = 1.
    pub lse: f64,
    pub retained_mass: f64,
    pub teacher_entropy: f64,
}

impl Head<'_> {
    /// The objective's sums over the N rows of `hidden_nd`, and the gradient of `scale · loss` in `hidden_nd`. The gradient
    /// in the weight is added to `weight_gradient_vd` (f32).
    pub fn loss_and_gradients(
        &self,
        objective: Objective,
        hidden_nd: &Tensor,
        targets: &Targets,
        scale: f64,
        weight_gradient_vd: &Tensor,
    ) -> Result<(Sums, Tensor)> {
        let _guard = tch::no_grad_guard();
        let count = hidden_nd.size()[0];
        let d_hidden_nd = hidden_nd.zeros_like();
        let mut totals = Tensor::zeros([5], (Kind::Double, hidden_nd.device()));
        let mut start = 0;
        while start < count {
            let length = CHUNK.min(count - start);
            let hidden_cd = hidden_nd.narrow(0, start, length);
            let (sums, d_logits_cv) = self.chunk(objective, &hidden_cd, &targets.narrow(start, length), scale)?;
            totals += sums;
            d_hidden_nd.narrow(0, start, length).copy_(&d_logits_cv.matmul(self.weight_vd));
            accumulate_product(weight_gradient_vd, &d_logits_cv, &hidden_cd);
            start += length;
        }
        self.tp.all_reduce_sum(&d_hidden_nd)?;
        let totals = Vec::<f64>::try_from(totals.to_device(tch::Device::Cpu))?;
        let [loss, hard_loss, lse, retained_mass, teacher_entropy] = totals[..] else { unreachable!("five sums") };
        Ok((Sums { loss, hard_loss, lse, retained_mass, teacher_entropy }, d_hidden_nd))
    }

    /// Sums `[5]` of a chunk and the gradient of `scale · loss` in this shard's logits, in the weight's number format.
    fn chunk(&self, objective: Objective, hidden_cd: &Tensor, targets: &Targets, scale: f64) -> Result<(Tensor, Tensor)> {
        let temperature = match objective {
            Objective::SoftCe { temperature, .. } => temperature,
            _ => 1.0,
        };
        let tail = match objective {
            Objective::SoftCe { tail, .. } => Some(tail),
            _ => None,
        };
        let mut z_cv = hidden_cd.matmul(&self.weight_vd.tr()).to_kind(Kind::Float);
        let (labels_c1, own_label_c1) = self.local(&targets.labels_n.unsqueeze(1));
        let own_ids = targets.teacher.as_ref().map(|teacher| self.local(&teacher.ids_nk));

        // This shard's numbers, a column each.
        let max_c1 = z_cv.amax([-1], true);
        let label_z_c1 = z_cv.gather(1, &labels_c1, false) * &own_label_c1;
        let z_ck = own_ids.as_ref().map(|(ids_ck, own_ck)| z_cv.gather(1, ids_ck, false) * own_ck);
        let sum_z_c1 = if tail == Some(Tail::Uniform) { row_sum(&z_cv) } else { max_c1.zeros_like() };
        let _ = z_cv.g_sub_(&max_c1);
        let hard_exp_c1 = if temperature == 1.0 { None } else { Some(row_sum(&z_cv.exp())) };
        if temperature != 1.0 {
            let _ = z_cv.g_div_scalar_(temperature);
        }
        let mut exp_cv = z_cv.exp_();
        let (sum_exp_c1, outside_exp_c1) = match (&own_ids, tail) {
            (Some((ids_ck, own_ck)), Some(Tail::Bucket)) => {
                // Summed without the k ids rather than by subtraction: exact when almost all mass is on them.
                let inside_ck = exp_cv.gather(1, ids_ck, false) * own_ck;
                let _ = exp_cv.scatter_add_(1, ids_ck, &-&inside_ck);
                let outside_c1 = row_sum(&exp_cv.clamp_min(0.0));
                let _ = exp_cv.scatter_add_(1, ids_ck, &inside_ck);
                (&outside_c1 + row_sum(&inside_ck), outside_c1)
            }
            _ => (row_sum(&exp_cv), max_c1.zeros_like()),
        };
        let zero = max_c1.zeros_like();
        let (dot_c1, difference_c1, square_c1) = match (&targets.teacher, &z_ck, &own_ids) {
            (Some(teacher), Some(z_ck), Some((_, own_ck))) => {
                let difference_ck = (z_ck - &teacher.logits_nk) * own_ck;
                // −∞ logprobs carry no weight.
                let dot = row_sum(&(teacher.logprobs_nk.exp() * z_ck)) / temperature;
                let square = row_sum(&difference_ck.square());
                (dot, row_sum(&difference_ck), square)
            }
            _ => (zero.shallow_clone(), zero.shallow_clone(), zero.shallow_clone()),
        };
        let hard_exp_c1 = hard_exp_c1.unwrap_or_else(|| sum_exp_c1.shallow_clone());
        let inside_z_c1 = z_ck.as_ref().map_or_else(|| zero.shallow_clone(), row_sum);
        let mine = Tensor::cat(
            &[
                &max_c1,
                &sum_exp_c1,
                &hard_exp_c1,
                &outside_exp_c1,
                &label_z_c1,
                &dot_c1,
                &difference_c1,
                &square_c1,
                &(sum_z_c1 - inside_z_c1),
            ],
            1,
        );

        // One exchange, merged as in online softmax.
        let all_rcs = self.tp.all_gather(&mine)?;
        let column = |index: i64| all_rcs.select(2, index).unsqueeze(-1);
        let sum = |of: &Tensor| of.sum_dim_intlist(0, false, Kind::Float);
        let top_c1 = column(0).amax([0], false);
        let shift = (column(0) - &top_c1) / temperature;
        let total_exp_c1 = sum(&(column(1) * shift.exp()));
        let lse_c1 = &top_c1 / temperature + total_exp_c1.log();
        let hard_lse_c1 = &top_c1 + sum(&(column(2) * (column(0) - &top_c1).exp())).log();
        let outside_c1 = (sum(&(column(3) * shift.exp())) / &total_exp_c1).clamp_min(f64::from(f32::MIN_POSITIVE));
        let [label_z_c1, dot_c1, difference_c1, square_c1, outside_z_c1] = [4, 5, 6, 7, 8].map(|i| sum(&column(i)));
        let hard_loss_c1 = &hard_lse_c1 - &label_z_c1;
        // p of this shard is exp_cv · probability_c1.
        let probability_c1 = ((&max_c1 - &top_c1) / temperature).exp() / &total_exp_c1;

        let (loss_c1, d_logits_cv) = match (objective, &targets.teacher, own_ids) {
            (Objective::SoftCe { tail, .. }, Some(teacher), Some((ids_ck, own_ck))) => {
                let weights_ck = teacher.logprobs_nk.exp();
                let mass_c1 = row_sum(&weights_ck);
                let rest_c1 = (-&mass_c1 + 1.0).clamp_min(0.0);
                let g = scale / temperature;
                let (loss_c1, softmax_c1, constant_c1, sparse_ck) = match tail {
                    Tail::Raw => (&mass_c1 * &lse_c1 - &dot_c1, mass_c1, None, -weights_ck),
                    Tail::Metaseq => (&mass_c1 * &lse_c1 - &dot_c1, mass_c1.ones_like(), None, -weights_ck),
                    Tail::Renormalize => (&lse_c1 - &dot_c1 / &mass_c1, mass_c1.ones_like(), None, -(weights_ck / &mass_c1)),
                    Tail::Uniform => {
                        let others = (self.vocab_size - teacher.ids_nk.size()[1]).max(1) as f64;
                        let each_c1 = &rest_c1 / others;
                        let total_c1 = &mass_c1 + &rest_c1;
                        let loss = &total_c1 * &lse_c1 - &dot_c1 - &each_c1 * outside_z_c1 / temperature;
                        (loss, total_c1, Some(-&each_c1), &each_c1 - weights_ck)
                    }
                    Tail::Bucket => {
                        // Outside the k ids p·(M − R·P/(1 − P)); on them p·(M + R) − w. Set, not corrected by a difference:
                        // that would cancel when almost all mass is inside.
                        let exp_ck = exp_cv.gather(1, &ids_ck, false) * &own_ck;
                        let _ = exp_cv.scatter_add_(1, &ids_ck, &-&exp_ck);
                        let loss = &mass_c1 * &lse_c1 - &dot_c1 - &rest_c1 * outside_c1.log();
                        let inside_c1 = -&outside_c1 + 1.0;
                        let on_ids_ck = exp_ck * &probability_c1 * (&mass_c1 + &rest_c1) - weights_ck;
                        (loss, &mass_c1 - &rest_c1 * inside_c1 / &outside_c1, None, on_ids_ck)
                    }
                };
                let _ = exp_cv.g_mul_(&(softmax_c1 * &probability_c1 * g));
                if let Some(constant_c1) = constant_c1 {
                    let _ = exp_cv.g_add_(&(constant_c1 * g));
                }
                let _ = exp_cv.scatter_add_(1, &ids_ck, &(sparse_ck * own_ck * g));
                (loss_c1, exp_cv)
            }
            (Objective::LogitMse { centered, mse_mean }, Some(teacher), Some((ids_ck, own_ck))) => {
                let k = teacher.ids_nk.size()[1] as f64;
                let reduction = if mse_mean { 1.0 / k } else { 1.0 };
                let mut difference_ck = z_ck.expect("gathered with the ids") - &teacher.logits_nk;
                let mut loss_c1 = square_c1;
                if centered {
                    difference_ck -= &difference_c1 / k;
                    loss_c1 -= difference_c1.square() / k;
                }
                let _ = exp_cv.zero_();
                let _ = exp_cv.scatter_add_(1, &ids_ck, &(difference_ck * own_ck * (2.0 * reduction * scale)));
                (loss_c1 * reduction, exp_cv)
            }
            _ => {
                let _ = exp_cv.g_mul_(&(&probability_c1 * scale));
                let _ = exp_cv.scatter_add_(1, &labels_c1, &(own_label_c1 * -scale));
                (hard_loss_c1.shallow_clone(), exp_cv)
            }
        };
        let (mass, entropy) = match &targets.teacher {
            Some(teacher) => teacher.mass_and_entropy(),
            None => (zero.shallow_clone(), zero.shallow_clone()),
        };
        let sums = [loss_c1, hard_loss_c1, hard_lse_c1, mass, entropy].map(|x| x.sum(Kind::Double));
        Ok((Tensor::stack(&sums, 0), d_logits_cv.to_kind(self.weight_vd.kind())))
    }

    /// What held-out text needs of N rows: nats of the label, the most likely id and its probability, each `[N]`.
    pub fn predict(&self, hidden_nd: &Tensor, labels_n: &Tensor) -> Result<Prediction> {
        let _guard = tch::no_grad_guard();
        let (mut nll, mut top, mut confidence) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = CHUNK.min(count - start);
            let z_cv = hidden_nd.narrow(0, start, length).matmul(&self.weight_vd.tr()).to_kind(Kind::Float);
            let (labels_c1, own_c1) = self.local(&labels_n.narrow(0, start, length).unsqueeze(1));
            let (max_c1, argmax_c1) = z_cv.max_dim(-1, true);
            let mine = Tensor::cat(
                &[
                    &max_c1,
                    &row_sum(&(&z_cv - &max_c1).exp()),
                    &(z_cv.gather(1, &labels_c1, false) * own_c1),
                    &(argmax_c1 + self.vocab_start).to_kind(Kind::Float),
                ],
                1,
            );
            let all_rcs = self.tp.all_gather(&mine)?;
            let column = |index: i64| all_rcs.select(2, index);
            let (best_c, winner_c) = column(0).max_dim(0, false);
            let exp_c = (column(1) * (column(0) - &best_c).exp()).sum_dim_intlist(0, false, Kind::Float);
            nll.push(&best_c + exp_c.log() - column(2).sum_dim_intlist(0, false, Kind::Float));
            top.push(column(3).gather(0, &winner_c.unsqueeze(0), false).squeeze_dim(0).to_kind(Kind::Int64));
            confidence.push(exp_c.reciprocal());
            start += length;
        }
        Ok(Prediction { nll_n: Tensor::cat(&nll, 0), top_n: Tensor::cat(&top, 0), confidence_n: Tensor::cat(&confidence, 0) })
    }

    /// The k most likely ids of each of N rows, best first: `(ids [N, k] i64, logits [N, k] f32, lse [N, τ] f32)`, lse being
    /// logsumexp(z/τ) at each of `temperatures`.
    pub fn top_k(&self, hidden_nd: &Tensor, k: i64, temperatures: &[f64]) -> Result<(Tensor, Tensor, Tensor)> {
        let _guard = tch::no_grad_guard();
        let (mut ids, mut logits, mut lses) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = CHUNK.min(count - start);
            let z_cv = hidden_nd.narrow(0, start, length).matmul(&self.weight_vd.tr()).to_kind(Kind::Float);
            let here = k.min(z_cv.size()[1]);
            let (mut best_ck, mut best_ids_ck) = z_cv.topk(here, -1, true, true);
            best_ids_ck += self.vocab_start;
            if self.tp.size > 1 {
                // A shard may hold fewer than k rows; what is missing can never win.
                let pad = [0, k - here];
                let values_rck = self.tp.all_gather(&best_ck.constant_pad_nd(pad).masked_fill(
                    &Tensor::arange(k, (Kind::Int64, z_cv.device())).ge(here).expand([length, k], false),
                    f64::NEG_INFINITY,
                ))?;
                let ids_rck = self.tp.all_gather(&best_ids_ck.constant_pad_nd(pad))?;
                let flat = |t: Tensor| t.permute([1, 0, 2]).reshape([length, -1]);
                let (values, order) = flat(values_rck).topk(k, -1, true, true);
                best_ids_ck = flat(ids_rck).gather(1, &order, false);
                best_ck = values;
            }
            let lse: Vec<Tensor> = temperatures
                .iter()
                .map(|&temperature| {
                    let local = (&z_cv / temperature).logsumexp([-1], true);
                    Ok(self.tp.all_gather(&local)?.logsumexp([0], false))
                })
                .collect::<Result<_>>()?;
            ids.push(best_ids_ck);
            logits.push(best_ck);
            lses.push(Tensor::cat(&lse, 1));
            start += length;
        }
        Ok((Tensor::cat(&ids, 0), Tensor::cat(&logits, 0), Tensor::cat(&lses, 0)))
    }

    /// Global ids as rows of this shard, and 1 where it holds them (else row 0 and 0).
    fn local(&self, ids: &Tensor) -> (Tensor, Tensor) {
        if self.tp.size == 1 {
            return (ids.shallow_clone(), ids.ones_like().to_kind(Kind::Float));
        }
        let local = ids - self.vocab_start;
        let own = local.ge(0).logical_and(&local.lt(self.weight_vd.size()[0]));
        (local.masked_fill(&own.logical_not(), 0), own.to_kind(Kind::Float))
    }
}

/// See [`Head::predict`].
pub struct Prediction {
    pub nll_n: Tensor,
    pub top_n: Tensor,
    pub confidence_n: Tensor,
}

impl TopK {
    /// The targets as a cache holds them, at `temperature`: log-probabilities from logits and their lse `[N, 1]` there.
    pub fn from_logits(ids_nk: Tensor, logits_nk: Tensor, lse_n1: &Tensor, temperature: f64) -> Self {
        let logprobs_nk = &logits_nk / temperature - lse_n1;
        Self { ids_nk, logprobs_nk, logits_nk }
    }
}

fn row_sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(-1, true, Kind::Float)
}

/// `into += a_nvᵀ · b_nd`, accumulated in f32.
fn accumulate_product(into_vd: &Tensor, a_nv: &Tensor, b_nd: &Tensor) {
    let mut into = into_vd.shallow_clone();
    if a_nv.kind() == Kind::Float {
        let _ = into.addmm_(&a_nv.tr(), b_nd);
    } else {
        let _ = into.g_add_(&a_nv.tr().matmul(b_nd).to_kind(Kind::Float));
    }
}
