//! Fidelity: how close a student's distribution is to its teacher's on held-out text.

use anyhow::Result;
use hydrometer_data::batch::Row;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_record::metric::{Metric, Scores};
use hydrometer_torch::dist::{Mesh, part};
use hydrometer_torch::model::Decoder;
use hydrometer_torch::model::batch::Batch;
use hydrometer_torch::objective::rows;
use tch::{Kind, Tensor};

/// Number of most likely ids whose overlap is measured.
pub const TOP: i64 = 10;
/// Number of logits of one model that exist at a time. The comparison holds several tensors of this size.
const LOGITS: i64 = 8 << 20;

/// Means over predicted tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Fidelity {
    pub tokens: u64,
    pub scores: Scores,
}

/// A decoder and the number of ids in its vocabulary.
pub struct Model<'a> {
    pub decoder: &'a Decoder,
    pub vocab_size: usize,
}

/// Compares `student` with `teacher` on all sequences of `split`, each with its own context. Ids that only one of them has are
/// padding: the teacher's probabilities are normalised over the ids that both have.
pub fn fidelity(student: &Model, teacher: &Model, split: &TokenizedSplit, context: usize, mesh: &Mesh) -> Result<Fidelity> {
    let _guard = tch::no_grad_guard();
    let rows = sequences(split, context).into_iter().map(Row::counted);
    let mine: Vec<Row> = rows.skip(mesh.dp.rank).step_by(mesh.dp.size).collect();
    let common = student.vocab_size.min(teacher.vocab_size) as i64;
    let at_a_time = (LOGITS / common).max(1);
    let mut sums = [0.0; 4];
    let [own, theirs] = [student, teacher].map(|model| model.decoder.rows_per_forward(context, 0));
    for chunk in mine.chunks(own.min(theirs)) {
        let batch = Batch::new(chunk, split, mesh.device);
        let hidden = |model: &Model| -> Result<Tensor> {
            let hidden = model.decoder.forward(&batch.inputs_bt, &mesh.tp)?;
            Ok(hidden.flatten(0, 1).index_select(0, &batch.positions_n))
        };
        let (student_nd, teacher_nd) = (hidden(student)?, hidden(teacher)?);
        let count = batch.positions_n.size()[0];
        for start in (0..count).step_by(at_a_time as usize) {
            let length = at_a_time.min(count - start);
            let q_nv = teacher.logits(&teacher_nd.narrow(0, start, length), mesh)?.narrow(1, 0, common);
            let z_nv = student.logits(&student_nd.narrow(0, start, length), mesh)?;
            let [kl, agreement, overlap] = compare(&q_nv, &z_nv);
            sums.iter_mut().zip([length as f64, kl, agreement, overlap]).for_each(|(sum, found)| *sum += found);
        }
    }
    mesh.dp.sum(&mut sums, mesh.device)?;
    let [tokens, kl, agreement, overlap] = sums;
    let scores = Scores::of([
        (Metric::KlToTeacher, kl / tokens),
        (Metric::Top1Agreement, agreement / tokens),
        (Metric::Top10Overlap, overlap / tokens),
    ]);
    Ok(Fidelity { tokens: tokens as u64, scores })
}

impl Model<'_> {
    /// All logits `[N, V]` for hidden states `[N, d]`, f32, on every rank.
    fn logits(&self, hidden_nd: &Tensor, mesh: &Mesh) -> Result<Tensor> {
        let own_nv = hidden_nd.matmul(&self.decoder.head_weight().tr()).to_kind(Kind::Float);
        if mesh.tp.size == 1 {
            return Ok(own_nv);
        }
        let share = |rank: usize| part(self.vocab_size as i64, rank, mesh.tp.size).1;
        // The first rank's shard is the largest.
        let all_rnw = mesh.tp.all_gather(&own_nv.constant_pad_nd([0, share(0) - own_nv.size()[1]]))?;
        let parts = (0..mesh.tp.size).map(|rank| all_rnw.get(rank as i64).narrow(1, 0, share(rank)));
        Ok(Tensor::cat(&parts.collect::<Vec<_>>(), 1))
    }
}

/// Sums over rows: KL(softmax(q) ‖ softmax(z)), whether the most likely id is the same, and the share of the most likely ids that
/// are. z may have ids that q lacks; they take part of its probability.
fn compare(q_nv: &Tensor, z_nv: &Tensor) -> [f64; 3] {
    let width = q_nv.size()[1];
    let k = TOP.min(width);
    let [q, z] = [q_nv, z_nv].map(|logits| rows::best(logits, k as usize, &[1.0]));
    let total = |of: Tensor| of.sum(Kind::Double).double_value(&[]);
    let agreement = total(q.columns.select(1, 0).eq_tensor(&z.columns.select(1, 0)));
    let overlap = total(q.columns.unsqueeze(2).eq_tensor(&z.columns.unsqueeze(1))) / k as f64;

    // Below the maximum of each, so that no large terms cancel.
    let x_nv = q_nv - q.max.to_kind(Kind::Float);
    let mut gap_nv = z_nv.narrow(1, 0, width) - z.max.to_kind(Kind::Float);
    gap_nv -= &x_nv;
    gap_nv *= x_nv.exp();
    let gap_n1 = gap_nv.sum_dim_intlist(-1, true, Kind::Float).to_kind(Kind::Double) / &q.exp;
    [total(z.exp.log() - q.exp.log() - gap_n1), agreement, overlap]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand. q = (1/2, 1/4, 1/4) and p = (1/4, 1/4, 1/2): KL = ½ ln 2 − ¼ ln 2.
    #[test]
    fn kl_agreement_and_overlap_follow_their_definitions() {
        let q = Tensor::from_slice(&[0.5f32, 0.25, 0.25]).log().unsqueeze(0);
        let z = Tensor::from_slice(&[0.25f32, 0.25, 0.5]).log().unsqueeze(0) + 3.0;
        let [kl, agreement, _] = compare(&q, &z);
        assert!((kl - 0.25 * std::f64::consts::LN_2).abs() < 1e-6);
        assert_eq!(agreement, 0.0);
        let [kl, agreement, overlap] = compare(&z, &z);
        assert!(kl.abs() < 1e-7);
        assert_eq!((agreement, overlap), (1.0, 1.0));
        // The student's fourth id takes half of its probability.
        let [kl, ..] = compare(&q, &Tensor::cat(&[&z, &Tensor::from_slice(&[3.0f32]).unsqueeze(0)], 1));
        assert!((kl - 1.25 * std::f64::consts::LN_2).abs() < 1e-6, "{kl}");
        let overlap = |q: &Tensor, z: &Tensor| compare(q, z)[2];
        let counted = |from: i64, to: i64| Tensor::arange_start(from, to, (Kind::Float, q.device())).unsqueeze(0);
        assert_eq!(overlap(&counted(0, 20), &counted(0, 20)), 1.0);
        assert_eq!(overlap(&counted(0, 20), &-counted(0, 20)), 0.0);
        assert_eq!(overlap(&counted(0, 20), &counted(0, 20).roll([5], [1])), 0.5);
    }
}
