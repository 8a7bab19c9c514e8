//! Streams the lines of a file, text or JSON: plain, gzip or zstd, by content. Memory use does not depend on file size.
//!
//! A line is identified by its file, its number and the byte offset at which it begins (in the unpacked file): errors give the
//! number, and reading can resume at the offset. Bytes are split at line ends before they are decoded, so no character is torn.
//! Carriage returns before a line end are part of it. A byte order mark at the start of a line is ignored: it begins the file,
//! or one of several files that were concatenated.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use hydrometer_base::guard::open_file;
use hydrometer_base::user_error;

use super::line_error::{Kind, LineError, LinePos};

/// The byte order mark of UTF-8.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of a line in bytes; a longer one is damage.
pub const LINE_MAX: usize = 64 << 20;

/// A line without its end.
pub struct Line {
    pub place: LinePos,
    pub text: Result<String, LineError>,
    /// Whether a line end follows; the last line of a file may have none.
    pub ended: bool,
}

impl Line {
    /// Whether it holds only white space.
    pub fn is_blank(&self) -> bool {
        self.text.as_ref().is_ok_and(|text| text.trim().is_empty())
    }
}

/// The byte that ends a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n` or `\r\n`; a `\r` elsewhere is part of the text.
    #[default]
    Feed,
    /// `\r` alone, as on classic Mac OS.
    Return,
}

impl LineEnd {
    pub fn byte(self) -> u8 {
        match self {
            Self::Feed => b'\n',
            Self::Return => b'\r',
        }
    }
}

/// Opens a regular file and unpacks it if its first bytes, not its name, show that it is compressed.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let unreadable = |error: std::io::Error| user_error!("{}: {}", path.display(), reason(&error));
    let mut file = open_file(path).map_err(unreadable)?;
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok(match magic[..] {
        [0x1f, 0x8b, 8, ..] => Box::new(BufReader::with_capacity(1 << 16, flate2::read::MultiGzDecoder::new(file))),
        // A zstd frame, or a skippable frame, which some writers put first.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(BufReader::with_capacity(1 << 16, zstd::Decoder::new(file).context("zstd")?))
        }
        _ => Box::new(BufReader::with_capacity(1 << 16, file)),
    })
}

/// The message of an I/O error without `(os error 13)`, for a sentence.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// A stream of the lines of a file.
pub struct Lines {
    path: Arc<Path>,
    /// `None` after the last line, or after a read error.
    reader: Option<Box<dyn BufRead + Send>>,
    end: LineEnd,
    number: u64,
    offset: u64,
}

impl Lines {
    pub fn open(path: &Path, end: LineEnd) -> Result<Self> {
        Ok(Self { path: Arc::from(path), reader: Some(open(path)?), end, number: 0, offset: 0 })
    }

    /// The next line, blank ones included; `None` after the last.
    pub fn next_line(&mut self) -> Option<Line> {
        let reader = self.reader.as_mut()?;
        let mut bytes = Vec::new();
        let place = LinePos { path: Arc::clone(&self.path), number: self.number + 1, offset: self.offset };
        let end = self.end.byte();
        let (text, ended) = match read_line(reader, end, &mut bytes) {
            Ok(0) => {
                self.reader = None;
                return None;
            }
            Ok(length) => {
                self.number += 1;
                self.offset += length;
                let ended = bytes.ends_with(&[end]);
                (if length as usize > bytes.len() { Err(too_long(length)) } else { decode(bytes, self.end) }, ended)
            }
            Err(error) => {
                // The rest of this file is lost; other files can still be read.
                self.reader = None;
                let what = format!("the file cannot be read from here on: {}", reason(&error));
                (Err(LineError::new(Kind::Unreadable, what)), false)
            }
        };
        Some(Line { place, text, ended })
    }

    /// The next line that is not blank.
    pub fn next_filled(&mut self) -> Option<Line> {
        loop {
            let line = self.next_line()?;
            if !line.is_blank() {
                return Some(line);
            }
        }
    }
}

