//! Streams examples from files: one per line, or plain text cut at blank lines. Memory use does not depend on file size.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::sha256_hex;
use hydrometer_base::user_error;

use super::cure::Says;
use super::example::{Example, Segment};
use super::format::{Format, Keys};
use super::line_error::{Kind, LineError, OnBadLine, Tally};
use super::lines::Lines;
use super::paragraphs::Paragraphs;
use super::survey::{DETECTION_LINES, Shard, Survey, Wanted};
use crate::line_error::LinePos;
use crate::recipe::DataFiles;

/// A named text.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    pub text: String,
}

/// A stream of examples.
pub struct Reader {
    /// Names of files are relative to this folder.
    root: PathBuf,
    /// Files still to be read, in reverse order.
    shards: Vec<Shard>,
    /// Whether there are several files, so that names of examples must include the file's.
    several: bool,
    open: Option<Open>,
    format: Format,
    keys: Keys,
    policy: OnBadLine,
    says: Says,
    split: Option<String>,
    pub tally: Tally,
}

enum Open {
    Lines { lines: Lines, name: String },
    Text(Box<Paragraphs>),
}

impl Reader {
    /// Opens a file, or all files under a folder, configured by an experiment file.
    pub fn new(path: &Path, format: Format, keys: Keys, policy: OnBadLine) -> Result<Self> {
        let survey = Survey::of(path, Wanted::Named(format), Says::Keys)?;
        Ok(Self::of(path, survey, keys, policy, Says::Keys))
    }

    /// Opens the files at `path`, which `survey` has inspected.
    pub fn of(path: &Path, survey: Survey, keys: Keys, policy: OnBadLine, says: Says) -> Self {
        let Survey { mut shards, format } = survey;
        let several = shards.len() > 1;
        shards.reverse();
        let (root, tally) = (path.to_path_buf(), Tally::default());
        Self { root, shards, several, open: None, format, keys, policy, says, split: None, tally }
    }

    /// Opens split `split` (`train`, `valid`, `test`).
    ///
    /// If a single source provides all splits, the hash of an example's text (of its source, if it has one) decides its split:
    /// 90% train, 5% valid, 5% test, independent of the order of the file.
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

    /// The next readable example; `None` after the last.
    pub fn next_example(&mut self) -> Result<Option<Example>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(Shard { path, is_json, end }) = self.shards.pop() else { return Ok(None) };
                let (lines, name) = (Lines::open(&path, end)?, name_of(&path, &self.root));
                self.open = Some(match is_json {
                    true => Open::Lines { lines, name },
                    false => Open::Text(Box::new(Paragraphs::new(lines, name))),
                });
                continue;
            };
            let (place, found) = match open {
                Open::Text(paragraphs) => match paragraphs.next() {
                    None => {
                        self.open = None;
                        continue;
                    }
                    Some(found) => found,
                },
                Open::Lines { lines, name } => {
                    let Some(line) = lines.next_filled() else {
                        self.open = None;
                        continue;
                    };
                    // Plain text format over JSON lines: reads their `text`.
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

    /// Extends `damage`, which stops the reading, by the first API error among the following lines: correcting this line alone
    /// would not be enough then.
    fn with_refusals(&mut self, damage: LineError) -> LineError {
        let stops = self.policy == OnBadLine::Stop && self.format.has_answers() && damage.kind != Kind::Refused;
        let (true, Some(Open::Lines { lines, .. })) = (stops, &mut self.open) else { return damage };
        let next = std::iter::from_fn(|| lines.next_filled()).take(DETECTION_LINES);
        let refused = next.into_iter().find_map(|line| {
            let found = self.format.parse(&line.text.ok()?, &line.place, &self.keys).err()?;
            (found.kind == Kind::Refused).then(|| format!("line {}: {found}", line.place.number))
        });
        match refused {
            Some(refused) => LineError { what: format!("{damage}; {refused}"), ..damage },
            None => damage,
        }
    }

    /// Handles `damage` that was found in an example after it was read, under the policy for bad lines.
    pub fn reject(&mut self, place: &LinePos, damage: &LineError) -> Result<()> {
        self.tally.reject(place, damage, self.policy, self.says)
    }
}

/// A file's name relative to `root`, without the extensions that show its format.
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

/// Reads all documents of `reader`.
pub fn documents(reader: &mut Reader) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    while let Some(example) = reader.next_example()? {
        let text = example.target.as_ref().map(Segment::text).unwrap_or_default();
        documents.push(Document { id: example.id, text });
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Vec<Document>> {
        documents(&mut Reader::new(path, Format::Text, Keys::default(), OnBadLine::Stop)?)
    }

    #[test]
    fn plain_text_is_split_at_blank_lines_without_loss() {
        let paragraphs: Vec<String> = (0..400).map(|i| format!("Paragraph {i} of a long plain text – ü.")).collect();
        let text = paragraphs.join("\n\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("book.txt");
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let documents = read(&path).unwrap();
        assert!(documents.len() > 2 && documents[0].id == "book/1");
        assert_eq!(documents.iter().map(|d| d.text.as_str()).collect::<Vec<_>>().join("\n\n"), text);
        // The recorded offset and line number are where the document begins.
        let mut reader = Reader::new(&path, Format::Text, Keys::default(), OnBadLine::Stop).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        while let Some(example) = reader.next_example().unwrap() {
            let Some(Segment::Text(document)) = example.target else { panic!() };
            assert!(whole[example.place.offset as usize..].starts_with(&document));
            assert_eq!(whole[..example.place.offset as usize].matches('\n').count() as u64 + 1, example.place.number);
        }
    }

    #[test]
    fn examples_of_different_files_have_different_names() {
        let root = Path::new("data");
        let names = ["data/00/a.1.jsonl.gz", "data/01/a.1.jsonl", "data/a.2.txt.zst"].map(|path| name_of(Path::new(path), root));
        assert_eq!(names, ["00/a.1", "01/a.1", "a.2"]);
        assert_eq!(name_of(Path::new("data/my.book.txt"), Path::new("data/my.book.txt")), "my.book");
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, "{\"text\": \"a\"}\n{\"txt\": 1}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        let wanted = format!("{}:2: expected a JSON object with a \"text\"", path.display());
        assert!(error.starts_with(&wanted), "{error}");
    }
}
