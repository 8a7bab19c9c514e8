//! Answers that no pass of ours has made, brought into the cache that every arm reads.
//!
//! Where a row has fewer ids than are kept, its first id is repeated without weight; rows of a prompt are there without any.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hydrometer_data::answers::Answer;
use hydrometer_data::encode::Encoded;
use hydrometer_data::import::Import;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;

use super::block::{Answers, Block};
use super::manifest::CacheManifest;
use super::target_spec::TargetSpec;

/// The report's name in a cache's folder; it says that the import is complete.
pub const IMPORT: &str = "import.json";
/// Tokens of a block.
const BLOCK_TOKENS: usize = 1 << 16;

/// Some examples, and what the teacher says of each of their tokens.
struct Part {
    split: TokenizedSplit,
    answers: Vec<Option<Answer>>,
}

impl Part {
    /// Of no examples; of `context` where they are to be more than documents.
    fn new(context: Option<usize>) -> Self {
        Self { split: TokenizedSplit::empty(context), answers: Vec::new() }
    }
}

/// Writes answers into a cache, and counts what becomes of them.
pub struct Writer<'a> {
    title: &'a CacheManifest,
    context: usize,
    /// Whether what is added may have prompts.
    examples: bool,
    folder: &'a Path,
    /// What is not written yet.
    part: Part,
    /// Keys of the sequences that are written.
    seen: HashSet<[u8; 16]>,
    import: Import,
}

impl<'a> Writer<'a> {
    /// Into the cache in `folder`, of this title, in sequences of at most `context` targets.
    pub fn new(title: &'a CacheManifest, folder: &'a Path, context: usize, examples: bool) -> Result<Self> {
        title.write(folder)?;
        let import = Import { k: title.kept.top_k as u64, ..Import::default() };
        let part = Part::new(examples.then_some(context));
        Ok(Self { title, context, examples, folder, part, seen: HashSet::new(), import })
    }

    /// Adds an example or document and what is said of its tokens.
    pub fn add(&mut self, name: &str, mut encoded: Encoded) -> Result<()> {
        if self.part.split.push(name, &encoded) {
            encoded.answers.resize(encoded.ids.len(), None);
            self.part.answers.append(&mut encoded.answers);
            self.import.examples += 1;
            self.import.counts.add(&encoded.counts);
        }
        if self.part.answers.len() >= BLOCK_TOKENS {
            self.flush()?;
        }
        Ok(())
    }

    /// What became of all that was added, once it is written.
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
                // Of a document that is cut, the teacher has read what comes before too.
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

/// Adds a token's answer to `all`.
fn push(all: &mut Answers, answer: Option<&Answer>, kept: &TargetSpec) {
    let entries = answer.map_or(&[][..], |answer| &answer.entries);
    let filler = entries.first().map_or(0, |&(id, _)| id);
    let entry = |index: usize| entries.get(index).copied().unwrap_or((filler, f64::NEG_INFINITY));
    for (id, logprob) in (0..kept.top_k).map(entry) {
        all.ids.push(id);
        all.logprobs.push(logprob as f32);
    }
    // Temperature 1 is the only one that recorded answers have.
    all.lse.extend(kept.temperatures.iter().map(|_| answer.map_or(0.0, |answer| answer.lse as f32)));
}

/// Removes what an earlier import has left in `folder`.
pub fn clear(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "block")) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
