//! Negative log-likelihood of held-out documents, and accuracy and calibration with it.

use anyhow::Result;
use hydrometer_data::batch::Row;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_record::metric::{Metric, Scores};
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::Decoder;
use hydrometer_torch::model::batch::Batch;
use hydrometer_torch::objective::head::Head;
use tch::Device;

/// Equal-width bins of the top-1 probability (Guo et al. 2017 use 15).
const BINS: usize = 15;

/// Sums over the documents of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Nats and number of predicted tokens of each document.
    pub documents: Vec<(f64, u64)>,
    pub correct: u64,
    pub bytes: u64,
    /// Count, sum of confidences and number of correct predictions in each bin.
    bins: [[f64; 3]; BINS],
}

impl Evaluation {
    /// Empty sums, for a split of `documents` documents and `bytes` bytes of predicted text.
    pub fn new(documents: usize, bytes: u64) -> Self {
        Self { documents: vec![(0.0, 0); documents], correct: 0, bytes, bins: [[0.0; 3]; BINS] }
    }

    /// Adds one predicted token.
    pub fn add(&mut self, document: usize, nll: f64, confidence: f64, correct: bool) {
        let (sum, count) = &mut self.documents[document];
        *sum += nll;
        *count += 1;
        self.correct += u64::from(correct);
        let bin = &mut self.bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin[0] += 1.0;
        bin[1] += confidence;
        bin[2] += f64::from(u8::from(correct));
    }

    /// Number of predicted tokens.
    pub fn tokens(&self) -> u64 {
        self.documents.iter().map(|(_, tokens)| tokens).sum()
    }

    /// Summed negative log-likelihood, in nats.
    pub fn nll_sum(&self) -> f64 {
        self.documents.iter().map(|(nll, _)| nll).sum()
    }

    /// Mean nats per predicted token.
    pub fn nll(&self) -> f64 {
        self.nll_sum() / self.tokens() as f64
    }

    /// Negative log-likelihood in bits per byte of predicted text.
    fn bits_per_byte(&self) -> f64 {
        self.nll_sum() / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Share of tokens whose most likely id is the label, in [0, 1].
    fn token_accuracy(&self) -> f64 {
        self.correct as f64 / self.tokens() as f64
    }

    /// Expected calibration error of the most likely token, in [0, 1].
    fn ece(&self) -> f64 {
        self.bins.iter().map(|[_, confidence, correct]| (confidence - correct).abs()).sum::<f64>() / self.tokens() as f64
    }

    /// Each metric that is measured on the labels.
    pub fn scores(&self) -> Scores {
        Scores::of([
            (Metric::Nll, self.nll()),
            (Metric::BitsPerByte, self.bits_per_byte()),
            (Metric::TokenAccuracy, self.token_accuracy()),
            (Metric::Ece, self.ece()),
        ])
    }

    /// Adds up the sums of all data-parallel ranks.
    fn reduce(&mut self, mesh: &Mesh) -> Result<()> {
        let mut numbers: Vec<f64> = self.documents.iter().flat_map(|&(nll, tokens)| [nll, tokens as f64]).collect();
        numbers.push(self.correct as f64);
        numbers.extend(self.bins.iter().flatten());
        mesh.dp.sum(&mut numbers, mesh.device)?;
        let mut rest = numbers.into_iter();
        let mut next = || rest.next().expect("as many numbers as went in");
        self.documents.iter_mut().for_each(|document| *document = (next(), next() as u64));
        self.correct = next() as u64;
        self.bins.iter_mut().flatten().for_each(|number| *number = next());
        Ok(())
    }
}

/// Evaluates `decoder` on all sequences of `split`, each with its own context.
pub fn evaluate(decoder: &Decoder, vocab_size: usize, split: &TokenizedSplit, context: usize, mesh: &Mesh) -> Result<Evaluation> {
    let rows: Vec<Row> = sequences(split, context).into_iter().map(Row::counted).collect();
    evaluate_rows(decoder, vocab_size, split, &rows, context, mesh)
}

/// Evaluates `decoder` on the targets that count in `rows`, each row of at most `context` tokens.
pub fn evaluate_rows(
    decoder: &Decoder,
    vocab_size: usize,
    split: &TokenizedSplit,
    rows: &[Row],
    context: usize,
    mesh: &Mesh,
) -> Result<Evaluation> {
    let _guard = tch::no_grad_guard();
    let mut sum = Evaluation::new(split.len(), split.bytes.iter().sum());
    let mine: Vec<Row> = rows.iter().copied().skip(mesh.dp.rank).step_by(mesh.dp.size).collect();
    let head =
        Head { weight_vd: decoder.head_weight(), vocab_start: decoder.vocab_start, vocab_size: vocab_size as i64, tp: &mesh.tp };
    for chunk in mine.chunks(decoder.rows_per_forward(context, 0)) {
        let batch = Batch::new(chunk, split, mesh.device);
        let hidden = decoder.forward(&batch.inputs_bt, &mesh.tp)?;
        let hidden_nd = hidden.flatten(0, 1).index_select(0, &batch.positions_n);
        let found = head.predict(&hidden_nd, &batch.labels_n)?;
        let nll = Vec::<f64>::try_from(found.nll_n.to_device(Device::Cpu))?;
        let confidence = Vec::<f64>::try_from(found.confidence_n.to_device(Device::Cpu))?;
        let correct = Vec::<bool>::try_from(found.top_n.eq_tensor(&batch.labels_n).to_device(Device::Cpu))?;
        let documents = chunk.iter().flat_map(|row| std::iter::repeat_n(row.sequence.document, row.targets()));
        for (index, document) in documents.enumerate() {
            sum.add(document, nll[index], confidence[index], correct[index]);
        }
    }
    sum.reduce(mesh)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: by hand. Of 15 bins, the two tokens at 0.9 share one, with one correct: |0.9 − 0.5| for two of four tokens. The
    /// two at 0.5 share another, with one correct, which is calibrated. A certain and correct token has no error.
    #[test]
    fn calibration_error_is_the_gap_between_confidence_and_accuracy() {
        let mut found = Evaluation::new(1, 1);
        for (confidence, correct) in [(0.9, true), (0.9, false), (0.5, true), (0.5, false)] {
            found.add(0, 1.0, confidence, correct);
        }
        assert!((found.ece() - 2.0 * 0.4 / 4.0).abs() < 1e-12, "{}", found.ece());
        assert_eq!(found.token_accuracy(), 0.5);
        let mut sure = Evaluation::new(1, 1);
        sure.add(0, 0.0, 1.0, true);
        assert_eq!(sure.ece(), 0.0);
    }
}
