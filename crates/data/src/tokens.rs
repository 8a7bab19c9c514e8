//! A split as token ids, tokenised once and stored under `runs/`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hydrometer_base::fs::{replace_bytes, sha256_file, sha256_hex, uncreated, unreadable};
use hydrometer_base::user_error;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tokenizers::Tokenizer;

use super::corpus::{Document, Reader};
use super::encode::{Encoded, Encoder};
use super::ids::{Ids, Writer};
use super::import::Import;
use super::string_table::StringTable;
use super::tokenizer;
use super::vocabulary::Vocabulary;
use crate::recipe::{DataFiles, DataRecipe, Eos, TokenizerRecipe};

/// The documents of a split as token ids.
#[derive(Clone, Debug, Default)]
pub struct TokenizedSplit {
    pub ids: Ids,
    /// Document i is `ids[offsets[i] .. offsets[i + 1]]`.
    pub offsets: Vec<u64>,
    /// Bytes of text that the predicted tokens of each document stand for.
    pub bytes: Vec<u64>,
    pub names: StringTable,
    /// The prompts, if documents are examples.
    pub examples: Option<Prompts>,
}

/// The prompts of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// Context length for which the examples were cut.
    pub context: u64,
    /// Number of leading tokens of each document that are read but not predicted; [`DOCUMENT`] if it is not an example.
    pub lengths: Vec<u32>,
}

/// Marks a document without a prompt, which may be cut, among examples.
const DOCUMENT: u32 = u32::MAX;

impl TokenizedSplit {
    /// An empty split; of examples if `context` is given.
    pub fn empty(context: Option<usize>) -> Self {
        let examples = context.map(|context| Prompts { context: context as u64, lengths: Vec::new() });
        Self { offsets: vec![0], examples, ..Self::default() }
    }

    /// Number of tokens of document `index` that are read but not predicted; `None` if it is not an example and may be cut.
    pub fn prompt(&self, index: usize) -> Option<usize> {
        let length = self.examples.as_ref()?.lengths[index];
        (length != DOCUMENT).then_some(length as usize)
    }

    /// Number of columns of a batch whose longest row is `longest`: for examples rounded up to a multiple of 8, within the
    /// context.
    pub fn width(&self, longest: usize) -> usize {
        let context = self.examples.as_ref().map(|examples| examples.context as usize);
        context.map_or(longest, |context| longest.next_multiple_of(8).min(context.max(longest)))
    }

    /// Adds a document, unless nothing in it is predicted. Returns whether it was added.
    pub fn push(&mut self, name: &str, encoded: &Encoded) -> bool {
        let added = self.push_all_but_ids(name, encoded);
        if added {
            self.ids.extend(&encoded.ids);
        }
        added
    }

    fn push_all_but_ids(&mut self, name: &str, encoded: &Encoded) -> bool {
        let first = encoded.prompt.unwrap_or(0).max(1);
        if encoded.ids.len() <= first {
            return false;
        }
        let before = self.offsets.last().copied().unwrap_or(0);
        self.offsets.push(before + encoded.ids.len() as u64);
        self.bytes.push(encoded.bytes);
        self.names.push(name);
        if let Some(examples) = &mut self.examples {
            examples.lengths.push(encoded.prompt.map_or(DOCUMENT, |prompt| prompt as u32));
        }
        true
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The ids of document `index`.
    pub fn document(&self, index: usize) -> Cow<'_, [u32]> {
        self.ids.range(self.offsets[index] as usize, self.offsets[index + 1] as usize)
    }

