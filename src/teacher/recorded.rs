//! Recorded teachers: imports a file of logprobs, in any format that has them, into the cache that every arm reads.
//!
//! The file is tokenised like the student's data, so that its sequences are found by their tokens. The import report is written
//! to the cache's folder when the import is complete.

use std::path::Path;

use anyhow::{Result, ensure};
use hydrometer_base::user_error;
use hydrometer_data::corpus::Reader;
use hydrometer_data::encode::Encoder;
use hydrometer_data::format::Keys;
use hydrometer_data::import::Import;
use hydrometer_data::recipe::ExampleRecipe;
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::{TokenizedSplit, tokenizer_of};
use hydrometer_data::vocabulary::Vocabulary;
use hydrometer_torch::objective::{Objective, Tail};

use super::cache::Cache;
use super::imported::{IMPORT, Writer, clear};
use super::manifest::CacheManifest;
use super::recording::{AnswerFile, Recording};

/// Imports the logprobs of `recording` from `file` into the cache in `folder` with manifest `title`, unless that was done before.
/// Checks that they cover all that the data in `data` needs, and suit the objectives of the `arms` (given with their names).
pub fn prepare(
    recording: &Recording,
    file: &AnswerFile,
    data: &Path,
    folder: &Path,
    title: &CacheManifest,
    arms: &[(&str, Objective)],
) -> Result<()> {
    let path = folder.join(IMPORT);
    // If a block has been damaged since, everything is imported again.
    let known = Import::read(&path).filter(|_| covered(recording, file, data, folder, title).is_ok());
    let import = match known {
        Some(import) => import,
        None => {
            clear(folder)?;
            let import = import(recording, file, data, folder, title)?;
            covered(recording, file, data, folder, title)?;
            import.say(&recording.name);
            import.write(&path)?;
            import
        }
    };
    for (arm, objective) in arms {
        fits(file, &import, arm, *objective)?;
    }
    Ok(())
}

/// Refuses an objective that needs what the file does not record.
fn fits(file: &AnswerFile, import: &Import, arm: &str, objective: Objective) -> Result<()> {
    let (path, counts) = (file.path.display(), &import.counts);
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
            "{path}: records logits without their log-probabilities, so the mass outside of them, which {arm} needs, is not known; \
             use tail = \"renormalize\", or logit-mse"
        ));
    }
    Ok(())
}

/// Refuses a recording that lacks a sequence of the train split.
fn covered(recording: &Recording, file: &AnswerFile, data: &Path, folder: &Path, title: &CacheManifest) -> Result<()> {
    let cache = Cache::open(folder, title)?;
    let train = TokenizedSplit::read(&data.join("train.tokens"))?;
    let all = sequences(&train, recording.data.context);
    let missing: Vec<_> = all.iter().filter(|sequence| !cache.contains(&sequence.key(&train))).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    Err(user_error!(
        "{}: has no logprobs for {} of {} sequences of the train split, the first of them in document {:?}; train on the file itself, or \
         record the rest",
        file.path.display(),
        missing.len(),
        all.len(),
        train.names.get(first.document)
    ))
}

fn import(recording: &Recording, file: &AnswerFile, data: &Path, folder: &Path, title: &CacheManifest) -> Result<Import> {
    let AnswerFile { recipe, path, on_bad_line } = file;
    let context = recording.data.context;
    let examples = recording.data.examples.as_ref().map(|examples| {
        // Custom key names belong to the data's format.
        let keys = if examples.format == recipe.format { examples.keys.clone() } else { Keys::default() };
        ExampleRecipe { format: recipe.format, keys, ..examples.clone() }
    });
    let tokenizer = tokenizer_of(&recording.data, &recording.files, data)?;
    let vocabulary = Vocabulary::new(&tokenizer, recording.data.tokenizer.vocab_size(), examples.as_ref())?;
    let encoder = Encoder::new(&vocabulary, examples.as_ref(), context)?;
    let keys = examples.as_ref().map_or(Keys::default(), |examples| examples.keys.clone());
    let mut reader = Reader::new(path, recipe.format, keys, *on_bad_line)?;
    let mut writer = Writer::new(title, folder, context, examples.is_some())?;
    while let Some(example) = reader.next_example()? {
        if example.source.is_some() && examples.is_none() {
            let place = &example.place;
            return Err(user_error!(
                "{place}: the logprobs follow a prompt, which plain documents do not have; name the format of the data"
            ));
        }
        match encoder.encode(&example)? {
            Err(damage) => reader.reject(&example.place, &damage)?,
            Ok(encoded) => writer.add(&example.id, encoded)?,
        }
    }
    let import = Import { tally: reader.tally, ..writer.finish()? };
    ensure!(import.counts.rows > 0, user_error!("{}: records no logprobs", path.display()));
    Ok(import)
}
