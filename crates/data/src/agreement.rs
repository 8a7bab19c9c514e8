//! Checks that the tokens of a line spell the text that the line gives beside them.
//!
//! Servers hide special tokens, trim white space at both ends, remove a stop string from the text but not from the tokens, and
//! write U+FFFD, or nothing, for a part of a character. All of these count as agreement; any other difference is an error.

use std::collections::BTreeSet;

use super::example::Token;
use super::line_error::{Kind, LineError};
use super::spelling::Spelling;

/// Longest stop string, in bytes.
const STOP_MAX: usize = 64;

/// A text and the tokens that should spell it.
pub struct Claim<'a> {
    /// What messages call the text.
    pub of: &'a str,
    pub text: &'a str,
    /// Its tokens: as the line writes them, and as ids.
    pub tokens: &'a [Token],
    pub ids: &'a [u32],
    /// What the text may lack.
    pub may_lack: Lack,
}

/// Which part of its tokens' spelling a text may omit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Nothing,
    /// A stop string at its end.
    Stop,
    /// Nothing, but the tokens may be only the end of a longer text.
    Beginning,
}

/// A [`LineError`] if the ids of `claim` do not spell its text. `hidden` tells which ids a text may lack.
pub fn check(spelling: &Spelling, claim: &Claim, hidden: impl Fn(u32) -> bool) -> Result<(), LineError> {
    let bytes: Option<Vec<&[u8]>> = claim.ids.iter().map(|&id| spelling.bytes(id)).collect();
    // Without a known spelling nothing can be checked.
    let Some(bytes) = bytes else { return Ok(()) };
    let spelled: Vec<(bool, &[u8])> = claim.ids.iter().map(|&id| hidden(id)).zip(bytes).collect();
    let visible: Vec<u8> = spelled.iter().filter(|(hidden, _)| !hidden).flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    let text = unescaped(spelling, claim.text);
    let names: BTreeSet<&[u8]> =
        spelled.iter().filter(|(hidden, name)| *hidden && !name.is_empty()).map(|(_, name)| *name).collect();
    let without = names.into_iter().fold(text.clone(), |text, name| remove(&text, name));
    let texts = [text.as_slice(), &without];
    if texts.iter().any(|text| agree(&visible, text, claim.may_lack)) {
        return Ok(());
    }
    let partial = spelled.iter().any(|(_, bytes)| std::str::from_utf8(bytes).is_err());
    if partial && claim.tokens.len() == claim.ids.len() {
        // A text that was joined from the texts of the tokens lacks whatever these lack.
        let written: Option<String> = claim.tokens.iter().map(|token| token.text.as_deref()).collect();
        if written.is_some_and(|written| written == claim.text) {
            return Ok(());
        }
    }
    // If a conversation turn has parts, each between special tokens, the text may be one of the parts.
    let turns =
        spelled.iter().rposition(|(hidden, _)| !hidden).is_some_and(|last| spelled[..last].iter().any(|(hidden, _)| *hidden));
    if turns && texts.iter().any(|text| contains(&visible, text.trim_ascii())) {
        return Ok(());
    }
    let (ours, theirs) = around_difference(&String::from_utf8_lossy(&visible), claim.text);
    let what = format!(
        "the tokens of {} spell {ours} but its text is {theirs}: they are not of one tokenizer or not of one text",
        claim.of
    );
    Err(LineError::new(Kind::Contradictory, what))
}

fn agree(spelled: &[u8], text: &[u8], may_lack: Lack) -> bool {
    if same_but_for_ends(spelled, text) {
        return true;
    }
    let lossy = text.windows(3).any(|three| three == "\u{fffd}".as_bytes()) || std::str::from_utf8(spelled).is_err();
    if lossy && same_but_for_ends(&ascii(spelled), &ascii(text)) {
        return true;
    }
    let (spelled, text) = match lossy {
        true => (ascii(spelled), ascii(text)),
        false => (spelled.to_vec(), text.to_vec()),
    };
    match may_lack {
        Lack::Nothing => {}
        Lack::Stop => {
            let begin = text.trim_ascii();
            let rest = spelled.trim_ascii_start().strip_prefix(begin);
            // An empty text is not the beginning of an answer.
            if !begin.is_empty() && rest.is_some_and(|rest| rest.trim_ascii().len() <= STOP_MAX) {
                return true;
            }
        }
        Lack::Beginning => {
            if text.trim_ascii_end().ends_with(spelled.trim_ascii()) {
                return true;
            }
        }
    }
    // transformers tidies up spaces in what it decodes (`clean_up_tokenization_spaces`).
    same_but_for_ends(&tidied(&spelled), &tidied(&text))
}

