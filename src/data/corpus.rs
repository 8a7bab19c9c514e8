//! Examples from files, one after the other: by lines, or from plain text cut at blank lines. Memory does not grow with a file.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::damage::{Damage, Kind, OnBadLine, Tally};
use super::example::{Example, Piece};
use super::format::{Format, Keys};
use super::json::Json;
use super::lines::{Lines, Place, is_json, open, shards};
use crate::experiment::DataFiles;
use crate::record::store::sha256_hex;
use crate::user_error;

/// A text with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    pub text: String,
}

/// Aimed-at size of a document cut from a plain text file, in bytes; cuts fall on blank lines.
const TEXT_DOCUMENT: usize = 4096;
/// Bytes after which plain text without a blank line is cut all the same, at a line's end.
const PARAGRAPH_MAX: usize = 16 << 20;
/// Lines that are looked at for their format.
const TELLING_LINES: usize = 100;

/// A stream of examples.
pub struct Reader {
    /// What names of files are relative to.
    root: PathBuf,
    /// Files still to come, the next one last.
    shards: Vec<PathBuf>,
    /// Whether a name needs the file's to be one of its own.
    several: bool,
    open: Option<Open>,
    format: Format,
    keys: Keys,
    policy: OnBadLine,
    split: Option<String>,
    pub tally: Tally,
}

enum Open {
    Lines { lines: Lines, name: String },
    Text(Box<Paragraphs>),
}

impl Reader {
    /// Of a file, or of all files under a folder.
    pub fn new(path: &Path, format: Format, keys: Keys, policy: OnBadLine) -> Result<Self> {
        let mut shards = shards(path)?;
        if format != Format::Text && format != Format::Jsonl && path.is_dir() {
            shards.retain(|shard| is_json(shard));
        }
        let several = shards.len() > 1;
        shards.reverse();
        let (root, tally) = (path.to_path_buf(), Tally::default());
        Ok(Self { root, shards, several, open: None, format, keys, policy, split: None, tally })
    }

    /// Of split `split` (`train`, `valid`, `test`).
    ///
    /// Where a single source stands for all splits, an example's split follows from the hash of its text (of its source, where
    /// it has one): 90% train, 5% valid, 5% test, whatever the order of the file.
    pub fn of_split(files: &DataFiles, split: &str) -> Result<Self> {
        let new = |path: &Path| Self::new(path, files.format, files.keys.clone(), files.on_bad_line);
        if let Some(path) = files.splits.get(split) {
            new(path)
        } else if let Some(path) = files.splits.get("all") {
            Ok(Self { split: Some(split.to_string()), ..new(path)? })
        } else {
            Err(user_error!("the data has no split {split:?}; it has {:?}", files.splits.keys().collect::<Vec<_>>()))
        }
    }

    /// The next example that can be read; `None` after the last.
    pub fn next_example(&mut self) -> Result<Option<Example>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(path) = self.shards.pop() else { return Ok(None) };
                let name = name_of(&path, &self.root);
                self.open = Some(match is_json(&path) {
                    true => Open::Lines { lines: Lines::of(vec![path]), name },
                    false => Open::Text(Box::new(Paragraphs::open(path, name)?)),
                });
                continue;
            };
            let (place, found) = match open {
                Open::Text(paragraphs) => match paragraphs.next()? {
                    None => {
                        self.open = None;
                        continue;
                    }
                    Some(found) => found,
                },
                Open::Lines { lines, name } => {
                    let Some(line) = lines.next_line()? else {
                        self.open = None;
                        continue;
                    };
                    // A plain text format over JSON lines reads their text.
                    let found = line.text.and_then(|text| self.format.parse(&text, &line.place, &self.keys));
                    let named = found.map(|example| match self.several {
                        true => Example { id: format!("{name}/{}", example.id), ..example },
                        false => example,
                    });
                    (line.place, named)
                }
            };
            self.tally.lines += 1;
            match found {
                Err(damage) => {
                    let damage = self.with_refusals(damage);
                    self.reject(&place, &damage)?;
                }
                Ok(example) => {
                    if self.split.as_ref().is_none_or(|split| split_of(&example.split_text()) == split) {
                        return Ok(Some(example));
                    }
                }
            }
        }
    }

    /// `damage`, at which reading stops, with the first error of an API among the next lines: mending this line is not all then.
    fn with_refusals(&mut self, damage: Damage) -> Damage {
        let stops = self.policy == OnBadLine::Stop && self.format.has_answers() && damage.kind != Kind::Refused;
        let (true, Some(Open::Lines { lines, .. })) = (stops, &mut self.open) else { return damage };
        let next = std::iter::from_fn(|| lines.next_line().ok()?).take(TELLING_LINES);
        let refused = next.into_iter().find_map(|line| {
            let found = self.format.parse(&line.text.ok()?, &line.place, &self.keys).err()?;
            (found.kind == Kind::Refused).then(|| format!("line {}: {found}", line.place.number))
        });
        match refused {
            Some(refused) => Damage { what: format!("{damage}; {refused}"), ..damage },
            None => damage,
        }
    }

    /// What `damage` found in an example later than here does.
    pub fn reject(&mut self, place: &Place, damage: &Damage) -> Result<()> {
        self.tally.reject(place, damage, self.policy)
    }
}

