//! Text to token ids: a byte-level BPE trained on the train split, or a `tokenizer.json`.

use std::path::Path;

use anyhow::{Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use super::corpus::Reader;
use super::example::Piece;
use crate::user_error;

/// Begins every document, so that its first token is predicted too.
const BOS: &str = "<|begin|>";

/// Ends the target of every example.
const EOS: &str = "<|end|>";
/// Bytes of text that a tokenizer is trained on, at most: the first of the split.
const TRAINING_TEXT: usize = 64 << 20;

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
        let text: String = example.source.iter().chain(&example.target).map(Piece::text).collect::<Vec<_>>().join("\n");
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
    let fault = |error: tokenizers::Error| user_error!("{}: not a tokenizer.json: {error}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(fault)?;
    tokenizer.with_truncation(None).map_err(fault)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}
