//! Imports logprobs that no pass of ours has computed into the cache that every arm reads.
//!
//! A row with fewer ids than the cache stores repeats its first id without weight. Rows of a prompt are stored without weight.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hydrometer_data::answers::Answer;
use hydrometer_data::encode::Encoded;
use hydrometer_data::import::Import;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::model::activations::FORWARD_NUMBERS;

use super::block::{Answers, Block};
use super::manifest::CacheManifest;
use super::target_spec::TargetSpec;

/// The report's file name in a cache's folder; its presence shows that the import is complete.
pub const IMPORT: &str = "import.json";
/// Most tokens per block.
const BLOCK_TOKENS: usize = 1 << 16;

/// Some examples, and the teacher targets of each of their tokens.
struct Part {
    split: TokenizedSplit,
    answers: Vec<Option<Answer>>,
}

impl Part {
    /// An empty part; of examples if `context` is given.
    fn new(context: Option<usize>) -> Self {
        Self { split: TokenizedSplit::empty(context), answers: Vec::new() }
    }
}

/// Writes logprobs into a cache, and counts what happens to them.
pub struct Writer<'a> {
    title: &'a CacheManifest,
    context: usize,
    /// Whether the added texts may have prompts.
    examples: bool,
    folder: &'a Path,
    /// The part that is not written yet.
    part: Part,
    /// Keys of the sequences that are written.
    seen: HashSet<[u8; 16]>,
    import: Import,
}

impl<'a> Writer<'a> {
    /// A writer into the cache in `folder` with manifest `title`, in sequences of at most `context` targets.
    pub fn new(title: &'a CacheManifest, folder: &'a Path, context: usize, examples: bool) -> Result<Self> {
        title.write(folder)?;
        let import = Import { k: title.kept.top_k as u64, ..Import::default() };
        let part = Part::new(examples.then_some(context));
        Ok(Self { title, context, examples, folder, part, seen: HashSet::new(), import })
    }

    /// Adds an example or document with the logprobs of its tokens.
    pub fn add(&mut self, name: &str, mut encoded: Encoded) -> Result<()> {
        if self.part.split.push(name, &encoded) {
            encoded.answers.resize(encoded.ids.len(), None);
            self.part.answers.append(&mut encoded.answers);
            self.import.examples += 1;
            self.import.counts.add(&encoded.counts);
        }
        if self.part.answers.len() >= BLOCK_TOKENS.min(FORWARD_NUMBERS / self.title.kept.top_k.max(1)) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the rest and returns the import report.
    pub fn finish(mut self) -> Result<Import> {
        self.flush()?;
        Ok(self.import)
    }

    fn flush(&mut self) -> Result<()> {
        let part = std::mem::replace(&mut self.part, Part::new(self.examples.then_some(self.context)));
        let mut block = Block::default();
        for sequence in sequences(&part.split, self.context) {
            self.import.targets += sequence.counted() as u64;
            let said = &part.answers[sequence.start + 1..=sequence.start + sequence.targets];
            let recorded = || said.iter().flatten().filter(|answer| answer.recorded);
            self.import.short_k += recorded().filter(|answer| answer.entries.len() < self.title.kept.top_k).count() as u64;
            if sequence.start as u64 > part.split.offsets[sequence.document] {
                // In a document that was cut, the teacher has also read what precedes the sequence.
                self.import.counts.mismatched += recorded().count() as u64;
            }
            let key = sequence.key(&part.split);
            if !self.seen.insert(key) {
                self.import.repeated += 1;
                continue;
            }
            block.keys.push(key);
            block.lengths.push(sequence.targets as u64);
            said.iter().for_each(|answer| push(&mut block.answers, answer.as_ref(), &self.title.kept));
        }
        if block.keys.is_empty() { Ok(()) } else { block.write(self.folder, self.title) }
    }
}

/// Appends a token's logprobs to `all`.
fn push(all: &mut Answers, answer: Option<&Answer>, kept: &TargetSpec) {
    let entries = answer.map_or(&[][..], |answer| &answer.entries);
    let filler = entries.first().map_or(0, |&(id, _)| id);
    let entry = |index: usize| entries.get(index).copied().unwrap_or((filler, f64::NEG_INFINITY));
    for (id, logprob) in (0..kept.top_k).map(entry) {
        all.ids.push(id);
        all.logprobs.push(logprob as f32);
    }
    // Recorded logprobs have temperature 1 only.
    all.lse.extend(kept.temperatures.iter().map(|_| answer.map_or(0.0, |answer| answer.lse as f32)));
}

/// Removes what an earlier import left in `folder`.
pub fn clear(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "block")) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
