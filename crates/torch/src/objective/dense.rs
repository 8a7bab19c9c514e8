//! A chunk whose teacher gives every id, or whose target does: its losses and the gradient in place, row by row in the CPU kernels.
//!
//! A row is walked three times: for the sums of exponentials, for the sums over the divergence's terms, and for the gradient. On one
//! vocabulary shard the three follow each other on a row that is still in the cache. On several, the sums of all rows are exchanged
//! between the walks; the arithmetic of a row is the same.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::exchange::{LogSumExp, merge};
use super::listed_ids::ListedColumns;
use super::logit_gradient::LogitGradient;
use super::targets::{Ids, Teacher};
use super::terms::Weights;
use super::{Loss, Objective, Tail};
use crate::dist::ProcessGroup;
use crate::kernels::dense::{
    Divergence, LogSum, Measured, Pair, RowGradient, Softmax, dense_fit, difference, for_each_row, measure, slope, write_gradient,
};

/// A chunk's dense targets, and the loss on them.
pub struct Dense<'a> {
    /// `[C, v]`: log-probabilities or logits; +∞ at ids that the teacher does not list.
    y_cv: Tensor,
    /// ln of the weight of an id that the teacher does not list, for each row; `None` if it lists all.
    unlisted: Option<Vec<f64>>,
    rule: Rule,
    shard: Shard<'a>,
}

/// A part of the vocabulary.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    pub vocab_start: i64,
    /// Of the whole vocabulary.
    pub vocab_size: i64,
    pub tp: &'a ProcessGroup,
}

/// The loss of a row of targets y, and the factor of its gradient.
#[derive(Clone, Copy)]
struct Rule {
    loss: Loss,
    divergence: Divergence,
    /// Whether y are log-probabilities at the objective's temperature, and not logits.
    given_logprobs: bool,
    vocab_size: f64,
    scale: f64,
    /// 1 on one of the shards, else 0: the factor of what every shard knows.
    once: f64,
}

/// The sums of a row that need no others.
#[derive(Clone, Copy)]
struct First {
    student: LogSum,
    /// Of the student at τ = 1.
    plain: LogSum,
    /// Of the targets: at the objective's temperature if they are logits.
    teacher: LogSum,
    /// The student's largest logit, and the target there.
    largest: (f32, f32),
    /// Σ (z − y), if centred.
    difference: f64,
}

/// The label of a row.
#[derive(Clone, Copy)]
struct Label {
    /// In this shard.
    column: Option<usize>,
    /// Its logit, if it is in this shard.
    z: Option<f64>,
}

impl<'a> Dense<'a> {
    /// `scale` times the loss on the targets of `teacher`, if they are dense and the kernels can process them beside `z_cv`.
    pub fn of(shard: Shard<'a>, loss: &Loss, z_cv: &Tensor, teacher: &Teacher, scale: f64) -> Option<Self> {
        if !matches!(teacher.ids, Ids::All) {
            return None;
        }
        let logprobs = teacher.logprobs_nk.as_ref().filter(|_| !loss.objective.compares_logits());
        let rule = Rule::of(shard, loss, logprobs.is_some(), scale)?;
        let y_cv = logprobs.or(teacher.logits_nk.as_ref())?;
        dense_fit(z_cv, y_cv).then(|| Self { y_cv: y_cv.shallow_clone(), unlisted: None, rule, shard })
    }

