//! The bytes that each token of a vocabulary spells; the tokens in logs are checked against them.
//!
//! Two kinds of tokenizer are supported. Byte-level vocabularies (GPT-2 and its descendants) write every byte as a printable
//! character. SentencePiece writes a space as a mark, and a byte that no other token covers as `<0x0A>`. For other vocabularies
//! (WordPiece) the spelling is unknown, and nothing is checked.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::Tokenizer;

/// How a tokenizer writes bytes.
#[derive(Clone, Debug, PartialEq)]
enum Alphabet {
    /// As in byte-level BPE (Radford et al. 2019).
    ByteLevel,
    /// With a mark for a space and, if `bytes`, single bytes as `<0x0A>`.
    Marked {
        mark: String,
        bytes: bool,
    },
    Unknown,
}

/// The bytes of every token of a vocabulary.
pub struct Spelling {
    alphabet: Alphabet,
    /// By id; `None` if there is no token, or if its spelling is unknown.
    spelled: Vec<Option<Box<[u8]>>>,
    special: HashSet<u32>,
    /// Token by spelling. If several tokens spell the same: the first that is not a single-byte token, else the first.
    ids: HashMap<Box<[u8]>, u32>,
}

impl Spelling {
    /// The spelling of the ids below `size`.
    pub fn of(tokenizer: &Tokenizer, size: usize) -> Self {
        let alphabet = Alphabet::of(tokenizer);
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let levels = levels();
        let mut spelled: Vec<Option<Box<[u8]>>> = Vec::with_capacity(size);
        let mut ids = HashMap::new();
        let mut single = Vec::new();
        for id in 0..size as u32 {
            let bytes = match added.get(&id) {
                _ if alphabet == Alphabet::Unknown => None,
                Some(token) => Some(token.content.clone().into_bytes()),
                None => tokenizer.id_to_token(id).map(|name| alphabet.bytes(&name, &levels)),
            };
            let bytes = bytes.map(Vec::into_boxed_slice);
            if let Some(bytes) = &bytes {
                let byte = alphabet.has_bytes() && tokenizer.id_to_token(id).as_deref().and_then(single_byte).is_some();
                if byte {
                    single.push(id);
                } else {
                    ids.entry(bytes.clone()).or_insert(id);
                }
            }
            spelled.push(bytes);
        }
        for id in single {
            if let Some(bytes) = &spelled[id as usize] {
                ids.entry(bytes.clone()).or_insert(id);
            }
        }
        Self { alphabet, spelled, special, ids }
    }

    /// Whether the spelling of this vocabulary is known.
    pub fn is_known(&self) -> bool {
        self.alphabet != Alphabet::Unknown
    }

    pub fn is_byte_level(&self) -> bool {
        self.alphabet == Alphabet::ByteLevel
    }

    /// The bytes that `id` spells, if known.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.spelled.get(id as usize)?.as_deref()
    }

    /// Whether `id` is a special token, which a text may hide.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token that spells `bytes`.
    pub fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.get(bytes).copied()
    }

    /// Whether `text` can only be a token's name in the vocabulary: it has the character that represents a space or a line break,
    /// or is the name of a byte.
    pub fn is_name(&self, text: &str) -> bool {
        match &self.alphabet {
            Alphabet::ByteLevel => text.contains(['Ġ', 'Ċ']),
            Alphabet::Marked { mark, bytes } => text.contains(mark.as_str()) || *bytes && single_byte(text).is_some(),
            Alphabet::Unknown => true,
        }
    }
}

impl Alphabet {
    /// Derives the alphabet from the decoder of `tokenizer`, or from its normalizer and pre-tokenizer if it has none.
    fn of(tokenizer: &Tokenizer) -> Self {
        let parts = |part: serde_json::Result<Value>| {
            let mut all = Vec::new();
            flatten(part.unwrap_or_default(), &mut all);
            all
        };
        let decoder = parts(serde_json::to_value(tokenizer.get_decoder()));
        let decodes = !decoder.is_empty();
        let parts = match decodes {
            true => decoder,
            false => {
                let mut before = parts(serde_json::to_value(tokenizer.get_pre_tokenizer()));
                before.extend(parts(serde_json::to_value(tokenizer.get_normalizer())));
                before
            }
        };
        let is = |part: &Value, name: &str| part["type"] == name;
        if parts.iter().any(|part| is(part, "ByteLevel")) {
            return Self::ByteLevel;
        }
        let mark = parts.iter().find_map(|part| match part["type"].as_str()? {
            "Metaspace" => Some(part["replacement"].as_str().unwrap_or("▁").to_string()),
            "Replace" => {
                let (from, to) = (part["pattern"]["String"].as_str()?, part["content"].as_str()?);
                let (mark, space) = if decodes { (from, to) } else { (to, from) };
                (space == " " && mark != " ").then(|| mark.to_string())
            }
            _ => None,
        });
        let bytes = parts.iter().any(|part| is(part, "ByteFallback"))
            || !decodes && serde_json::to_value(tokenizer.get_model()).is_ok_and(|model| model["byte_fallback"] == true);
        mark.map_or(Self::Unknown, |mark| Self::Marked { mark, bytes })
    }

