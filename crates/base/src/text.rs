//! Makes text from outside safe to print: it cannot move the cursor, hide characters or fill the screen.

/// Longest value in a message, in characters.
const VALUE: usize = 80;
/// Longest word in a sentence, in characters: long enough for any file name.
const WORD: usize = 255;
/// Longest sentence, in characters.
const SENTENCE: usize = 4000;

/// Whether `c` controls the terminal or is invisible: C0, DEL and C1, line separators, direction marks, zero-width characters,
/// and characters that XML does not allow.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}')
}

/// The escape that shows a hidden character: `\n`, `\u{1b}`.
pub fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        c => format!("\\u{{{:x}}}", u32::from(c)),
    }
}

/// `text` on one line, with hidden characters escaped.
pub fn visible(text: &str) -> String {
    visible_except(text, "")
}

/// Like [`visible`], but keeps line breaks and tabs, for preformatted text.
pub fn visible_block(text: &str) -> String {
    visible_except(text, "\n\t")
}

fn visible_except(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) && !kept.contains(c) {
            true => out.push_str(&escaped(c)),
            false => out.push(c),
        }
    }
    out
}

/// A value in a message: hidden characters escaped, and shortened if it is long.
pub fn shown(text: &str) -> String {
    match text.chars().count() {
        count if count > VALUE => format!("{} ({count} characters)", shortened(text, VALUE)),
        _ => visible(text),
    }
}

/// Like [`shown`], in quotes.
pub fn quoted(text: &str) -> String {
    match text.chars().count() {
        count if count > VALUE => format!("\"{}\" ({count} characters)", shortened(text, VALUE)),
        _ => format!("{text:?}"),
    }
}

/// A number in a message: in exponent form if it would otherwise be a row of zeros.
pub fn number(value: f64) -> String {
    let plain = !value.is_finite() || value == 0.0 || (1e-5..1e16).contains(&value.abs());
    if plain { value.to_string() } else { format!("{value:e}") }
}

/// `word` with its first letter in upper case.
pub fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// A message on one line: hidden characters escaped, and overlong words and sentences cut in the middle.
pub fn sentence(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_inclusive(|c: char| c.is_whitespace() || c == '/') {
        match word.chars().count() > WORD {
            true => out.push_str(&shortened(word, VALUE)),
            false => out.push_str(&visible(word)),
        }
    }
    if out.chars().count() > SENTENCE { shortened(&out, SENTENCE) } else { out }
}

/// The first two thirds and the end of `text`, `width` characters in all, hidden characters escaped.
fn shortened(text: &str, width: usize) -> String {
    let count = text.chars().count();
    let (head, tail) = (width * 2 / 3, width / 4);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count.saturating_sub(tail)).collect();
    format!("{}…{}", visible(&start), visible(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_escaped() {
        assert_eq!(visible("a\u{1b}[31m\u{7f}\u{9b}\u{202e}\r\nb"), "a\\u{1b}[31m\\u{7f}\\u{9b}\\u{202e}\\r\\nb");
        assert_eq!(visible_block("a\tb\n\u{7}"), "a\tb\n\\u{7}");
        assert_eq!(visible("häß, 語 – ok"), "häß, 語 – ok");
    }

    #[test]
    fn long_values_are_shortened_and_numbers_keep_their_notation() {
        let long = "x".repeat(5000);
        assert!(shown(&long).len() < 120 && shown(&long).ends_with("(5000 characters)"), "{}", shown(&long));
        assert!(quoted(&long).starts_with("\"xxx") && quoted(&long).len() < 120);
        assert_eq!((quoted("a\"b"), shown("ab")), ("\"a\\\"b\"".to_string(), "ab".to_string()));
        assert_eq!([1e308, 5e-324, 0.1, 0.0, 1e6, -2.0].map(number), ["1e308", "5e-324", "0.1", "0", "1000000", "-2"]);
        assert_eq!(number(f64::INFINITY), "inf");
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length_with_complete_paths() {
        let path = format!("/{}/{}", "a".repeat(200), "b".repeat(200));
        assert_eq!(sentence(&format!("{path}: gone")), format!("{path}: gone"));
        let said = sentence(&format!("x.toml:1:1: unknown key {}\nknown are {}", "k".repeat(5000), "y ".repeat(5000)));
        assert!(said.chars().count() <= SENTENCE && said.starts_with("x.toml:1:1: unknown key kkk"), "{said}");
        assert!(!said.contains('\n'));
    }
}