/// Whether both are equal, apart from extra white space at the ends of one of them.
fn same_but_for_ends(a: &[u8], b: &[u8]) -> bool {
    if a.trim_ascii() != b.trim_ascii() {
        return false;
    }
    if a.trim_ascii().is_empty() {
        // If one is white space alone, any of it may have been trimmed.
        return a.is_empty() || b.is_empty() || a.ends_with(b) || b.ends_with(a);
    }
    let ends = |text: &[u8]| {
        let (start, end) = (text.len() - text.trim_ascii_start().len(), text.trim_ascii_end().len());
        (text[..start].to_vec(), text[end..].to_vec())
    };
    let ((a_start, a_end), (b_start, b_end)) = (ends(a), ends(b));
    (a_start.ends_with(&b_start) || b_start.ends_with(&a_start)) && (a_end.starts_with(&b_end) || b_end.starts_with(&a_end))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

fn tidied(text: &[u8]) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(text).into_owned();
    for mark in [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"] {
        text = text.replace(&format!(" {mark}"), mark);
    }
    text.replace(" ' ", "'").into_bytes()
}

/// `text` with escapes such as `bytes:\xe2\x80` and `token_id:17` replaced by the bytes they stand for.
fn unescaped(spelling: &Spelling, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(mut after) = rest.strip_prefix("bytes:") {
            let mut bytes = Vec::new();
            while let Some(byte) = after.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok()) {
                bytes.push(byte);
                after = &after[4..];
            }
            if !bytes.is_empty() {
                out.extend(bytes);
                rest = after;
                continue;
            }
        }
        if let Some(after) = rest.strip_prefix("token_id:") {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            if let Some(bytes) = after[..end].parse().ok().and_then(|id| spelling.bytes(id)) {
                out.extend(bytes);
                rest = &after[end..];
                continue;
            }
        }
        out.extend(&rest.as_bytes()[..c.len_utf8()]);
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn remove(text: &[u8], part: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, others)) = rest.split_first() {
        match rest.strip_prefix(part) {
            Some(after) => rest = after,
            None => {
                out.push(first);
                rest = others;
            }
        }
    }
    out
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// Both texts, from shortly before the point where they first differ.
fn around_difference(a: &str, b: &str) -> (String, String) {
    const BEFORE: usize = 20;
    const SHOWN: usize = 60;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let start = if a.len().max(b.len()) <= SHOWN { 0 } else { same.saturating_sub(BEFORE) };
    let part = |text: &[char]| {
        let end = text.len().min(start + SHOWN);
        let shown: String = text[start.min(end)..end].iter().collect();
        format!("{}{shown:?}{}", if start > 0 { "..." } else { "" }, if end < text.len() { "..." } else { "" })
    };
    (part(&a), part(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(name: &str) -> tokenizers::Tokenizer {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/data").join(name);
        crate::tokenizer::open(&path).unwrap()
    }

    fn checked(name: &str, ids: &[u32], text: &str, may_lack: Lack) -> Result<(), LineError> {
        let spelling = Spelling::of(&tokenizer(name), 400);
        let claim = Claim { of: "the answer", text, tokens: &[], ids, may_lack };
        check(&spelling, &claim, |id| spelling.is_special(id))
    }

    /// Oracle: texts that servers are known to write for these tokens.
    #[test]
    fn omissions_typical_of_servers_agree_and_other_words_do_not() {
        // `The mill €.` and an end-of-text token, with `€` split over two tokens.
        let parts = [282, 280, 294, 174, 48, 1];
        for text in ["The mill €.", "The mill €.</s>", " The mill €. ", "The mill \u{fffd}\u{fffd}.", "The mill \u{fffd}."]
        {
            assert_eq!(checked("parts.json", &parts, text, Lack::Nothing), Ok(()), "{text}");
        }
        for text in ["The mill €", "The mill €.<s>", "The old €.", "The mill", "The mill €..", "mill €."] {
            assert_eq!(checked("parts.json", &parts, text, Lack::Nothing).unwrap_err().kind, Kind::Contradictory, "{text}");
        }
        // SentencePiece adds a space before the text; white space inside the text must match.
        let lines = [356, 359, 13, 370];
        for text in ["The old\nThe", " The old\nThe", "The old\nThe\n"] {
            assert_eq!(checked("sentencepiece.json", &lines, text, Lack::Nothing), Ok(()), "{text}");
        }
        for text in ["The old The", "The old\n The", "Theold\nThe"] {
            assert!(checked("sentencepiece.json", &lines, text, Lack::Nothing).is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_may_lack_its_stop_string_and_a_source_its_beginning() {
        let ids = [282, 280, 48];
        assert_eq!(checked("parts.json", &ids, "The mill", Lack::Stop), Ok(()));
        assert!(checked("parts.json", &ids, "The old", Lack::Stop).is_err());
        assert!(checked("parts.json", &ids, "The mill. And", Lack::Stop).is_err());
        assert_eq!(checked("parts.json", &ids, "Once. The mill.", Lack::Beginning), Ok(()));
        assert!(checked("parts.json", &ids, "The mill. Once.", Lack::Beginning).is_err());
    }

    #[test]
    fn the_message_shows_where_the_texts_differ() {
        let damage = checked("parts.json", &[282, 280], "The river", Lack::Nothing).unwrap_err();
        assert!(damage.what.starts_with("the tokens of the answer spell \"The mill\" but its text is \"The river\""), "{damage}");
        let (ours, theirs) = around_difference(&"a".repeat(500), &format!("{}b", "a".repeat(400)));
        assert_eq!((ours.len(), theirs.as_str()), (68, "...\"aaaaaaaaaaaaaaaaaaaab\""));
    }
}
