//! The batches of a run: a function of data, RNG seed and step alone. So every arm sees the same batches, and a resumed run
//! continues with the next one.
//!
//! A batch holds exactly the number of target tokens that the recipe asks for. Sequences are reshuffled each epoch. A sequence
//! that does not fit is split: the next batch shows it again with the same context, and only its remaining targets count.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::sequences::Sequence;

/// A planned row of a batch: a sequence, and which of its targets count. Several rows may later share one row of the tensors:
/// see [`super::packing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub sequence: Sequence,
    pub from: usize,
    pub to: usize,
}

impl Row {
    /// All targets of a sequence, those of its prompt included.
    pub fn whole(sequence: Sequence) -> Self {
        Self { sequence, from: 0, to: sequence.targets }
    }

    /// The targets of a sequence that count.
    pub fn counted(sequence: Sequence) -> Self {
        Self { sequence, from: sequence.first, to: sequence.targets }
    }

    /// Number of targets that count.
    pub fn targets(&self) -> usize {
        self.to - self.from
    }

    /// Number of input tokens that are read for them, from the beginning of the sequence.
    pub fn inputs(&self) -> usize {
        self.to
    }
}

/// The rows of every batch: `tokens` targets in all, `batch` of them per batch (the last may hold fewer). At least one target of
/// `sequences` must count.
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

/// What decides which sequences of its data a run sees, and in which order. Written as the triple of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub struct DataView {
    pub tokens: u64,
    pub batch: u64,
    pub seed: u64,
}

impl From<(u64, u64, u64)> for DataView {
    fn from((tokens, batch, seed): (u64, u64, u64)) -> Self {
        Self { tokens, batch, seed }
    }
}

impl From<DataView> for (u64, u64, u64) {
    fn from(DataView { tokens, batch, seed }: DataView) -> Self {
        (tokens, batch, seed)
    }
}

/// The sequences among `all` that runs with these `views` see, each once, in order.
pub fn sequences_seen(all: &[Sequence], views: &[DataView]) -> Vec<Sequence> {
    let rows = views.iter().flat_map(|&DataView { tokens, batch, seed }| plan(all, tokens, batch, seed).into_iter().flatten());
    let mut seen: Vec<Sequence> = rows.map(|row| row.sequence).collect();
    seen.sort_by_key(|sequence| sequence.start);
    seen.dedup();
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(lengths: &[usize]) -> Vec<Sequence> {
        lengths.iter().enumerate().map(|(document, &targets)| Sequence { document, start: 0, targets, first: 0 }).collect()
    }

    #[test]
    fn every_batch_has_its_number_of_targets_and_an_epoch_has_each_target_once() {
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
    fn the_order_depends_only_on_seed_and_epoch() {
        let sequences = split(&[5; 40]);
        assert_eq!(plan(&sequences, 300, 20, 1)[..7], plan(&sequences, 150, 20, 1)[..7]);
        assert_ne!(plan(&sequences, 200, 20, 1), plan(&sequences, 200, 20, 2));
    }
}
