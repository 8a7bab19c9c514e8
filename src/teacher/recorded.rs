//! A teacher of which there are only answers: from a file of any format that records them into the cache that every arm reads.
//!
//! The file is tokenised as the student's data is, so that its sequences are found by their tokens. Where a row has fewer ids
//! than are kept, its first id is repeated without weight; rows of a prompt are there without any. The report of the import
//! stands in the cache's folder and says that it is complete.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::block::{Answers, Block};
use super::cache::Cache;
use super::kept::Kept;
use super::title::Title;
use crate::data::corpus::Reader;
use crate::data::encode::{Answer, Encoder};
use crate::data::format::Keys;
use crate::data::import::Import;
use crate::data::sequences::sequences;
use crate::data::tokens::{TokenizedSplit, tokenizer_of};
use crate::data::vocabulary::Vocabulary;
use crate::experiment::recipe::ExampleRecipe;
use crate::experiment::recorded::Recording;
use crate::objective::{Objective, Tail};
use crate::user_error;

/// The report's name in a cache's folder.
pub const IMPORT: &str = "import.json";
/// Tokens of a block.
const BLOCK_TOKENS: usize = 1 << 16;

/// Brings the answers of `recording` into the cache in `folder`, of this title, unless they are there, and checks that they are
/// all that the data in `data` needs, and fit for the objectives of its `arms` (with their names).
pub fn prepare(recording: &Recording, data: &Path, folder: &Path, title: &Title, arms: &[(&str, Objective)]) -> Result<()> {
    let path = folder.join(IMPORT);
    // A block that was damaged since is made again.
    let known = Import::read(&path).filter(|_| covered(recording, data, folder, title).is_ok());
    let import = match known {
        Some(import) => import,
        None => {
            clear(folder)?;
            let import = import(recording, data, folder, title)?;
            covered(recording, data, folder, title)?;
            say(recording, &import);
            import.write(&path)?;
            import
        }
    };
    for (arm, objective) in arms {
        fits(recording, &import, arm, *objective)?;
    }
    Ok(())
}

/// Removes what an earlier import has left in `folder`.
fn clear(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "block")) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Refuses an objective that needs what the file does not record.
fn fits(recording: &Recording, import: &Import, arm: &str, objective: Objective) -> Result<()> {
    let (path, counts) = (recording.path.display(), &import.counts);
    if let Objective::LogitMse { centered: false, .. } = objective
        && counts.logprobs > 0
    {
        return Err(user_error!(
            "{path}: records log-probabilities, not logits, which {arm} compares; set centered = true, which makes them the same, \
             or use soft-ce"
        ));
    }
    let whole = matches!(objective.tail(), Some(Tail::Renormalize | Tail::DoubleRenormalize)) || objective.compares_logits();
    if counts.unnormalized > 0 && !whole {
        return Err(user_error!(
            "{path}: records logits without their log-probabilities, so that the mass outside of them is not known to {arm}; \
             use tail = \"renormalize\", or logit-mse"
        ));
    }
    Ok(())
}

fn say(recording: &Recording, import: &Import) {
    let percent = |rate: Option<f64>| rate.map_or("none".to_string(), |rate| format!("{:.2}%", 100.0 * rate));
    eprintln!(
        "teacher {}: {} examples, {} rows of answers; ids unmapped {}, duplicate {}; rows short of {} ids {}, of another context {}",
        recording.name,
        import.examples,
        import.counts.rows,
        percent(import.unmapped_rate()),
        percent(import.duplicate_rate()),
        import.k,
        percent(import.short_k_rate()),
        percent(import.mismatched_rate()),
    );
    if let Some(words) = import.tally.words() {
        eprintln!("teacher {}: {words}", recording.name);
    }
}

/// Refuses a recording that lacks a sequence of the train split.
fn covered(recording: &Recording, data: &Path, folder: &Path, title: &Title) -> Result<()> {
    let cache = Cache::open(folder, title)?;
    let train = TokenizedSplit::read(&data.join("train.tokens"))?;
    let all = sequences(&train, recording.data.context);
    let missing: Vec<_> = all.iter().filter(|sequence| !cache.contains(&sequence.key(&train))).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    Err(user_error!(
        "{}: has no answers for {} of {} sequences of the train split, the first of them of document {:?}; train on the file itself, or \
         record the rest",
        recording.path.display(),
        missing.len(),
        all.len(),
        train.names.get(first.document)
    ))
}

fn import(recording: &Recording, data: &Path, folder: &Path, title: &Title) -> Result<Import> {
    let Recording { recipe, kept, on_bad_line, .. } = recording;
    title.write(folder)?;
    let context = recording.data.context;
    let examples = recording.data.examples.as_ref().map(|examples| {
        // Keys by other names belong to the data's format.
        let keys = if examples.format == recipe.format { examples.keys.clone() } else { Keys::default() };
        ExampleRecipe { format: recipe.format, keys, ..examples.clone() }
    });
    let tokenizer = tokenizer_of(&recording.data, &recording.files, data)?;
    let eos_token = examples.as_ref().and_then(|examples| examples.eos_token.as_deref());
    let vocab_size = recording.data.tokenizer.vocab_size();
    let vocabulary = Vocabulary::new(&tokenizer, vocab_size, eos_token)?;
    let encoder = Encoder::new(&vocabulary, examples.as_ref(), context)?;
    let keys = examples.as_ref().map_or(Keys::default(), |examples| examples.keys.clone());
    let mut reader = Reader::new(&recording.path, recipe.format, keys, *on_bad_line)?;
    let mut part = Part::new(examples.as_ref().map(|_| context));
    let mut writer = Writer { title, context, folder, seen: HashSet::new(), import: Import::default() };
    writer.import.k = kept.top_k as u64;
    while let Some(example) = reader.next_example()? {
        if example.source.is_some() && examples.is_none() {
            let place = &example.place;
            return Err(user_error!(
                "{place}: the answers are to a prompt, which plain documents do not have; name the format of the data"
            ));
        }
        match encoder.encode(&example)? {
            Err(damage) => reader.reject(&example.place, &damage)?,
            Ok(mut encoded) => {
                if part.split.push(&example.id, &encoded) {
                    encoded.answers.resize(encoded.ids.len(), None);
                    part.answers.append(&mut encoded.answers);
                    writer.import.examples += 1;
                    writer.import.counts.add(&encoded.counts);
                }
            }
        }
        if part.answers.len() >= BLOCK_TOKENS {
            writer.write(&part)?;
            part = Part::new(examples.as_ref().map(|_| context));
        }
    }
    writer.write(&part)?;
    let Writer { mut import, .. } = writer;
    import.tally = reader.tally;
    ensure!(import.counts.rows > 0, user_error!("{}: records no answers", recording.path.display()));
    Ok(import)
}

/// Some examples, and what the teacher says of each of their tokens.
struct Part {
    split: TokenizedSplit,
    answers: Vec<Option<Answer>>,
}

impl Part {
    fn new(context: Option<usize>) -> Self {
        Self { split: TokenizedSplit::empty(context), answers: Vec::new() }
    }
}

struct Writer<'a> {
    title: &'a Title,
    context: usize,
    folder: &'a Path,
    /// Keys of the sequences that are written.
    seen: HashSet<[u8; 16]>,
    import: Import,
}

impl Writer<'_> {
    fn write(&mut self, part: &Part) -> Result<()> {
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
fn push(all: &mut Answers, answer: Option<&Answer>, kept: &Kept) {
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
