//! The batches of a run: a function of data, seed and step alone, so that every arm sees the same and a resumed run goes on
//! where it was.
//!
//! A batch holds exactly the target tokens the recipe asks for. Sequences come in an order shuffled anew each epoch; one that
//! does not fit any more is shown again in the next batch with the same context, and only the targets that are left count.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::packing::Layout;
use super::sequences::Sequence;
use super::tokens::TokenizedSplit;

/// A row of a batch as it is planned: a sequence and which of its targets count. Several may come to lie in one row of tensors:
/// see [`super::packing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub sequence: Sequence,
    pub from: usize,
    pub to: usize,
}

impl Row {
    /// All targets of a sequence, those of its prompt too.
    pub fn whole(sequence: Sequence) -> Self {
        Self { sequence, from: 0, to: sequence.targets }
    }

    /// The targets of a sequence that count.
    pub fn counted(sequence: Sequence) -> Self {
        Self { sequence, from: sequence.first, to: sequence.targets }
    }

    pub fn targets(&self) -> usize {
        self.to - self.from
    }

    /// Tokens that are read for them, from the beginning of the sequence.
    pub fn inputs(&self) -> usize {
        self.to
    }
}

/// The rows of every batch: `tokens` targets in all, `batch` of them a batch (the last may hold fewer). Some target must count.
pub fn plan(sequences: &[Sequence], tokens: u64, batch: u64, seed: u64) -> Vec<Vec<Row>> {
    let mut batches = Vec::new();
    let (mut rows, mut room) = (Vec::new(), batch.min(tokens) as usize);
    let mut left = tokens as usize;
    for epoch in 0.. {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch + 1);
        order.shuffle(&mut rng);
        for index in order {
            let sequence = sequences[index];
            let mut from = sequence.first;
            while from < sequence.targets {
                let to = sequence.targets.min(from + room);
                rows.push(Row { sequence, from, to });
                room -= to - from;
                left -= to - from;
                from = to;
                if room == 0 {
                    batches.push(std::mem::take(&mut rows));
                    room = (batch as usize).min(left);
                }
                if left == 0 {
                    return batches;
                }
            }
        }
    }
    batches
}

/// The sequences among `all` that runs of these (tokens, batch, seed) see, each once, in order.
pub fn seen(all: &[Sequence], runs: &[(u64, u64, u64)]) -> Vec<Sequence> {
    let rows = runs.iter().flat_map(|&(tokens, batch, seed)| plan(all, tokens, batch, seed).into_iter().flatten());
    let mut seen: Vec<Sequence> = rows.map(|row| row.sequence).collect();
    seen.sort_by_key(|sequence| sequence.start);
    seen.dedup();
    seen
}

/// Rows as tensors.
pub struct Batch {
    /// `[B, T]` i64; rows shorter than T end in zeros, which no target depends on.
    pub inputs_bt: Tensor,
    /// `[B, T]` i64, where sequences share rows: in which column the sequence of each token starts. What pads a row starts at itself.
    pub starts_bt: Option<Tensor>,
    /// `[N]` i64: where in the flattened `[B·T]` the N targets are.
    pub positions_n: Tensor,
    /// `[N]` i64.
    pub labels_n: Tensor,
}

impl Batch {
    /// One sequence a row.
    pub fn new(rows: &[Row], split: &TokenizedSplit, device: Device) -> Self {
        Self::laid_out(&Layout::one_a_row(rows), rows, split, device)
    }

    /// Sequences share rows of at most `context` inputs. The N targets are those of [`Batch::new`], in the same order.
    pub fn packed(rows: &[Row], split: &TokenizedSplit, context: usize, device: Device) -> Self {
        let layout = Layout::packed(rows, context);
        let batch = Self::laid_out(&layout, rows, split, device);
        let (height, width) = batch.inputs_bt.size2().expect("inputs are [B, T]");
        let mut starts: Vec<i64> = (0..height).flat_map(|_| 0..width).collect();
        for (row, &(at, start)) in rows.iter().zip(&layout.places) {
            let first = at * width as usize + start;
            starts[first..first + row.inputs()].fill(start as i64);
        }
        let starts_bt = Tensor::from_slice(&starts).view([height, width]).to_device(device);
        Self { starts_bt: Some(starts_bt), ..batch }
    }

    fn laid_out(layout: &Layout, rows: &[Row], split: &TokenizedSplit, device: Device) -> Self {
        let width = split.width(layout.longest);
        let mut inputs = vec![0i64; layout.rows * width];
        let (mut positions, mut labels) = (Vec::new(), Vec::new());
        for (row, &(at, start)) in rows.iter().zip(&layout.places) {
            let at = at * width + start;
            for (slot, &id) in inputs[at..at + row.inputs()].iter_mut().zip(row.sequence.inputs(split).iter()) {
                *slot = i64::from(id);
            }
            positions.extend((at + row.from..at + row.to).map(|position| position as i64));
            labels.extend(row.sequence.labels(split)[row.from..row.to].iter().map(|&id| i64::from(id)));
        }
        Self {
            inputs_bt: Tensor::from_slice(&inputs).view([layout.rows as i64, width as i64]).to_device(device),
            starts_bt: None,
            positions_n: Tensor::from_slice(&positions).to_device(device),
            labels_n: Tensor::from_slice(&labels).to_device(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(lengths: &[usize]) -> Vec<Sequence> {
        lengths.iter().enumerate().map(|(document, &targets)| Sequence { document, start: 0, targets, first: 0 }).collect()
    }

    #[test]
    fn every_batch_holds_exactly_its_targets_and_an_epoch_shows_each_once() {
        let sequences = split(&[7, 3, 16, 1, 9, 16, 16]);
        let epoch: usize = sequences.iter().map(|s| s.targets).sum();
        let batches = plan(&sequences, epoch as u64, 10, 5);
        let sizes: Vec<usize> = batches.iter().map(|rows| rows.iter().map(Row::targets).sum()).collect();
        assert_eq!(sizes, [10, 10, 10, 10, 10, 10, 8]);
        let mut seen: Vec<(usize, usize)> =
            batches.iter().flatten().flat_map(|row| (row.from..row.to).map(|t| (row.sequence.document, t))).collect();
        seen.sort();
        let all: Vec<(usize, usize)> = sequences.iter().flat_map(|s| (0..s.targets).map(|t| (s.document, t))).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn targets_of_a_prompt_are_in_no_batch() {
        let mut sequences = split(&[7, 3, 16]);
        (sequences[0].first, sequences[2].first) = (5, 15);
        let batches = plan(&sequences, 12, 4, 5);
        let counted = |row: &Row| (row.from..row.to).all(|target| target >= row.sequence.first);
        assert!(batches.iter().flatten().all(counted));
        assert_eq!(batches.iter().flatten().map(Row::targets).sum::<usize>(), 12, "two epochs of 2 + 3 + 1");
    }

    #[test]
    fn the_order_follows_from_seed_and_epoch_alone() {
        let sequences = split(&[5; 40]);
        assert_eq!(plan(&sequences, 300, 20, 1)[..7], plan(&sequences, 150, 20, 1)[..7]);
        assert_ne!(plan(&sequences, 200, 20, 1), plan(&sequences, 200, 20, 2));
    }
}
