//! Predictions of a head: the label's cross-entropy, and the most likely ids.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::exchange::{LogSumExp, best_of_shards, merge};
use super::head::Head;
use super::listed_ids::columns;
use super::rows;

impl Head<'_> {
    /// Evaluates N rows of held-out text: the label's nats and the probability of the most likely id (f64), and that id, each
    /// `[N]`. Of equally likely ids, the lowest counts. For a row whose logits are not finite, nats and probability are NaN.
    pub fn predict(&self, hidden_nd: &Tensor, labels_n: &Tensor) -> Result<Prediction> {
        let _guard = tch::no_grad_guard();
        let (mut nll, mut top, mut confidence) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = self.chunk_length().min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let best = rows::best(&z_cv, 1, &[1.0]);
            let (labels_c1, own_c1) = columns(&labels_n.narrow(0, start, length).unsqueeze(1), self.vocab_start, z_cv.size()[1]);
            let label_z_c1 = z_cv.gather(1, &labels_c1, false).to_kind(Kind::Double).masked_fill(&own_c1.eq(0.0), 0.0);
            let (_, top_c1) = best_of_shards(self.tp, best.values, best.columns + self.vocab_start, 1)?;
            let (sets, sums) = merge(self.tp, vec![LogSumExp { max: best.max, sum: best.exp }], vec![label_z_c1])?;
            nll.push(log_sum_exp(&sets[0]) - &sums[0]);
            top.push(top_c1);
            // The sum is at least the 1 of the most likely id, or there is none.
            confidence.push(sets[0].sum.reciprocal().masked_fill(&sets[0].sum.eq(0.0), f64::NAN));
            start += length;
        }
        let all = |columns: &[Tensor]| Tensor::cat(columns, 0).squeeze_dim(1);
        Ok(Prediction { nll_n: all(&nll), top_n: all(&top), confidence_n: all(&confidence) })
    }

    /// The k most likely ids of each of N rows, best first: `(ids [N, k] i64, logits [N, k] f32, lse [N, T] f64)`, where lse is
    /// logsumexp(z/τ) at each of the T `temperatures`. Of equally likely ids, the lower comes first (on a GPU, any). For a row
    /// whose logits are not finite, neither is lse.
    pub fn top_k(&self, hidden_nd: &Tensor, k: i64, temperatures: &[f64]) -> Result<(Tensor, Tensor, Tensor)> {
        let _guard = tch::no_grad_guard();
        let (mut ids, mut logits, mut lses) = (Vec::new(), Vec::new(), Vec::new());
        let count = hidden_nd.size()[0];
        let mut start = 0;
        while start < count {
            let length = self.chunk_length().min(count - start);
            let z_cv = self.logits(&hidden_nd.narrow(0, start, length));
            let best = rows::best(&z_cv, k.min(z_cv.size()[1]) as usize, temperatures);
            let sets = temperatures.iter().enumerate().map(|(index, temperature)| LogSumExp {
                max: &best.max / *temperature,
                sum: best.exp.narrow(1, index as i64, 1),
            });
            let (sets, _) = merge(self.tp, sets.collect(), Vec::new())?;
            let (logits_ck, ids_ck) = best_of_shards(self.tp, best.values, best.columns + self.vocab_start, k)?;
            ids.push(ids_ck);
            logits.push(logits_ck);
            lses.push(Tensor::cat(&sets.iter().map(log_sum_exp).collect::<Vec<_>>(), 1));
            start += length;
        }
        Ok((Tensor::cat(&ids, 0), Tensor::cat(&logits, 0), Tensor::cat(&lses, 0)))
    }
}

/// −∞ for an empty set, whose [`LogSumExp::value`] is finite.
fn log_sum_exp(set: &LogSumExp) -> Tensor {
    &set.max + set.sum.log()
}

/// The result of [`Head::predict`].
pub struct Prediction {
    pub nll_n: Tensor,
    pub top_n: Tensor,
    pub confidence_n: Tensor,
}
