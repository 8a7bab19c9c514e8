//! Documents cut into sequences: what a model, student or teacher, sees as one context.
//!
//! An example with a prompt is one sequence, of which the targets count that lie behind the prompt. Of a document, tokens are cut every `context` targets. Every token but the document's first is predicted exactly once, from
//! what precedes it in its sequence. A sequence depends on its document alone, not on order, batch or seed, so that a teacher's
//! answers can be kept by sequence.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::tokens::TokenizedSplit;

/// A sequence of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub document: usize,
    /// First input token in the split's `ids`.
    pub start: usize,
    /// Targets; the inputs are `ids[start .. start + targets]`, the targets one further.
    pub targets: usize,
    /// The first target that counts: those before it belong to a prompt, which is read and not predicted.
    pub first: usize,
}

impl Sequence {
    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets - self.first
    }

    pub fn inputs<'a>(&self, split: &'a TokenizedSplit) -> Cow<'a, [u32]> {
        split.ids.range(self.start, self.start + self.targets)
    }

    pub fn labels<'a>(&self, split: &'a TokenizedSplit) -> Cow<'a, [u32]> {
        split.ids.range(self.start + 1, self.start + 1 + self.targets)
    }

    /// What the teacher's answers depend on: the tokens of the sequence.
    pub fn key(&self, split: &TokenizedSplit) -> [u8; 16] {
        let mut digest = Sha256::new();
        for id in self.inputs(split).iter() {
            digest.update(id.to_le_bytes());
        }
        digest.finalize()[..16].try_into().expect("16 bytes of 32")
    }
}

/// All sequences of `split`, at most `context` targets each, in order.
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