    fn has_bytes(&self) -> bool {
        matches!(self, Self::Marked { bytes: true, .. })
    }

    /// The bytes that the token with this name spells.
    fn bytes(&self, name: &str, levels: &HashMap<char, u8>) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                // A name with characters outside the alphabet is taken literally.
                let bytes: Option<Vec<u8>> = name.chars().map(|c| levels.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| name.as_bytes().to_vec())
            }
            Self::Marked { bytes: true, .. } if single_byte(name).is_some() => single_byte(name).into_iter().collect(),
            Self::Marked { mark, .. } => name.replace(mark.as_str(), " ").into_bytes(),
            Self::Unknown => Vec::new(),
        }
    }
}

/// Flattens `part` of a tokenizer: the part itself, or the members of a sequence.
fn flatten(part: Value, all: &mut Vec<Value>) {
    match part {
        Value::Null => {}
        Value::Array(parts) => parts.into_iter().for_each(|part| flatten(part, all)),
        Value::Object(mut fields) if fields.get("type").is_some_and(|kind| kind == "Sequence") => {
            for key in ["decoders", "pretokenizers", "normalizers"] {
                fields.remove(key).into_iter().for_each(|part| flatten(part, all));
            }
        }
        part => all.push(part),
    }
}

/// The byte that a name like `<0x0A>` represents.
fn single_byte(name: &str) -> Option<u8> {
    let hex = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The byte that each character of the byte-level alphabet represents.
fn levels() -> HashMap<char, u8> {
    let mut next = 256;
    let level = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => (char::from(byte), byte),
        _ => {
            let c = char::from_u32(next).unwrap_or_default();
            next += 1;
            (c, byte)
        }
    };
    (0..=255).map(level).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_level_alphabet_equals_that_of_tokenizers() {
        let (levels, alphabet) = (levels(), ByteLevel::alphabet());
        assert_eq!(levels.len(), 256);
        assert!(levels.keys().all(|c| alphabet.contains(c)));
        assert_eq!((levels[&'Ġ'], levels[&'Ċ'], levels[&'é']), (b' ', b'\n', 0xe9));
    }

    /// Oracle: the tokenizer's own decoder, applied to the whole text.
    #[test]
    fn the_bytes_of_ids_equal_the_decoders_text() {
        let text = "The old mill\nThe river\n\n  mill! é€🙂\t.";
        for (tokenizer, lead) in [(sentencepiece(), " "), (byte_level(), "")] {
            let spelling = Spelling::of(&tokenizer, 400);
            let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
            let spelled: Vec<u8> = ids.iter().flat_map(|&id| spelling.bytes(id).unwrap().to_vec()).collect();
            assert_eq!(String::from_utf8(spelled).unwrap(), format!("{lead}{text}"));
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            for id in ids {
                let bytes = spelling.bytes(id).unwrap();
                assert_eq!(spelling.bytes(spelling.id(bytes).unwrap()), Some(bytes));
            }
        }
    }

    #[test]
    fn a_byte_token_is_used_only_for_bytes_without_another_token() {
        let spelling = Spelling::of(&sentencepiece(), 400);
        assert_eq!(spelling.id(b"\n"), Some(13));
        assert_eq!(spelling.bytes(spelling.id(b"A").unwrap()), Some(&b"A"[..]));
        assert!(spelling.id(b"A").unwrap() > 258, "not <0x41>");
        assert!(spelling.is_special(2) && !spelling.is_special(13));
        assert!(spelling.is_name("<0x0A>") && spelling.is_name("▁old") && !spelling.is_name("old"));
    }

    fn fixture(path: &str) -> Tokenizer {
        crate::tokenizer::open(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)).unwrap()
    }

    fn sentencepiece() -> Tokenizer {
        fixture("data/sentencepiece.json")
    }

    fn byte_level() -> Tokenizer {
        fixture("data/parts.json")
    }
}
