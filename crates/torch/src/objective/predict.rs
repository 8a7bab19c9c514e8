//! Predictions of a head, for evaluation: the label's cross-entropy, and the most likely ids.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::exchange::row_sum;
use super::head::Head;
use super::listed_ids::columns;

impl Head<'_> {
    /// Evaluates N rows of held-out text: the label's nats, the most likely id and its probability, each `[N]`.
    pub fn predict(&self, hidden_nd: &Tensor, labels_n: &Tensor) -> Result<Prediction> {
        let _guard = tch::no_grad_guard();
        let (mut nll, mut top, mut confidence) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = self.chunk_length().min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let (labels_c1, own_c1) = columns(&labels_n.narrow(0, start, length).unsqueeze(1), self.vocab_start, z_cv.size()[1]);
            let (max_c1, argmax_c1) = z_cv.max_dim(-1, true);
            let mine = Tensor::cat(
                &[
                    &max_c1,
                    &row_sum(&(&z_cv - &max_c1).exp()),
                    &(z_cv.gather(1, &labels_c1, false) * own_c1.to_kind(Kind::Float)),
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

    /// The k most likely ids of each of N rows, best first: `(ids [N, k] i64, logits [N, k] f32, lse [N, T] f32)`, where lse is
    /// logsumexp(z/τ) at each of the T `temperatures`.
    pub fn top_k(&self, hidden_nd: &Tensor, k: i64, temperatures: &[f64]) -> Result<(Tensor, Tensor, Tensor)> {
        let _guard = tch::no_grad_guard();
        let (mut ids, mut logits, mut lses) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = self.chunk_length().min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let here = k.min(z_cv.size()[1]);
            let (mut best_ck, mut best_ids_ck) = z_cv.topk(here, -1, true, true);
            best_ids_ck += self.vocab_start;
            if self.tp.size > 1 {
                // A shard may hold fewer than k rows; the padding never wins.
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
}

/// The result of [`Head::predict`].
pub struct Prediction {
    pub nll_n: Tensor,
    pub top_n: Tensor,
    pub confidence_n: Tensor,
}
