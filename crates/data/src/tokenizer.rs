//! Tokenizers: a byte-level BPE trained on the train split, or a `tokenizer.json`.

use std::path::Path;

use anyhow::{Result, anyhow};
use hydrometer_base::guard::{caught, read_file};
use hydrometer_base::user_error;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Encoding, Tokenizer, TokenizerBuilder};

use super::content::recognise_other_kind;
use super::corpus::Reader;
use super::example::Segment;
use super::lines::BOM;
use crate::recipe::Ends;

/// Begins every document, so that its first token is predicted too.
const BOS: &str = "<|begin|>";

/// Ends the target of every example.
const EOS: &str = "<|end|>";
/// Maximum number of bytes of text that a tokenizer is trained on, from the beginning of the split.
const TRAINING_TEXT: usize = 64 << 20;
/// Maximum number of ids in a `tokenizer.json`.
const IDS: usize = 1 << 20;
/// Texts that are encoded when a `tokenizer.json` is opened, to test it.
const PROBES: [&str; 3] = ["", "a", " It's 12 of the\n\n old mills: áé, \u{1f642}\t(ſ).  "];

/// Trains a byte-level BPE of at most `vocab_size` entries on the examples of `reader`. Encoding prepends [`BOS`]; with `ends`,
/// the vocabulary has an [`EOS`] too.
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

/// The end-of-text token of a tokenizer made by [`train`].
pub fn own_end() -> Ends {
    Ends { ids: vec![1], tokens: vec![EOS.to_string()], from: "the tokenizer that is trained here".into(), ignored: Vec::new() }
}

/// The ids, up to the largest of `mine`, that stand for different tokens in `mine` and `theirs`: with both tokens, in order. A
/// special token of `mine` that `theirs` lacks is padding and does not count.
pub fn differences(mine: &Tokenizer, theirs: &Tokenizer) -> Vec<(u32, Option<String>, Option<String>)> {
    let added = mine.get_added_tokens_decoder();
    let special = |id: u32| added.get(&id).is_some_and(|token| token.special);
    let both = (0..vocab_size(mine) as u32).map(|id| (id, mine.id_to_token(id), theirs.id_to_token(id)));
    both.filter(|(id, a, b)| a != b && a.is_some() && !(b.is_none() && special(*id))).collect()
}

/// The largest id plus one (ids may have gaps), or 0 if there are no tokens.
pub fn vocab_size(tokenizer: &Tokenizer) -> usize {
    tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
}

/// The largest id of a token that is not special, plus one.
pub fn ordinary_ids(tokenizer: &Tokenizer) -> usize {
    let added = tokenizer.get_added_tokens_decoder();
    let ordinary = |id: &u32| !added.get(id).is_some_and(|token| token.special);
    tokenizer.get_vocab(true).into_values().filter(ordinary).max().map_or(0, |id| id as usize + 1)
}

/// Opens a `tokenizer.json`. Its truncation and padding settings are dropped: documents stay whole.
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
        // A damaged file may open without an error and panic when it is used. A missing token is not damage.
        for text in PROBES {
            if let Ok(encoding) = tokenizer.encode(text, true) {
                let _ = tokenizer.decode(encoding.get_ids(), false);
            }
        }
        Ok(tokenizer)
    };
    let read = caught(read).unwrap_or_else(|panic| Err(panic.into()));
    read.map_err(|error| {
        let why = recognise_other_kind(&bytes).unwrap_or_else(|| one_line(&error.to_string()));
        user_error!("{}: not a tokenizer.json: {why}", path.display())
    })
}

/// Encodes `text`; if `special`, with the tokens that the tokenizer puts before and after a text. If a `tokenizer.json` fails at
/// that, it is a user error, even if the library panics: Oniguruma does if a rule backtracks without end.
pub fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Encoding> {
    let encoded = caught(|| tokenizer.encode(text, special)).unwrap_or_else(|panic| Err(panic.into()));
    encoded.map_err(|error| {
        let shown: String = text.chars().take(40).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        user_error!("tokenizer.json cannot cut {shown:?}{more} into tokens: {}", one_line(&error.to_string()))
    })
}

/// Decodes `ids` to text, without special tokens if `skip_special`.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Result<String> {
    let decoded = caught(|| tokenizer.decode(ids, skip_special)).unwrap_or_else(|panic| Err(panic.into()));
    decoded.map_err(|error| user_error!("tokenizer.json cannot put tokens together to a text: {}", one_line(&error.to_string())))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