/// Appends the next line with its line end to `bytes`, or only a part if it is longer than [`LINE_MAX`]. Returns its full length.
fn read_line(mut reader: impl BufRead, end: u8, bytes: &mut Vec<u8>) -> std::io::Result<u64> {
    let mut length = reader.by_ref().take(LINE_MAX as u64).read_until(end, bytes)? as u64;
    while length >= LINE_MAX as u64 && !bytes.ends_with(&[end]) {
        let buffer = reader.fill_buf()?;
        let at = buffer.iter().position(|&byte| byte == end);
        let used = at.map_or(buffer.len(), |at| at + 1);
        reader.consume(used);
        length += used as u64;
        if used == 0 || at.is_some() {
            break;
        }
    }
    Ok(length)
}

fn too_long(length: u64) -> LineError {
    LineError::new(Kind::TooLong, format!("the line is {} MB long; the limit is {} MB", length >> 20, LINE_MAX >> 20))
}

fn decode(mut bytes: Vec<u8>, end: LineEnd) -> Result<String, LineError> {
    while bytes.last().is_some_and(|&last| last == b'\n' || last == b'\r') {
        bytes.pop();
    }
    if end == LineEnd::Return && bytes.first() == Some(&b'\n') {
        bytes.remove(0);
    }
    while bytes.starts_with(BOM) {
        bytes.drain(..BOM.len());
    }
    String::from_utf8(bytes)
        .map_err(|error| LineError::new(Kind::NotUtf8, format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(path: &Path) -> Vec<(u64, u64, String)> {
        let mut lines = Lines::open(path, LineEnd::Feed).unwrap();
        std::iter::from_fn(|| lines.next_filled())
            .map(|line| (line.place.number, line.place.offset, line.text.unwrap()))
            .collect()
    }

    #[test]
    fn compressed_and_plain_files_have_the_same_lines_and_offsets_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let text = "\u{feff}première\r\n\n  \n二番目 🙂\nlast";
        let plain = folder.path().join("a.jsonl.gz");
        std::fs::write(&plain, text).unwrap();
        let zst = folder.path().join("a.jsonl");
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
        let gz = folder.path().join("a");
        // Two gzip members in one file, as from `cat a.gz b.gz`, split inside a character.
        let (head, tail) = text.as_bytes().split_at(18);
        let mut bytes = Vec::new();
        for part in [head, tail] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            bytes.extend(encoder.finish().unwrap());
        }
        std::fs::write(&gz, bytes).unwrap();
        let first = "première".len() as u64 + 3 + 2;
        let wanted = vec![
            (1, 0, "première".to_string()),
            (4, first + 1 + 3, "二番目 🙂".to_string()),
            (5, text.len() as u64 - 4, "last".to_string()),
        ];
        for path in [&plain, &zst, &gz] {
            assert_eq!(all(path), wanted, "{}", path.display());
        }
        for (_, offset, line) in wanted {
            let begins = text[offset as usize..].trim_start_matches('\u{feff}');
            assert!(begins.starts_with(&line), "the line begins at byte {offset}");
        }
    }

    #[test]
    fn truncated_archives_and_invalid_utf8_damage_only_their_own_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, b"good\nb\xffd\ngood\n").unwrap();
        let kinds = |path: &Path| -> Vec<Option<Kind>> {
            let mut lines = Lines::open(path, LineEnd::Feed).unwrap();
            std::iter::from_fn(|| lines.next_filled()).map(|line| line.text.err().map(|damage| damage.kind)).collect()
        };
        assert_eq!(kinds(&path), [None, Some(Kind::NotUtf8), None]);
        let packed = zstd::encode_all(&b"good\n".repeat(100_000)[..], 3).unwrap();
        let torn = folder.path().join("t.jsonl.zst");
        std::fs::write(&torn, &packed[..packed.len() - 8]).unwrap();
        let kinds = kinds(&torn);
        assert_eq!(kinds.iter().filter(|kind| **kind == Some(Kind::Unreadable)).count(), 1);
        assert_eq!(kinds.last(), Some(&Some(Kind::Unreadable)));
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let mut bytes = Vec::new();
        let endless = std::io::repeat(b'a').take(3 * LINE_MAX as u64);
        let length = read_line(BufReader::new(endless), b'\n', &mut bytes).unwrap();
        assert_eq!((length, bytes.len()), (3 * LINE_MAX as u64, LINE_MAX));
    }
}