    /// Tokenises `documents`, leaving out those too short to predict anything. Ids must be below `vocab_size`.
    pub fn encode(documents: Vec<Document>, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self> {
        let vocabulary = Vocabulary::new(tokenizer, vocab_size, None)?;
        let encoder = Encoder::new(&vocabulary, None, 0)?;
        let mut split = Self::empty(None);
        for Document { id, text } in documents {
            let encoded = encoder.text(&text).with_context(|| id.clone())?;
            split.push(&id, &encoded);
        }
        Ok(split)
    }

    /// Reads the split that [`prepare`] wrote to `path`, with its ids beside it. Ids too many for memory stay in their file.
    pub fn read(path: &Path) -> Result<Self> {
        let damaged = || user_error!("{} is damaged; delete it and run the command that made it again", path.display());
        let bytes = fs::read(path).map_err(|error| unreadable(path, error))?;
        ensure!(bytes.len() > 64, damaged());
        let (body, checksum) = bytes.split_at(bytes.len() - 64);
        ensure!(sha256_hex(body).as_bytes() == checksum, damaged());
        let tensors = SafeTensors::deserialize(body).map_err(|_| damaged())?;
        let (_, header) = SafeTensors::read_metadata(body).map_err(|_| damaged())?;
        let u64s = |name: &str| -> Result<Vec<u64>> {
            let tensor = tensors.tensor(name).map_err(|_| damaged())?;
            Ok(tensor.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
        };
        let offsets = u64s("offsets")?;
        let ids = path.with_extension("ids");
        let wanted = header.metadata().as_ref().and_then(|note| note.get("ids")).ok_or_else(damaged)?;
        let cure = "delete it and run the command that made it again";
        ensure!(sha256_file(&ids)? == *wanted, user_error!("{} is damaged; {cure}", ids.display()));
        let names = tensors.tensor("names").map_err(|_| damaged())?.data().to_vec();
        let names = String::from_utf8(names).ok().and_then(|names| StringTable::from_parts(names, u64s("name_ends").ok()?));
        let examples = match tensors.tensor("prompts") {
            Err(_) => None,
            Ok(prompts) => Some(Prompts {
                context: u64s("context")?.first().copied().ok_or_else(damaged)?,
                lengths: prompts.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect(),
            }),
        };
        let (names, bytes) = (names.ok_or_else(damaged)?, u64s("bytes")?);
        // Inconsistent parts could lead to reads out of bounds.
        let n = names.len();
        let counts = offsets.len() == n + 1 && bytes.len() == n && examples.as_ref().is_none_or(|it| it.lengths.len() == n);
        ensure!(counts && offsets[0] == 0 && offsets.is_sorted(), damaged());
        Ok(Self { ids: Ids::open(&ids, offsets[n] as usize)?, offsets, bytes, names, examples })
    }

    /// Writes files that [`TokenizedSplit::read`] reads.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut ids = Writer::create(&path.with_extension("ids"))?;
        (0..self.len()).try_for_each(|index| ids.extend(&self.document(index)))?;
        self.write_beside(path, ids.finish()?)
    }

    /// Writes everything except the ids, which were written already and have the SHA-256 `ids`.
    fn write_beside(&self, path: &Path, ids: String) -> Result<()> {
        let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let (names, ends) = self.names.parts();
        let (offsets, bytes, ends) = (u64s(&self.offsets), u64s(&self.bytes), u64s(ends));
        let mut tensors = vec![
            ("offsets", TensorView::new(Dtype::U64, vec![self.offsets.len()], &offsets)?),
            ("bytes", TensorView::new(Dtype::U64, vec![self.bytes.len()], &bytes)?),
            ("names", TensorView::new(Dtype::U8, vec![names.len()], names.as_bytes())?),
            ("name_ends", TensorView::new(Dtype::U64, vec![self.names.len()], &ends)?),
        ];
        let prompts: Vec<u8>;
        let context: [u8; 8];
        if let Some(examples) = &self.examples {
            prompts = examples.lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
            context = examples.context.to_le_bytes();
            tensors.push(("context", TensorView::new(Dtype::U64, vec![1], &context)?));
            tensors.push(("prompts", TensorView::new(Dtype::U32, vec![examples.lengths.len()], &prompts)?));
        }
        let mut body = safetensors::serialize(tensors, Some(HashMap::from([("ids".to_string(), ids)])))?;
        let checksum = sha256_hex(&body);
        body.extend(checksum.as_bytes());
        replace_bytes(path, &body)
    }
}

/// Tokenises `splits` into `folder` (named by the recipe's identity), unless that was done before; first trains the tokenizer if
/// the recipe asks for one. Reports skipped lines on standard error.
pub fn prepare(recipe: &DataRecipe, files: &DataFiles, splits: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| uncreated(folder, error))?;
    let missing: Vec<&str> =
        splits.iter().copied().filter(|split| TokenizedSplit::read(&folder.join(format!("{split}.tokens"))).is_err()).collect();
    if missing.is_empty() && keeps_tokenizer(recipe, files, folder) {
        return Ok(());
    }
    let tokenizer = tokenizer_of(recipe, files, folder)?;
    if let (Some(examples), Some(ends)) = (&recipe.examples, &files.ends)
        && examples.eos != Eos::None
    {
        tracing::info!("a text ends in {}", ends.words());
    }
    for split in missing {
        let path = folder.join(format!("{split}.tokens"));
        let mut ids = Writer::create(&path.with_extension("ids"))?;
        let (tokenized, import) = read_split(recipe, files, split, &tokenizer, &mut ids)?;
        import.write(&folder.join(format!("{split}.import.json")))?;
        tokenized.write_beside(&path, ids.finish()?)?;
        if let Some(words) = import.tally.words() {
            tracing::info!("{split}: {words}");
        }
    }
    Ok(())
}