    /// The same for a teacher that lists some ids with `weights`, while its mass on the others is spread evenly over them.
    pub fn spread(
        shard: Shard<'a>,
        loss: &Loss,
        z_cv: &Tensor,
        teacher: &Teacher,
        weights: &Weights,
        scale: f64,
    ) -> Option<Self> {
        let logprobs_ck = teacher.logprobs_nk.as_ref().filter(|logprobs| dense_fit(z_cv, logprobs))?;
        let own = ListedColumns::of(&teacher.ids, z_cv, shard.vocab_start);
        if own.is_all() {
            return None;
        }
        let rule = Rule::of(shard, loss, true, scale)?;
        let unlisted = Vec::<f64>::try_from(weights.log_each(loss.objective.min_tail_mass()).flatten(0, -1)).ok()?;
        let y_cv = own.filled(z_cv.size()[1], &logprobs_ck.to_kind(Kind::Float), f64::INFINITY);
        Some(Self { y_cv, unlisted: Some(unlisted), rule, shard })
    }

    /// The losses of the tokens and the gradient parts, as the head takes them of a chunk.
    pub fn chunk(&self, z_cv: Tensor, labels_n: &Tensor) -> Result<(Tensor, LogitGradient)> {
        let Self { y_cv, unlisted, rule, shard } = self;
        let width = z_cv.size()[1];
        let labels = Vec::<i64>::try_from(labels_n)?;
        let column = |label: i64| (0..width).contains(&(label - shard.vocab_start)).then(|| (label - shard.vocab_start) as usize);
        let columns: Vec<Option<usize>> = labels.into_iter().map(column).collect();
        let label = |row: usize, z: &[f32]| Label { column: columns[row], z: columns[row].map(|column| f64::from(z[column])) };
        let unlisted = |row: usize| unlisted.as_ref().map_or(0.0, |unlisted| unlisted[row]);
        let measured = if shard.tp.size == 1 {
            for_each_row(&z_cv, y_cv, |row, z, y| {
                let (label, first) = (label(row, z), rule.first(z, y));
                let pair = rule.pair(&first, unlisted(row));
                let own = measure(z, y, pair);
                rule.finish(z, y, label, &first, pair, own, own)
            })
        } else {
            let first = rule.merged(shard.tp, &for_each_row(&z_cv, y_cv, |_, z, y| rule.first(z, y)))?;
            let pairs: Vec<Pair> = first.iter().enumerate().map(|(row, first)| rule.pair(first, unlisted(row))).collect();
            let own = for_each_row(&z_cv, y_cv, |row, z, y| measure(z, y, pairs[row]));
            let whole = summed(shard.tp, &own)?;
            for_each_row(&z_cv, y_cv, |row, z, y| rule.finish(z, y, label(row, z), &first[row], pairs[row], own[row], whole[row]))
        };
        Ok((table(&measured), LogitGradient::Written(z_cv)))
    }
}

impl Rule {
    /// `None` if the loss is not one of dense targets.
    fn of(shard: Shard, loss: &Loss, given_logprobs: bool, scale: f64) -> Option<Self> {
        let divergence = match loss.objective {
            Objective::SoftCe { .. } => Divergence::CrossEntropy,
            Objective::KlForward { skew, .. } => Divergence::Forward { skew },
            Objective::KlReverse { skew, .. } => Divergence::Reverse { skew },
            Objective::Jsd { beta, .. } => Divergence::Jsd { beta },
            Objective::LogitMse { .. } => Divergence::Squared { mean: 0.0 },
            // An estimate takes one id of a token, which its targets list.
            Objective::HardCe { .. } | Objective::SampledKl { .. } | Objective::LogprobMse { .. } => return None,
        };
        let once = if shard.tp.rank == 0 { 1.0 } else { 0.0 };
        Some(Self { loss: *loss, divergence, given_logprobs, vocab_size: shard.vocab_size as f64, scale, once })
    }

    fn inverse_temperature(&self) -> f64 {
        1.0 / self.loss.objective.temperature().unwrap_or(1.0)
    }

    /// By what the targets are multiplied before their softmax.
    fn teacher_inverse_temperature(&self) -> f64 {
        if self.given_logprobs { 1.0 } else { self.inverse_temperature() }
    }