/// A file's name within `root`, less what tells its format.
fn name_of(path: &Path, root: &Path) -> String {
    let within = path.strip_prefix(root).ok().filter(|within| !within.as_os_str().is_empty());
    let within = within.map_or_else(|| PathBuf::from(path.file_name().unwrap_or_default()), Path::to_path_buf);
    let packed = within.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
    let plain = if packed { within.with_extension("") } else { within };
    plain.with_extension("").to_string_lossy().into_owned()
}

fn split_of(text: &str) -> &'static str {
    match u32::from_str_radix(&sha256_hex(text.as_bytes())[..8], 16).unwrap_or(0) % 20 {
        0 => "valid",
        1 => "test",
        _ => "train",
    }
}

/// The documents of a file, or of all files under a folder in order of their paths.
pub fn read(path: &Path) -> Result<Vec<Document>> {
    let mut reader = Reader::new(path, Format::Jsonl, Keys::default(), OnBadLine::Stop)?;
    let mut documents = Vec::new();
    while let Some(example) = reader.next_example()? {
        let text = example.target.as_ref().map(Piece::text).unwrap_or_default();
        documents.push(Document { id: example.id, text });
    }
    Ok(documents)
}

/// The format of a file or folder by its names and its first lines.
pub fn detect(path: &Path) -> Result<Format> {
    let shards = shards(path)?;
    let Some(first) = shards.iter().find(|shard| is_json(shard)) else { return Ok(Format::Text) };
    let mut lines = Lines::of(vec![first.clone()]);
    let mut place = None;
    for _ in 0..TELLING_LINES {
        let Some(line) = lines.next_line()? else { break };
        let json = line.text.and_then(|text| Json::object(&text));
        place.get_or_insert(line.place.clone());
        match json.map(|json| Format::of(&json)) {
            Ok(Some(format)) => return Ok(format),
            Ok(None) => {
                place = Some(line.place);
                break;
            }
            Err(_) => {}
        }
    }
    let at = place.map_or_else(|| first.display().to_string(), |place| place.to_string());
    let known: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    Err(user_error!(
        "{at}: the keys tell no format that is known; mend the line, or name the data's format: {}",
        known.join(", ")
    ))
}

/// Plain text as documents of about [`TEXT_DOCUMENT`] bytes, cut at blank lines.
struct Paragraphs {
    reader: Box<dyn BufRead + Send>,
    path: Arc<Path>,
    name: String,
    documents: usize,
    /// Lines and bytes read.
    number: u64,
    offset: u64,
    current: String,
    /// Where `current` begins.
    begins: (u64, u64),
    ended: bool,
}

impl Paragraphs {
    fn open(path: PathBuf, name: String) -> Result<Self> {
        let reader = open(&path)?;
        let (documents, number, offset, current) = (0, 0, 0, String::new());
        Ok(Self { reader, path: Arc::from(path), name, documents, number, offset, current, begins: (1, 0), ended: false })
    }

