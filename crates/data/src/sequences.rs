//! Documents cut into sequences: what a model, student or teacher, sees as one context.
//!
//! An example with a prompt is one sequence, and only the targets after the prompt count. A document is cut every `context`
//! targets: every token but the document's first is predicted exactly once, from the tokens before it in its sequence. A sequence
//! depends on its document alone, not on order, batch or seed, so teacher targets can be stored per sequence.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::tokens::TokenizedSplit;

/// A sequence of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub document: usize,
    /// Index of the first input token in the split's `ids`.
    pub start: usize,
    /// Number of targets. The inputs are `ids[start .. start + targets]`; the targets are shifted by one.
    pub targets: usize,
    /// The first target that counts; those before it belong to a prompt, which is read but not predicted.
    pub first: usize,
}

impl Sequence {
    /// Number of targets that count.
    pub fn counted(&self) -> usize {
        self.targets - self.first
    }

    /// The input ids, one per target.
    pub fn inputs<'a>(&self, split: &'a TokenizedSplit) -> Cow<'a, [u32]> {
        split.ids.range(self.start, self.start + self.targets)
    }

    /// The target ids: the inputs shifted by one.
    pub fn labels<'a>(&self, split: &'a TokenizedSplit) -> Cow<'a, [u32]> {
        split.ids.range(self.start + 1, self.start + 1 + self.targets)
    }

    /// A hash of the tokens of the sequence, on which the teacher targets depend.
    pub fn key(&self, split: &TokenizedSplit) -> [u8; 16] {
        let mut digest = Sha256::new();
        for id in self.inputs(split).iter() {
            digest.update(id.to_le_bytes());
        }
        digest.finalize()[..16].try_into().expect("16 bytes of 32")
    }
}

/// All sequences of `split` in order, each of at most `context` targets.
pub fn sequences(split: &TokenizedSplit, context: usize) -> Vec<Sequence> {
    let mut all = Vec::new();
    for document in 0..split.len() {
        let (begin, end) = (split.offsets[document] as usize, split.offsets[document + 1] as usize);
        if let Some(prompt) = split.prompt(document) {
            all.push(Sequence { document, start: begin, targets: end - begin - 1, first: prompt.max(1) - 1 });
            continue;
        }
        let mut start = begin;
        while start + 1 < end {
            let targets = context.min(end - 1 - start);
            all.push(Sequence { document, start, targets, first: 0 });
            start += targets;
        }
    }
    all
}
