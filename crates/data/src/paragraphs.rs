//! Splits plain text into documents of about 4 KB, cut at blank lines.
//!
//! A document does not depend on the kind of line end, nor on white space in blank lines: each line end becomes `\n`, and blank
//! lines become empty.

use anyhow::Result;

use super::example::{Example, Segment};
use super::line_error::{Kind, LineError};
use super::lines::Lines;
use crate::line_error::LinePos;

/// Target size of a document, in bytes; cuts are made at blank lines.
const DOCUMENT: usize = 4096;
/// Length in bytes after which text without a blank line is cut at the end of a line.
const PARAGRAPH_MAX: usize = 16 << 20;

/// A stream of documents from plain text.
pub struct Paragraphs {
    lines: Lines,
    /// Name of the file.
    name: String,
    documents: usize,
    current: String,
    /// Where `current` begins.
    begins: Option<LinePos>,
    ended: bool,
}

/// Text up to a blank line.
struct Paragraph {
    place: LinePos,
    text: Result<String, (LinePos, LineError)>,
}

impl Paragraphs {
    pub fn new(lines: Lines, name: String) -> Self {
        Self { lines, name, documents: 0, current: String::new(), begins: None, ended: false }
    }

    /// The next document, or what is wrong with a paragraph; `None` after the last.
    pub fn next(&mut self) -> Option<(LinePos, Result<Example, LineError>)> {
        while !self.ended {
            let found = match self.paragraph() {
                None => None,
                Some(Paragraph { place, text: Ok(text) }) => Some((place, text)),
                Some(Paragraph { text: Err((place, damage)), .. }) => return Some((place, Err(damage))),
            };
            let full = self.current.len() + found.as_ref().map_or(usize::MAX / 2, |(_, text)| text.len()) > DOCUMENT;
            let closed = if full { self.close() } else { None };
            match found {
                Some((place, text)) => {
                    if self.current.is_empty() {
                        self.begins = Some(place);
                    }
                    self.current.push_str(&text);
                    self.current.push_str("\n\n");
                }
                None => self.ended = true,
            }
            if closed.is_some() {
                return closed;
            }
        }
        None
    }

    fn close(&mut self) -> Option<(LinePos, Result<Example, LineError>)> {
        let text = std::mem::take(&mut self.current);
        let text = text.trim();
        let place = self.begins.take()?;
        if text.is_empty() {
            return None;
        }
        self.documents += 1;
        let id = format!("{}/{}", self.name, self.documents);
        let target = Some(Segment::Text(text.to_string()));
        Some((place.clone(), Ok(Example { id, place, source: None, target, answers: None, cut: false })))
    }

    /// The text up to the next blank line; `None` after the last. A damaged line makes its whole paragraph damaged.
    fn paragraph(&mut self) -> Option<Paragraph> {
        let mut text = String::new();
        let (mut begins, mut wrong): (Option<LinePos>, Option<(LinePos, LineError)>) = (None, None);
        while let Some(line) = self.lines.next_line() {
            let begin = begins.get_or_insert_with(|| line.place.clone()).offset;
            let (blank, far) = (line.is_blank(), line.place.offset - begin > PARAGRAPH_MAX as u64);
            let found = line.text.and_then(|found| match found.find('\0') {
                Some(at) => Err(LineError::new(Kind::NotUtf8, format!("byte {} is NUL, which is not text", at + 1))),
                None => Ok(found),
            });
            match found {
                Err(damage) => wrong = wrong.or(Some((line.place, damage))),
                Ok(found) if !blank && wrong.is_none() => text.push_str(&found),
                Ok(_) => {}
            }
            if wrong.is_some() {
                // Skip to the end of the paragraph, which makes no sense without the damaged line.
                if blank || far {
                    break;
                }
                continue;
            }
            if line.ended {
                text.push('\n');
            }
            if text.ends_with("\n\n") {
                text.truncate(text.len() - 2);
                break;
            }
            if text.len() > PARAGRAPH_MAX {
                break;
            }
        }
        Some(Paragraph { place: begins?, text: wrong.map_or(Ok(text), Err) })
    }
}