    fn next(&mut self) -> Result<Option<(Place, Result<Example, Damage>)>> {
        while !self.ended {
            let at = (self.number + 1, self.offset);
            let paragraph = match self.paragraph()? {
                Ok(paragraph) => paragraph,
                Err(damage) => return Ok(Some((self.place(at), Err(damage)))),
            };
            let full = self.current.len() + paragraph.as_ref().map_or(usize::MAX / 2, String::len) > TEXT_DOCUMENT;
            let closed = if full { self.close() } else { None };
            if self.current.is_empty() {
                self.begins = at;
            }
            match paragraph {
                Some(paragraph) => {
                    self.current.push_str(&paragraph);
                    self.current.push_str("\n\n");
                }
                None => self.ended = true,
            }
            if closed.is_some() {
                return Ok(closed);
            }
        }
        Ok(None)
    }

    fn place(&self, (number, offset): (u64, u64)) -> Place {
        Place { path: Arc::clone(&self.path), number, offset }
    }

    fn close(&mut self) -> Option<(Place, Result<Example, Damage>)> {
        let text = std::mem::take(&mut self.current);
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        self.documents += 1;
        let place = self.place(self.begins);
        let id = format!("{}/{}", self.name, self.documents);
        let target = Some(Piece::Text(text.to_string()));
        Some((place.clone(), Ok(Example { id, place, source: None, target, answers: None, cut: false })))
    }

    /// What stands before the next blank line; `None` after the last.
    fn paragraph(&mut self) -> Result<Result<Option<String>, Damage>> {
        let mut bytes = Vec::new();
        let begins = self.offset;
        loop {
            let read = self.reader.read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| user_error!("{}:{}: {error}", self.path.display(), self.number + 1))?;
            (self.offset, self.number) = (self.offset + read as u64, self.number + u64::from(read > 0));
            if read == 0 && self.offset == begins {
                return Ok(Ok(None));
            }
            if read == 0 || bytes.ends_with(b"\n\n") || bytes.len() > PARAGRAPH_MAX {
                break;
            }
        }
        if bytes.ends_with(b"\n\n") {
            bytes.truncate(bytes.len() - 2);
        }
        Ok(String::from_utf8(bytes).map(Some).map_err(|error| {
            Damage::new(Kind::NotUtf8, format!("byte {} of this paragraph is not UTF-8", error.utf8_error().valid_up_to() + 1))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_cut_at_blank_lines_and_loses_nothing() {
        let paragraphs: Vec<String> = (0..400).map(|i| format!("Paragraph {i} of a long plain text – ü.")).collect();
        let text = paragraphs.join("\n\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("book.txt");
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let documents = read(&path).unwrap();
        assert!(documents.len() > 2 && documents[0].id == "book/1");
        assert_eq!(documents.iter().map(|d| d.text.as_str()).collect::<Vec<_>>().join("\n\n"), text);
        // A document begins where its place says.
        let mut reader = Reader::new(&path, Format::Text, Keys::default(), OnBadLine::Stop).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        while let Some(example) = reader.next_example().unwrap() {
            let Some(Piece::Text(document)) = example.target else { panic!() };
            assert!(whole[example.place.offset as usize..].starts_with(&document));
            assert_eq!(whole[..example.place.offset as usize].matches('\n').count() as u64 + 1, example.place.number);
        }
    }

    #[test]
    fn files_of_a_folder_name_their_examples_apart() {
        let root = Path::new("data");
        let names = ["data/00/a.1.jsonl.gz", "data/01/a.1.jsonl", "data/a.2.txt.zst"].map(|path| name_of(Path::new(path), root));
        assert_eq!(names, ["00/a.1", "01/a.1", "a.2"]);
        assert_eq!(name_of(Path::new("data/my.book.txt"), Path::new("data/my.book.txt")), "my.book");
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, "{\"text\": \"a\"}\n{\"txt\": 1}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        let wanted = format!("{}:2: expected a JSON object with a \"text\"", path.display());
        assert!(error.starts_with(&wanted), "{error}");
    }
}
