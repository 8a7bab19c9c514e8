//! The lines of a file, or of all files under a folder, as a stream: plain, `.gz` or `.zst`. Memory does not grow with a file.
//!
//! A line is known by its file, its number and the byte at which it begins (of the unpacked file): what an error names, and
//! where reading can begin again. Bytes are cut at line ends before they are decoded, so that no character is torn.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::damage::{Damage, Kind};
use crate::user_error;

/// Bytes of a line, at most; a longer one is damage.
pub const LINE_MAX: usize = 64 << 20;

/// Where a line begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: Arc<Path>,
    /// From 1.
    pub number: u64,
    /// Byte of the unpacked file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.number)
    }
}

/// A line without its end.
pub struct Line {
    pub place: Place,
    pub text: Result<String, Damage>,
}

/// Whether a file's name says that it holds JSON lines.
pub fn is_json(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    stem.ends_with(".jsonl") || stem.ends_with(".json")
}

/// The file itself, or the files under a folder in order of their paths, hidden ones left out.
pub fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut all = Vec::new();
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    entries.retain(|entry| !entry.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    entries.sort();
    for entry in entries {
        all.extend(shards(&entry)?);
    }
    Ok(all)
}

/// The unpacked bytes of a file.
pub fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(|error| user_error!("{}: {error}", path.display()))?;
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => Box::new(BufReader::with_capacity(1 << 16, zstd::Decoder::new(file).context("zstd")?)),
        Some("gz") => Box::new(BufReader::with_capacity(1 << 16, flate2::read::MultiGzDecoder::new(file))),
        _ => Box::new(BufReader::with_capacity(1 << 16, file)),
    })
}

/// All lines that are not blank.
pub struct Lines {
    /// Files still to come, the next one last.
    shards: Vec<PathBuf>,
    open: Option<(Arc<Path>, Box<dyn BufRead + Send>)>,
    number: u64,
    offset: u64,
}

impl Lines {
    pub fn of(shards: Vec<PathBuf>) -> Self {
        Self { shards: shards.into_iter().rev().collect(), open: None, number: 0, offset: 0 }
    }

    /// The next line; `None` after the last of all files.
    pub fn next_line(&mut self) -> Result<Option<Line>> {
        loop {
            let Some((path, reader)) = &mut self.open else {
                let Some(path) = self.shards.pop() else { return Ok(None) };
                self.open = Some((Arc::from(path.as_path()), open(&path)?));
                (self.number, self.offset) = (0, 0);
                continue;
            };
            let mut bytes = Vec::new();
            let place = Place { path: Arc::clone(path), number: self.number + 1, offset: self.offset };
            let read = read_line(reader, &mut bytes);
            let text = match read {
                Ok(0) => {
                    self.open = None;
                    continue;
                }
                Ok(length) => {
                    self.number += 1;
                    self.offset += length;
                    if length as usize > bytes.len() { Err(too_long(length)) } else { decode(bytes, place.offset) }
                }
                Err(error) => {
                    // What follows in this file is lost; the other files are not.
                    self.open = None;
                    Err(Damage::new(Kind::Unreadable, format!("cannot be read from here on: {error}")))
                }
            };
            if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            return Ok(Some(Line { place, text }));
        }
    }
}

/// Appends the next line to `bytes` with its end, unless it is longer than [`LINE_MAX`]: then a part. Its whole length.
fn read_line(mut reader: impl BufRead, bytes: &mut Vec<u8>) -> std::io::Result<u64> {
    let mut length = reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', bytes)? as u64;
    while length >= LINE_MAX as u64 && !bytes.ends_with(b"\n") {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        length += used as u64;
        if used == 0 || end.is_some() {
            break;
        }
    }
    Ok(length)
}

fn too_long(length: u64) -> Damage {
    Damage::new(Kind::TooLong, format!("the line is {} MB long; lines end at {} MB", length >> 20, LINE_MAX >> 20))
}

fn decode(mut bytes: Vec<u8>, offset: u64) -> Result<String, Damage> {
    while bytes.last().is_some_and(|&last| last == b'\n' || last == b'\r') {
        bytes.pop();
    }
    if offset == 0 && bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes)
        .map_err(|error| Damage::new(Kind::NotUtf8, format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(path: &Path) -> Vec<(u64, u64, String)> {
        let mut lines = Lines::of(shards(path).unwrap());
        let mut found = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            found.push((line.place.number, line.place.offset, line.text.unwrap()));
        }
        found
    }

    #[test]
    fn packed_and_plain_files_have_the_same_lines_at_the_same_places() {
        let folder = tempfile::tempdir().unwrap();
        let text = "\u{feff}première\r\n\n  \n二番目 🙂\nlast";
        let plain = folder.path().join("a.jsonl");
        std::fs::write(&plain, text).unwrap();
        let zst = folder.path().join("a.jsonl.zst");
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
        let gz = folder.path().join("a.jsonl.gz");
        // Two members in one file, as `cat a.gz b.gz` makes, torn within a character.
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
            assert!(begins.starts_with(&line), "reading can begin at byte {offset}");
        }
    }

    #[test]
    fn shards_are_read_in_order_of_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["01/b.jsonl", "00/z.jsonl", "00/.hidden", "01/a.jsonl"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{name}\n")).unwrap();
        }
        let texts: Vec<String> = all(folder.path()).into_iter().map(|(.., text)| text).collect();
        assert_eq!(texts, ["00/z.jsonl", "01/a.jsonl", "01/b.jsonl"]);
    }

    #[test]
    fn a_torn_archive_and_a_byte_that_is_no_text_are_damage_of_their_own_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, b"good\nb\xffd\ngood\n").unwrap();
        let mut lines = Lines::of(vec![path]);
        let kinds = |lines: &mut Lines| {
            let mut kinds = Vec::new();
            while let Some(line) = lines.next_line().unwrap() {
                kinds.push(line.text.err().map(|damage| damage.kind));
            }
            kinds
        };
        assert_eq!(kinds(&mut lines), [None, Some(Kind::NotUtf8), None]);
        let packed = zstd::encode_all(&b"good\n".repeat(100_000)[..], 3).unwrap();
        let torn = folder.path().join("t.jsonl.zst");
        std::fs::write(&torn, &packed[..packed.len() - 8]).unwrap();
        let next = folder.path().join("u.jsonl");
        std::fs::write(&next, "good\n").unwrap();
        let kinds = kinds(&mut Lines::of(vec![torn, next]));
        assert_eq!(kinds.iter().filter(|kind| **kind == Some(Kind::Unreadable)).count(), 1);
        assert_eq!(kinds.last(), Some(&None));
    }
}