/// The tokenizer of `recipe`: its file, or the one trained into `folder`, which is trained now if it is missing.
pub fn tokenizer_of(recipe: &DataRecipe, files: &DataFiles, folder: &Path) -> Result<Tokenizer> {
    let saved = folder.join("tokenizer.json");
    Ok(match (&recipe.tokenizer, &files.tokenizer) {
        (TokenizerRecipe::File { .. }, Some(path)) => {
            // Kept for exporting models that were trained on these tokens.
            replace_bytes(&saved, &fs::read(path)?)?;
            tokenizer::open(path)?
        }
        (TokenizerRecipe::File { .. }, None) => return Err(user_error!("the tokenizer file is not known")),
        (TokenizerRecipe::Bpe { vocab_size }, _) => {
            if let Some(tokenizer) = trained(&saved) {
                return Ok(tokenizer);
            }
            let tokenizer = tokenizer::train(Reader::of_split(files, "train")?, *vocab_size, recipe.examples.is_some())?;
            let json = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
            replace_bytes(&sidecar(&saved), sha256_hex(json.as_bytes()).as_bytes())?;
            replace_bytes(&saved, json.as_bytes())?;
            tokenizer
        }
    })
}

/// Whether `folder` has an intact copy of the tokenizer of `recipe`, which exporting a model needs.
fn keeps_tokenizer(recipe: &DataRecipe, files: &DataFiles, folder: &Path) -> bool {
    let saved = folder.join("tokenizer.json");
    match (&recipe.tokenizer, &files.tokenizer) {
        (TokenizerRecipe::Bpe { .. }, _) => trained(&saved).is_some(),
        (TokenizerRecipe::File { .. }, Some(path)) => {
            sha256_file(path).is_ok_and(|hash| sha256_file(&saved).is_ok_and(|found| found == hash))
        }
        // Without the source file the copy cannot be restored.
        (TokenizerRecipe::File { .. }, None) => true,
    }
}

/// The tokenizer that was trained into `path`; `None` if it is missing or damaged, and then it is trained again from the text.
/// One from before checksums were written is accepted if it can be opened.
fn trained(path: &Path) -> Option<Tokenizer> {
    let checksum = fs::read_to_string(sidecar(path));
    if checksum.is_ok_and(|checksum| sha256_file(path).ok().as_ref() != Some(&checksum)) {
        return None;
    }
    tokenizer::open(path).ok()
}

fn sidecar(path: &Path) -> PathBuf {
    path.with_extension("json.sha256")
}

/// Tokenises a split, writing its ids to `ids` on the way; also returns the import report.
fn read_split(
    recipe: &DataRecipe,
    files: &DataFiles,
    split: &str,
    tokenizer: &Tokenizer,
    ids: &mut Writer,
) -> Result<(TokenizedSplit, Import)> {
    let examples = recipe.examples.as_ref();
    let vocabulary = Vocabulary::new(tokenizer, recipe.tokenizer.vocab_size(), examples)?;
    let encoder = Encoder::new(&vocabulary, examples, recipe.context)?;
    let mut tokenized = TokenizedSplit::empty(examples.map(|_| recipe.context));
    let mut import = Import::default();
    let mut reader = Reader::of_split(files, split)?;
    let mut any = false;
    while let Some(example) = reader.next_example()? {
        any = true;
        match encoder.encode(&example)? {
            Err(damage) => reader.reject(&example.place, &damage)?,
            Ok(encoded) => {
                if tokenized.push_all_but_ids(&example.id, &encoded) {
                    ids.extend(&encoded.ids)?;
                    import.examples += 1;
                    import.targets += (encoded.ids.len() - encoded.prompt.unwrap_or(0).max(1)) as u64;
                    import.counts.add(&encoded.counts);
                }
            }
        }
    }
    if !any {
        if let Some(words) = reader.tally.words() {
            return Err(user_error!("the {split} split has no documents that can be read: {words}"));
        }
        return Err(user_error!("the {split} split has no documents; give the data more text or a file of its own for {split}"));
    }
    ensure!(!tokenized.is_empty(), user_error!("the {split} split has no text"));
    import.tally = reader.tally;
    Ok((tokenized, import))
}
