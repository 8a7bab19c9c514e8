//! From a token as a log writes it to an id of the student's tokenizer.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Result, anyhow};
use tokenizers::Tokenizer;

use super::damage::{Damage, Kind};
use super::example::Token;
use crate::user_error;

/// Names that tokenizers give the token that ends a text, in the order in which they are looked for.
const EOS_NAMES: [&str; 7] = ["</s>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>"];

pub struct Vocabulary<'a> {
    tokenizer: &'a Tokenizer,
    size: usize,
    eos: Option<u32>,
    /// Ids of token texts that were asked for.
    known: RefCell<HashMap<String, Option<u32>>>,
}

impl<'a> Vocabulary<'a> {
    /// Of ids below `size`. `eos` names the token that ends a text.
    pub fn new(tokenizer: &'a Tokenizer, size: usize, eos: Option<&str>) -> Result<Self> {
        let id = |name: &str| tokenizer.token_to_id(name);
        let eos = match eos {
            Some(name) => {
                Some(id(name).ok_or_else(|| user_error!("the tokenizer has no token {name:?}; correct eos_token of the data"))?)
            }
            None => EOS_NAMES.into_iter().find_map(id),
        };
        Ok(Self { tokenizer, size, eos, known: RefCell::default() })
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Result<u32> {
        self.eos.ok_or_else(|| {
            user_error!("the tokenizer has no end-of-text token by a usual name; name it with eos_token, or set eos = \"none\"")
        })
    }

    /// The ids of `text`; with `special`, between what the tokenizer puts before and after a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, special).map_err(|error| anyhow!("tokenizing: {error}"))?.get_ids().to_vec())
    }

    /// The ids of a document, and the bytes of its text that are predicted: of its first token they are not, where that is text
    /// (no BOS).
    pub fn encode_document(&self, text: &str) -> Result<(Vec<u32>, u64)> {
        let encoding = self.tokenizer.encode(text, true).map_err(|error| anyhow!("tokenizing: {error}"))?;
        let unpredicted = encoding.get_offsets().first().map_or(0, |&(start, end)| end - start);
        Ok((encoding.get_ids().to_vec(), (text.len() - unpredicted) as u64))
    }

    /// The ids of a text that another follows: with what the tokenizer puts before a text, without what it puts after one.
    pub fn encode_first(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, true).map_err(|error| anyhow!("tokenizing: {error}"))?;
        // Of an empty text only its beginning is left.
        let bare = self.encode(text, false)?;
        let mut ids = encoding.get_ids().to_vec();
        let special = encoding.get_special_tokens_mask();
        let before = special.iter().take_while(|&&mark| mark == 1).count();
        ids.truncate((before + bare.len()).min(ids.len()));
        if bare.is_empty() && before == special.len() {
            // Nothing tells beginning from end but the name of the end.
            ids.retain(|id| Some(*id) != self.eos);
        }
        Ok(ids)
    }

    /// Bytes of the text that `ids` stand for.
    pub fn bytes(&self, ids: &[u32]) -> Result<u64> {
        Ok(self.tokenizer.decode(ids, true).map_err(|error| anyhow!("decoding: {error}"))?.len() as u64)
    }

    pub fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.size) {
            Some(id) => Err(user_error!("token id {id} is outside the vocabulary of {}", self.size)),
            None => Ok(()),
        }
    }

    /// The id of a token, as the seed finds it: its id if it has one; else of its text, where that is one piece, or a token by
    /// that name; of white space in several pieces the first. Beyond the seed, a token whose bytes the log gives is looked up by
    /// them. `None`: the vocabulary does not have it.
    pub fn id(&self, token: &Token) -> Option<u32> {
        if let Some(id) = token.id {
            return u32::try_from(id).ok().filter(|&id| (id as usize) < self.size);
        }
        let text = token.text.as_deref()?;
        if let Some(bytes) = &token.bytes
            && (text.starts_with("bytes:") || text.contains("\\x") || text.contains('\u{fffd}'))
        {
            return self.tokenizer.token_to_id(&byte_level(bytes)).filter(|&id| (id as usize) < self.size);
        }
        if let Some(id) = self.known.borrow().get(text) {
            return *id;
        }
        let id = self.look_up(text).filter(|&id| (id as usize) < self.size);
        self.known.borrow_mut().insert(text.to_string(), id);
        id
    }

    fn look_up(&self, text: &str) -> Option<u32> {
        // Where a space is written as a mark (SentencePiece), a text alone would be read as after a space.
        if let (Some(_), Some(id)) = (self.tokenizer.token_to_id("▁"), self.tokenizer.token_to_id(&text.replace(' ', "▁"))) {
            return Some(id);
        }
        let pieces = self.encode(text, false).ok()?;
        match pieces[..] {
            [] => None,
            [only] => Some(only),
            [first, ..] => self
                .tokenizer
                .token_to_id(text)
                .or_else(|| self.tokenizer.token_to_id(&byte_level(text.as_bytes())).filter(|_| !text.starts_with("bytes:")))
                .or_else(|| text.trim().is_empty().then_some(first)),
        }
    }

    /// The id of a token that is part of a text: without it the text is not known.
    pub fn need(&self, token: &Token) -> Result<u32, Damage> {
        self.id(token).ok_or_else(|| {
            let what = format!("the token {} is no single token of the tokenizer; use the teacher's tokenizer", token.shown());
            Damage::new(Kind::UnknownToken, what)
        })
    }
}

/// `bytes` as byte-level BPE spells them (Radford et al. 2019).
fn byte_level(bytes: &[u8]) -> String {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let spelled = |&b: &u8| -> char {
        if printable(b) {
            return char::from(b);
        }
        let before = (0..b).filter(|&other| !printable(other)).count() as u32;
        char::from_u32(256 + before).expect("below the surrogates")
    };
    bytes.iter().map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_the_tokenizer_spells_them() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let alphabet = ByteLevel::alphabet();
        let all: Vec<u8> = (0..=255).collect();
        let spelled: Vec<char> = byte_level(&all).chars().collect();
        assert!(spelled.iter().all(|c| alphabet.contains(c)));
        assert_eq!(byte_level(" a\n".as_bytes()), "ĠaĊ");
        let distinct: std::collections::BTreeSet<char> = spelled.into_iter().collect();
        assert_eq!(distinct.len(), 256);
    }
}
