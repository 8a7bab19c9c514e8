//! Maps tokens as logs write them to ids of the student's tokenizer.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use anyhow::Result;
use hydrometer_base::text::quoted;
use hydrometer_base::user_error;
use tokenizers::Tokenizer;

use super::example::Token;
use super::line_error::{Kind, LineError};
use super::spelling::Spelling;
use super::{ends, tokenizer};
use crate::recipe::ExampleRecipe;

/// A student's tokenizer, limited to the ids below a vocabulary size.
pub struct Vocabulary<'a> {
    tokenizer: &'a Tokenizer,
    size: usize,
    /// The tokens that end a text; the first is the one that is appended.
    ends: Vec<u32>,
    /// Cache of the ids of token texts.
    known: RefCell<HashMap<String, Option<u32>>>,
    spelling: OnceCell<Spelling>,
}

impl<'a> Vocabulary<'a> {
    /// The ids below `size`; the recipe of `examples` decides how a text ends.
    pub fn new(tokenizer: &'a Tokenizer, size: usize, examples: Option<&ExampleRecipe>) -> Result<Self> {
        let ends = ends::ids(tokenizer, examples)?;
        Ok(Self { tokenizer, size, ends, known: RefCell::default(), spelling: OnceCell::new() })
    }

    /// Whether `id` ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The token to append at the end of a text.
    pub fn eos(&self) -> Result<u32> {
        self.ends.first().copied().ok_or_else(|| {
            user_error!("the tokenizer has no end-of-text token by a usual name; name it with eos_token, or set eos = \"none\"")
        })
    }