    /// Whether the teacher's weights are scaled to sum to one; weights that are given as such sum to one only up to rounding.
    fn normalizes(&self) -> bool {
        !self.given_logprobs || matches!(self.loss.objective.tail(), Some(Tail::Renormalize | Tail::DoubleRenormalize))
    }

    fn first(&self, z: &[f32], y: &[f32]) -> First {
        let inverse = self.inverse_temperature();
        let student = LogSum::of(z, inverse);
        let plain = if inverse == 1.0 { student } else { LogSum::of(z, 1.0) };
        let teacher =
            if self.normalizes() { LogSum::of(y, self.teacher_inverse_temperature()) } else { LogSum { max: 0.0, sum: 0.0 } };
        let centered = matches!(self.loss.objective, Objective::LogitMse { centered: true, .. });
        let largest = z.iter().position(|&z| f64::from(z) == student.max).map_or((0.0, 0.0), |column| (z[column], y[column]));
        First { student, plain, teacher, largest, difference: if centered { difference(z, y) } else { 0.0 } }
    }

    /// The sums of all shards' rows.
    fn merged(&self, tp: &ProcessGroup, own: &[First]) -> Result<Vec<First>> {
        let numbers = |of: &First| {
            let First { student, plain, teacher, largest, difference } = *of;
            let (z, y) = (f64::from(largest.0), f64::from(largest.1));
            [student.max, student.sum, plain.max, plain.sum, teacher.max, teacher.sum, z, y, difference]
        };
        let all = tp.all_gather(&table(&own.iter().map(numbers).collect::<Vec<_>>()))?;
        let all = Vec::<f64>::try_from(all.to_kind(Kind::Double).flatten(0, -1))?;
        let shards: Vec<&[[f64; 9]]> = all.as_chunks::<9>().0.chunks(own.len()).collect();
        let (student, teacher) = (self.inverse_temperature(), self.teacher_inverse_temperature());
        let row = |row: usize| {
            let sets = |at: usize, inverse_temperature: f64| {
                let max = shards.iter().map(|shard| shard[row][at]).fold(f64::NEG_INFINITY, f64::max);
                let sum =
                    shards.iter().map(|shard| shard[row][at + 1] * ((shard[row][at] - max) * inverse_temperature).exp()).sum();
                LogSum { max, sum }
            };
            // The first shard that has it, so that all choose the same.
            let first = |so_far: usize, shard: usize| if shards[shard][row][6] > shards[so_far][row][6] { shard } else { so_far };
            let found = shards[(0..shards.len()).fold(0, first)][row];
            let difference = shards.iter().map(|shard| shard[row][8]).sum();
            First {
                student: sets(0, student),
                plain: sets(2, 1.0),
                teacher: sets(4, teacher),
                largest: (found[6] as f32, found[7] as f32),
                difference,
            }
        };
        Ok((0..own.len()).map(row).collect())
    }

    fn pair(&self, first: &First, unlisted: f64) -> Pair {
        let softmax = |of: LogSum, inverse_temperature: f64| Softmax {
            inverse_temperature,
            max: of.max,
            log_sum: of.sum.max(f64::MIN_POSITIVE).ln(),
        };
        let divergence = match self.divergence {
            Divergence::Squared { .. } => Divergence::Squared { mean: first.difference / self.vocab_size },
            other => other,
        };
        let teacher = if self.normalizes() {
            softmax(first.teacher, self.teacher_inverse_temperature())
        } else {
            Softmax { inverse_temperature: 1.0, max: 0.0, log_sum: 0.0 }
        };
        let student = softmax(first.student, self.inverse_temperature());
        let pair = Pair { student, teacher, unlisted, divergence, shift: 0.0 };
        Pair { shift: slope(first.largest.0, first.largest.1, pair), ..pair }
    }

