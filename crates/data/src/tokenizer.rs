//! Text to token ids: a byte-level BPE trained on the train split, or a `tokenizer.json`.

use std::path::Path;

use anyhow::{Result, anyhow};
use hydrometer_base::guard::{caught, read_file};
use hydrometer_base::user_error;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Encoding, Tokenizer, TokenizerBuilder};

use super::content::instead;
use super::corpus::Reader;
use super::example::Segment;
use super::lines::BOM;
use crate::recipe::Ends;

/// Begins every document, so that its first token is predicted too.
const BOS: &str = "<|begin|>";

/// Ends the target of every example.
const EOS: &str = "<|end|>";
/// Bytes of text that a tokenizer is trained on, at most: the first of the split.
const TRAINING_TEXT: usize = 64 << 20;
/// Ids of a `tokenizer.json`, at most: as many as the vocabulary of a model has.
const IDS: usize = 1 << 20;
/// Texts that a `tokenizer.json` is tried on when it is read.
const TRIED: [&str; 3] = ["", "a", " It's 12 of the\n\n old mills: áé, \u{1f642}\t(ſ).  "];

/// Trains a byte-level BPE of at most `vocab_size` entries on the examples of `reader`. Encoding prepends [`BOS`]; with `ends`
/// there is an [`EOS`] too.
pub fn train(mut reader: Reader, vocab_size: usize, ends: bool) -> Result<Tokenizer> {
    let fault = |error: tokenizers::Error| anyhow!("training the tokenizer: {error}");
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens([BOS, EOS][..1 + usize::from(ends)].iter().map(|&name| AddedToken::from(name, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(level))
        .with_post_processor(Some(level))
        .with_decoder(Some(level))
        .build()
        .map_err(fault)?;
    let (mut read, mut stopped) = (0, Ok(()));
    let texts = std::iter::from_fn(|| {
        let example = match reader.next_example() {
            Ok(example) => example?,
            Err(error) => {
                stopped = Err(error);
                return None;
            }
        };
        let text: String = example.source.iter().chain(&example.target).map(Segment::text).collect::<Vec<_>>().join("\n");
        read += text.len();
        (read <= TRAINING_TEXT || read == text.len()).then_some(text)
    });
    tokenizer.train(&mut trainer, texts).map_err(fault)?;
    stopped?;
    let mut tokenizer: Tokenizer = tokenizer.into();
    let bos = tokenizer.token_to_id(BOS).ok_or_else(|| anyhow!("the tokenizer lost its special token"))?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .map_err(|error| anyhow!("{error}"))?
        .special_tokens(vec![(BOS.to_string(), bos)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// What ends a text in the tokens of [`train`].
pub fn own_end() -> Ends {
    Ends { ids: vec![1], tokens: vec![EOS.to_string()], from: "the tokenizer that is trained here".into(), ignored: Vec::new() }
}

/// The ids below the largest of `mine` that do not stand for the same token in `theirs`: with both tokens, in order. A special
/// token that the other does not have is padding, and none of them.
pub fn differences(mine: &Tokenizer, theirs: &Tokenizer) -> Vec<(u32, Option<String>, Option<String>)> {
    let added = mine.get_added_tokens_decoder();
    let special = |id: u32| added.get(&id).is_some_and(|token| token.special);
    let both = (0..vocab_size(mine) as u32).map(|id| (id, mine.id_to_token(id), theirs.id_to_token(id)));
    both.filter(|(id, a, b)| a != b && a.is_some() && !(b.is_none() && special(*id))).collect()
}

/// One more than the largest id: ids may have gaps. 0 where there is no token.
pub fn vocab_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
}

/// One more than the largest id of a token that is not special.
pub fn ordinary_ids(tokenizer: &Tokenizer) -> usize {
    let added = tokenizer.get_added_tokens_decoder();
    let ordinary = |id: &u32| !added.get(id).is_some_and(|token| token.special);
    tokenizer.get_vocab(true).into_values().filter(ordinary).max().map_or(0, |id| id as usize + 1)
}

/// Reads a `tokenizer.json`. What it says of truncation and padding is for batches of its maker: documents stay whole.
pub fn open(path: &Path) -> Result<Tokenizer> {
    let bytes = read_file(path).map_err(|error| user_error!("{}: {error}", path.display()))?;
    let read = || -> tokenizers::Result<Tokenizer> {
        let mut tokenizer = Tokenizer::from_bytes(bytes.strip_prefix(BOM).unwrap_or(&bytes))?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        if vocab_size(&tokenizer) > IDS {
            return Err(format!("its largest id is {}, above {}", vocab_size(&tokenizer) - 1, IDS - 1).into());
        }
        if let ModelWrapper::BPE(BPE { dropout: Some(share), .. }) = tokenizer.get_model()
            && *share > 0.0
        {
            return Err(format!("its dropout of {share} leaves out merges at random; set it to null").into());
        }
        // What is read without a word may be damaged so that its use panics. That it lacks a token is no damage.
        for text in TRIED {
            if let Ok(encoding) = tokenizer.encode(text, true) {
                let _ = tokenizer.decode(encoding.get_ids(), false);
            }
        }
        Ok(tokenizer)
    };
    let read = caught(read).unwrap_or_else(|panic| Err(panic.into()));
    read.map_err(|error| {
        let why = instead(&bytes).unwrap_or_else(|| one_line(&error.to_string()));
        user_error!("{}: not a tokenizer.json: {why}", path.display())
    })
}

/// `text` in tokens; with `special`, between what the tokenizer puts before and after a text. A `tokenizer.json` that cannot do
/// it is the user's to mend, whether the library says so or panics: Oniguruma does where a rule backtracks without end.
pub fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Encoding> {
    let encoded = caught(|| tokenizer.encode(text, special)).unwrap_or_else(|panic| Err(panic.into()));
    encoded.map_err(|error| {
        let shown: String = text.chars().take(40).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        user_error!("tokenizer.json cannot cut {shown:?}{more} into tokens: {}", one_line(&error.to_string()))
    })
}

/// The text of `ids`, without special tokens where they are to be skipped.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Result<String> {
    let decoded = caught(|| tokenizer.decode(ids, skip_special)).unwrap_or_else(|panic| Err(panic.into()));
    decoded.map_err(|error| user_error!("tokenizer.json cannot put tokens together to a text: {}", one_line(&error.to_string())))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
