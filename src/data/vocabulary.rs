//! From a token as a log writes it to an id of the student's tokenizer.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::Result;
use tokenizers::Tokenizer;

use super::damage::{Damage, Kind};
use super::example::Token;
use super::{ends, tokenizer};
use crate::experiment::recipe::ExampleRecipe;
use crate::user_error;

pub struct Vocabulary<'a> {
    tokenizer: &'a Tokenizer,
    size: usize,
    /// The tokens that end a text; the first is the one that is appended.
    ends: Vec<u32>,
    /// Ids of token texts that were asked for.
    known: RefCell<HashMap<String, Option<u32>>>,
}

impl<'a> Vocabulary<'a> {
    /// Of ids below `size`; a text of `examples` ends as their recipe says.
    pub fn new(tokenizer: &'a Tokenizer, size: usize, examples: Option<&ExampleRecipe>) -> Result<Self> {
        Ok(Self { tokenizer, size, ends: ends::ids(tokenizer, examples)?, known: RefCell::default() })
    }

    /// Whether `id` ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The token to end a text with.
    pub fn eos(&self) -> Result<u32> {
        self.ends.first().copied().ok_or_else(|| {
            user_error!("the tokenizer has no end-of-text token by a usual name; name it with eos_token, or set eos = \"none\"")
        })
    }

    /// The ids of `text`; with `special`, between what the tokenizer puts before and after a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(tokenizer::encode(self.tokenizer, text, special)?.get_ids().to_vec())
    }

    /// The ids of a document, and the bytes of its text that are predicted: of its first token they are not, where that is text
    /// (no BOS).
    pub fn encode_document(&self, text: &str) -> Result<(Vec<u32>, u64)> {
        let encoding = tokenizer::encode(self.tokenizer, text, true)?;
        let unpredicted = encoding.get_offsets().first().map_or(0, |&(start, end)| end - start);
        Ok((encoding.get_ids().to_vec(), (text.len() - unpredicted) as u64))
    }

    /// The ids of a text that another follows: with what the tokenizer puts before a text, without what it puts after one.
    pub fn encode_first(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = tokenizer::encode(self.tokenizer, text, true)?;
        // Of an empty text only its beginning is left.
        let bare = self.encode(text, false)?;
        let mut ids = encoding.get_ids().to_vec();
        let special = encoding.get_special_tokens_mask();
        let before = special.iter().take_while(|&&mark| mark == 1).count();
        ids.truncate((before + bare.len()).min(ids.len()));
        if bare.is_empty() && before == special.len() {
            // An empty text does not tell what begins it from what ends it; a letter does, where it is a token.
            let letter = tokenizer::encode(self.tokenizer, "a", true)?;
            let marks = letter.get_special_tokens_mask();
            match marks.iter().position(|&mark| mark == 0) {
                Some(begin) => ids.truncate(begin),
                None => ids.retain(|id| !self.ends.contains(id)),
            }
        }
        Ok(ids)
    }

    /// Bytes of the text that `ids` stand for.
    pub fn bytes(&self, ids: &[u32]) -> Result<u64> {
        Ok(tokenizer::decode(self.tokenizer, ids, true)?.len() as u64)
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