    /// Writes the gradient of a row, whose sums are `own` in this shard and `whole` in all. Returns this shard's part of its losses:
    /// a row of the head's `[C, 5]`.
    #[expect(clippy::too_many_arguments, reason = "a row, what is known of it, and the sums of this shard and of all")]
    fn finish(
        &self,
        z: &mut [f32],
        y: &[f32],
        label: Label,
        first: &First,
        pair: Pair,
        own: Measured,
        whole: Measured,
    ) -> [f64; 5] {
        let Loss { objective, .. } = self.loss;
        let (weight, hard_weight) = (self.loss.objective_weight(), self.loss.hard_weight());
        let mean = if matches!(objective, Objective::LogitMse { mse_mean: true, .. }) { 1.0 / self.vocab_size } else { 1.0 };
        let t_sum = match objective {
            Objective::LogitMse { .. } => 0.0,
            // As in metaseq: p − w, where the weights do not sum to one.
            Objective::SoftCe { tail: Tail::Metaseq, .. } => -1.0,
            _ => whole.t,
        };
        let plain_log_sum = first.plain.sum.max(f64::MIN_POSITIVE).ln();
        let hard_softmax = Softmax { inverse_temperature: 1.0, max: first.plain.max, log_sum: plain_log_sum };
        let factor = self.scale * weight * self.inverse_temperature() * mean;
        let gradient = RowGradient { factor, t_sum, hard: self.scale * hard_weight, hard_softmax, label: label.column };
        write_gradient(z, y, pair, gradient);

        let hard_loss = label.z.map_or(0.0, |z| plain_log_sum + (first.plain.max - z));
        let [mass, entropy] = self.teacher_sums(first, whole);
        let value = own.value * mean * weight + hard_loss * hard_weight;
        [value, hard_loss, (first.plain.max + plain_log_sum) * self.once, mass * self.once, entropy * self.once]
    }

    /// Σ w and −Σ w ln w of the weights as given.
    fn teacher_sums(&self, first: &First, scaled: Measured) -> [f64; 2] {
        if !(self.given_logprobs && self.normalizes()) {
            return [scaled.mass, scaled.entropy];
        }
        let log_mass = first.teacher.max + first.teacher.sum.max(f64::MIN_POSITIVE).ln();
        [log_mass.exp(), log_mass.exp() * (scaled.entropy - log_mass * scaled.mass)]
    }
}

/// Whether `objective` needs log-probabilities of a teacher that gives the logits of all ids.
pub fn lacks_logprobs(teacher: &Teacher, objective: Objective) -> bool {
    matches!(teacher.ids, Ids::All) && teacher.logprobs_nk.is_none() && !objective.compares_logits()
}

/// The teacher with log-probabilities at `temperature`, from its logits of all ids. A collective call on `tp`.
pub fn with_logprobs(teacher: &Teacher, temperature: f64, tp: &ProcessGroup) -> Result<Teacher> {
    let logits_nk = teacher.logits_nk.as_ref().expect("checked: a teacher gives logprobs or logits");
    let y_nk = logits_nk.to_kind(Kind::Double) / temperature;
    let (sets, _) = merge(tp, vec![LogSumExp::among(&y_nk, &y_nk.ones_like())], vec![])?;
    let logprobs_nk = Some(y_nk - sets[0].value());
    Ok(Teacher { ids: Ids::All, logprobs_nk, logits_nk: Some(logits_nk.shallow_clone()) })
}

/// `[C, N]`.
fn table<const N: usize>(rows: &[[f64; N]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened()).view([rows.len() as i64, N as i64])
}

fn summed(tp: &ProcessGroup, own: &[Measured]) -> Result<Vec<Measured>> {
    let sums = table(&own.iter().map(|of| [of.value, of.t, of.mass, of.entropy]).collect::<Vec<_>>());
    tp.all_reduce_sum(&sums)?;
    let sums = Vec::<f64>::try_from(sums.flatten(0, -1))?;
    Ok(sums.as_chunks::<4>().0.iter().map(|&[value, t, mass, entropy]| Measured { value, t, mass, entropy }).collect())
}