    /// Encodes `text`; if `special`, with the tokens that the tokenizer puts before and after a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(tokenizer::encode(self.tokenizer, text, special)?.get_ids().to_vec())
    }

    /// The ids of a document, and the number of bytes of its text that are predicted: without its first token, if that is text
    /// and not a BOS token.
    pub fn encode_document(&self, text: &str) -> Result<(Vec<u32>, u64)> {
        let encoding = tokenizer::encode(self.tokenizer, text, true)?;
        let unpredicted = encoding.get_offsets().first().map_or(0, |&(start, end)| end - start);
        Ok((encoding.get_ids().to_vec(), (text.len() - unpredicted) as u64))
    }

    /// The ids of a text that another follows: with the tokens that the tokenizer puts before a text, without those after it.
    pub fn encode_first(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = tokenizer::encode(self.tokenizer, text, true)?;
        // An empty text yields only the tokens that are put before it.
        let bare = self.encode(text, false)?;
        let mut ids = encoding.get_ids().to_vec();
        let special = encoding.get_special_tokens_mask();
        let before = special.iter().take_while(|&&mark| mark == 1).count();
        ids.truncate((before + bare.len()).min(ids.len()));
        if bare.is_empty() && before == special.len() {
            // Around an empty text, leading and trailing special tokens look alike; a letter, if it is a token, separates them.
            let letter = tokenizer::encode(self.tokenizer, "a", true)?;
            let marks = letter.get_special_tokens_mask();
            match marks.iter().position(|&mark| mark == 0) {
                Some(begin) => ids.truncate(begin),
                None => ids.retain(|id| !self.ends.contains(id)),
            }
        }
        Ok(ids)
    }

    /// Number of bytes of the text that `ids` stand for.
    pub fn bytes(&self, ids: &[u32]) -> Result<u64> {
        Ok(tokenizer::decode(self.tokenizer, ids, true)?.len() as u64)
    }

    /// An error if an id is outside the vocabulary.
    pub fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.size) {
            Some(id) => Err(user_error!("token id {id} is outside the vocabulary of {}", self.size)),
            None => Ok(()),
        }
    }

    /// The id of a token by its most reliable name: its id; else its bytes, unless its text shows that they are not its own; else
    /// its text. A token matches bytes or a text only if it spells them exactly. `None` if the vocabulary does not have it, or if
    /// nothing tells which token it is.
    pub fn id(&self, token: &Token) -> Option<u32> {
        let within = |id: &u32| (*id as usize) < self.size;
        if let Some(id) = token.id {
            return u32::try_from(id).ok().filter(within);
        }
        if token.ends {
            return self.eos().ok().filter(within);
        }
        let text = token.text.as_deref();
        let replaced = text.is_some_and(|text| text.contains('\u{fffd}'));
        match (&token.bytes, text) {
            // If characters were replaced by U+FFFD, these bytes may be those of the replacement.
            (Some(bytes), Some(text)) if replaced && bytes == text.as_bytes() => None,
            (Some(bytes), Some(text)) if bytes == text.as_bytes() => self.of_text(text),
            (Some(bytes), _) => match std::str::from_utf8(bytes) {
                Ok(text) => self.of_text(text),
                Err(_) => self.spelling().id(bytes),
            },
            (None, Some(text)) if !replaced => self.of_text(text),
            _ => None,
        }
    }

    /// The id of a token in a row of logprobs: as [`Self::id`], except that in byte-level vocabularies white space of several
    /// tokens maps to the first of them, as in metaseq.
    pub fn listed(&self, token: &Token) -> Option<u32> {
        self.id(token).or_else(|| {
            let text = token.text.as_deref().filter(|text| !text.is_empty() && text.trim().is_empty())?;
            if token.id.is_some() || token.bytes.as_ref().is_some_and(|bytes| bytes != text.as_bytes()) {
                return None;
            }
            let spelling = self.spelling();
            let first = *self.encode(text, false).ok().filter(|_| spelling.is_byte_level())?.first()?;
            spelling.bytes(first).is_some_and(|bytes| text.as_bytes().starts_with(bytes)).then_some(first)
        })
    }

    fn of_text(&self, text: &str) -> Option<u32> {
        if let Some(id) = self.known.borrow().get(text) {
            return *id;
        }
        let id = self.look_up(text).filter(|&id| (id as usize) < self.size);
        self.known.borrow_mut().insert(text.to_string(), id);
        id
    }

    fn look_up(&self, text: &str) -> Option<u32> {
        if text.is_empty() {
            return None;
        }
        let spelling = self.spelling();
        let spells = |id: u32| !spelling.is_known() || spelling.bytes(id) == Some(text.as_bytes());
        let single = match self.encode(text, false).ok()?[..] {
            [only] if spells(only) => Some(only),
            _ => None,
        };
        // A text alone is tokenised differently than within a longer text: SentencePiece prepends a space.
        single
            .or_else(|| spelling.id(text.as_bytes()))
            .or_else(|| self.tokenizer.token_to_id(text).filter(|_| spelling.is_name(text)))
    }

    /// The spelling of the tokens.
    pub fn spelling(&self) -> &Spelling {
        self.spelling.get_or_init(|| Spelling::of(self.tokenizer, self.size))
    }

    /// Whether a text may lack `id`, e.g. because it ends the text.
    pub fn is_hidden(&self, id: u32) -> bool {
        self.is_end(id) || self.spelling().is_special(id)
    }

    /// Whether the other names of `token` may be names of `id`, the one that was chosen. Spaces around a text are ignored, a
    /// special token is written in many ways or not at all, and a part of a character has no text.
    fn is_named(&self, id: u32, token: &Token) -> bool {
        if token.bytes.is_none() && token.text.is_none() {
            return true;
        }
        let spelling = self.spelling();
        let Some(spelled) = spelling.bytes(id) else { return true };
        let hidden = self.is_hidden(id);
        let name = self.tokenizer.id_to_token(id).unwrap_or_default();
        let bare = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace('▁', " ");
            text.trim_matches(' ').to_string()
        };
        let names = |given: &[u8]| {
            let unclear = given.is_empty() || contains(given, "\u{fffd}".as_bytes()) || std::str::from_utf8(spelled).is_err();
            let special = || hidden && matches!(given.trim_ascii().first(), None | Some(b'<' | b'['));
            unclear || given == name.as_bytes() || bare(given) == bare(spelled) || special()
        };
        let escaped = |text: &str| text.starts_with("bytes:") || text.starts_with("token_id:") || text.contains("\\x");
        let written = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(escaped);
        let bytes = token.bytes.as_deref().filter(|bytes| !written(bytes));
        let text = token.text.as_deref().filter(|text| !escaped(text));
        // A text that differs from its bytes stands for a part of a character.
        let text = text.filter(|text| bytes.is_none_or(|bytes| bytes == text.as_bytes()));
        bytes.is_none_or(names) && text.is_none_or(|text| names(text.as_bytes()))
    }

    /// A [`LineError`] if other names of `token` cannot be those of `id`, the one that was chosen.
    pub fn check_names(&self, id: u32, token: &Token) -> Result<(), LineError> {
        if self.is_named(id, token) {
            return Ok(());
        }
        let ours = String::from_utf8_lossy(self.spelling().bytes(id).unwrap_or_default()).into_owned();
        let theirs = token
            .text
            .as_ref()
            .map_or_else(|| format!("of bytes {:?}", token.bytes.as_deref().unwrap_or_default()), |text| quoted(text));
        let what = format!(
            "token id {id} is {} in the tokenizer but {theirs} in the log: the id is of another tokenizer; use the teacher's tokenizer",
            quoted(&ours)
        );
        Err(LineError::new(Kind::Contradictory, what))
    }

    /// The id of a token that is part of a text; an error if it has none, because the text is unknown then.
    pub fn need(&self, token: &Token) -> Result<u32, LineError> {
        let Some(id) = self.id(token) else { return Err(LineError::new(Kind::UnknownToken, self.unknown(token))) };
        self.check_names(id, token)?;
        Ok(id)
    }

    /// Why `token` has no id here, and the cure.
    fn unknown(&self, token: &Token) -> String {
        const IDS: &str = "have the server write token ids or bytes";
        if let Some(id) = token.id {
            return format!("token id {id} is outside the vocabulary of {}; use the teacher's tokenizer", self.size);
        }
        if token.ends {
            return "the last token has no text, and the tokenizer has no end-of-text token by a usual name; name it with eos_token".into();
        }
        match (&token.bytes, &token.text) {
            (_, Some(text)) if text.contains('\u{fffd}') && token.bytes.as_ref().is_none_or(|bytes| bytes == text.as_bytes()) => {
                format!("the token {} is a part of a character, and neither an id nor its bytes tell which; {IDS}", quoted(text))
            }
            (None, Some(text)) if text.is_empty() => format!("a token has neither an id, nor bytes, nor a text; {IDS}"),
            (Some(bytes), text) if text.as_ref().is_none_or(|text| text.as_bytes() != bytes) => {
                format!("the token of bytes {bytes:?} is no single token of the tokenizer; use the teacher's tokenizer")
            }
            _ => format!("the token {} is no single token of the tokenizer; use the teacher's tokenizer", token.shown()),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        crate::tokenizer::open(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/data").join(name))
            .unwrap()
    }

    fn bytes(text: &str, bytes: &[u8]) -> Token {
        Token { bytes: Some(bytes.to_vec()), ..Token::text(text) }
    }

    /// Oracle: the vocabulary file.
    #[test]
    fn the_most_reliable_name_decides() {
        let tokenizer = tokenizer("parts.json");
        let vocabulary = Vocabulary::new(&tokenizer, 295, None).unwrap();
        let cases = [
            (Token { id: Some(294), ..bytes(" ", b" ") }, Some(294)),
            (bytes(" ", b" \xe2\x82"), Some(294)),
            (bytes("", &[226]), Some(228)),
            (Token { id: Some(282), ..bytes("", b"token_id:282") }, Some(282)),
            (Token::named("bytes:\\xac"), Some(174)),
            (Token::named("token_id:48"), Some(48)),
            (Token::text("The"), Some(282)),
            (Token::text("ĠâĤ"), Some(294)),
            (Token { ends: true, ..Token::default() }, Some(1)),
            (Token::text("</s>"), Some(1)),
            // Tokens that cannot be identified or do not exist.
            (Token::text("\u{fffd}"), None),
            (bytes("\u{fffd}", "\u{fffd}".as_bytes()), None),
            (Token::text(""), None),
            (Token::id(295), None),
            (Token::id(u64::MAX), None),
            (Token::text("é"), None),
            (bytes("é", &[0xe9]), Some(235)),
            (bytes("The", b"The mill"), None),
        ];
        for (token, id) in cases {
            assert_eq!(vocabulary.id(&token), id, "{token:?}");
        }
    }

    #[test]
    fn white_space_resolves_to_the_token_with_its_bytes() {
        let tokenizer = tokenizer("sentencepiece.json");
        let vocabulary = Vocabulary::new(&tokenizer, 376, None).unwrap();
        let cases =
            [("\n", Some(13)), ("\t", Some(12)), (" ", Some(259)), ("The", Some(370)), (" The", Some(356)), ("<0x0A>", Some(13))];
        for (text, id) in cases {
            assert_eq!(vocabulary.listed(&Token::text(text)), id, "{text:?}");
        }
        for text in ["\n\n", "  ", "☃", "zz"] {
            assert_eq!(vocabulary.listed(&Token::text(text)), None, "{text:?}");
        }
        // metaseq's rule for white space: only in byte-level vocabularies, for which it was written, and only in rows of logprobs.
        let tokenizer = self::tokenizer("parts.json");
        let vocabulary = Vocabulary::new(&tokenizer, 295, None).unwrap();
        assert_eq!((vocabulary.listed(&Token::text("  ")), vocabulary.id(&Token::text("  "))), (Some(34), None));
        assert_eq!(vocabulary.listed(&Token::text("\n")), Some(12));
    }

    #[test]
    fn names_of_different_tokens_contradict_each_other() {
        let tokenizer = tokenizer("parts.json");
        let vocabulary = Vocabulary::new(&tokenizer, 295, None).unwrap();
        let named = |id, token: Token| vocabulary.is_named(id, &token);
        for (id, token) in [
            (280, Token::text("mill")),
            (280, Token::text("Ġmill")),
            (282, Token::text(" The")),
            (228, Token::text("\u{fffd}")),
            (174, Token::text("€")),
            (1, Token::text("")),
            (1, Token::text("<|end|>")),
            (282, bytes("token_id:282", b"token_id:282")),
        ] {
            assert!(named(id, token.clone()), "{id} {token:?}");
        }
        for (id, token) in
            [(280, Token::text(" old")), (1, Token::text(" mill")), (34, Token::text("\n")), (48, bytes(".", b","))]
        {
            assert!(!named(id, token.clone()), "{id} {token:?}");
        }
    }
}
