//! Surveys the files of data: which files there are and what each of them is. Every subcommand asks here before it reads any.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::user_error;

use super::content::{Content, Inspection, Other};
use super::cure::Says;
use super::format::Format;
use super::json::Json;
use super::json_file::key_of_examples;
use super::line_error::LineError;
use super::lines::{LineEnd, Lines, open, reason};
use crate::line_error::LinePos;

/// Number of lines per file that are inspected to detect the format.
pub const DETECTION_LINES: usize = 100;

/// What the caller expects to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any format; it is detected from the content.
    Any,
    /// Plain documents: text, or JSON lines with a `text`.
    Documents,
    /// The format that the user named. [`Format::Text`] also reads JSON lines, by their `text`.
    Named(Format),
}

/// A file of data.
#[derive(Clone, Debug)]
pub struct Shard {
    pub path: PathBuf,
    /// Whether it is read as JSON lines; otherwise as plain text.
    pub is_json: bool,
    pub end: LineEnd,
}

/// The files of data and their format.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Sorted by path.
    pub shards: Vec<Shard>,
    pub format: Format,
}

impl Survey {
    /// Surveys the file at `path`, or all files under it if it is a folder. Refuses files that cannot be read; `says` chooses the
    /// wording of the cure.
    pub fn of(path: &Path, wanted: Wanted, says: Says) -> Result<Self> {
        let looker = Looker { path, wanted, says };
        let paths = files(path)?;
        if paths.is_empty() {
            return Err(user_error!("{}: the folder has no files, but for hidden ones, which are left out", path.display()));
        }
        let looked = paths.into_iter().map(|path| {
            let looked = Inspection::new(open(&path)?, &path);
            Ok((path, looked))
        });
        let looked = looked.collect::<Result<Vec<_>>>()?;
        if looked.iter().all(|(_, looked)| looked.content == Content::Empty) {
            let what = if path.is_dir() { "the files of this folder have" } else { "the file has" };
            return Err(user_error!("{}: {what} no text; there is nothing to read", path.display()));
        }
        let all_json = looked.iter().any(|(_, looked)| looked.content == Content::Lines);
        let shards = looked.iter().map(|(path, looked)| {
            let is_json = looker.is_json(path, looked)?.unwrap_or(all_json);
            Ok(Shard { path: path.clone(), is_json, end: looked.end })
        });
        let shards = shards.collect::<Result<Vec<_>>>()?;
        let format = match wanted {
            Wanted::Named(format) => format,
            Wanted::Documents => {
                looker.alike(&looked, &shards)?;
                Format::Text
            }
            Wanted::Any => {
                looker.alike(&looked, &shards)?;
                if all_json { looker.format(&shards)? } else { Format::Text }
            }
        };
        Ok(Self { shards, format })
    }
}

struct Looker<'a> {
    path: &'a Path,
    wanted: Wanted,
    says: Says,
}

impl Looker<'_> {
    /// Whether a file is read as JSON lines; `None` if its content does not tell.
    fn is_json(&self, path: &Path, looked: &Inspection) -> Result<Option<bool>> {
        let by_line = matches!(self.wanted, Wanted::Named(format) if format != Format::Text);
        Ok(Some(match &looked.content {
            Content::Empty | Content::Unreadable => return Ok(by_line.then_some(true)),
            Content::Lines => true,
            Content::Other(Other { prose: false, .. }) => return Err(self.refuse(path, looked)),
            Content::Text | Content::Other(_) if by_line && looked.objects => true,
            Content::Text if !by_line => false,
            Content::Other(_) if self.wanted == Wanted::Named(Format::Text) => false,
            Content::Text | Content::Other(_) => return Err(self.refuse(path, looked)),
        }))
    }

    fn refuse(&self, path: &Path, looked: &Inspection) -> anyhow::Error {
        let at = path.display();
        let apart = match self.path.is_dir() {
            true => format!("; or take it out of {}, where a name that begins with a dot is left out", self.path.display()),
            false => String::new(),
        };
        match (&looked.content, self.wanted) {
            (Content::Other(Other { line, what, cure, prose }), wanted) => {
                let line = line.map_or(String::new(), |line| format!(":{line}"));
                let text = match *prose && wanted != Wanted::Named(Format::Text) {
                    true => format!("; or {} to read it as plain text", self.says.format(Format::Text.name())),
                    false => String::new(),
                };
                user_error!("{at}{line}: {what}; {cure}{text}{apart}")
            }
            (_, wanted) => {
                let format = if let Wanted::Named(format) = wanted { format.name() } else { Format::Jsonl.name() };
                let (line, wrong) = match &looked.first {
                    Some((line, damage)) => (*line, damage.to_string()),
                    None => (1, "no JSON object".to_string()),
                };
                let text = self.says.format(Format::Text.name());
                user_error!(
                    "{at}:{line}: {wrong}; the file looks like plain text, not like the lines of format {format:?}: correct it, or \
                     {text}{apart}"
                )
            }
        }
    }

    /// Refuses a folder that mixes text and JSON lines: one of the files is there by mistake.
    fn alike(&self, looked: &[(PathBuf, Inspection)], shards: &[Shard]) -> Result<()> {
        let of = |wanted: Content| looked.iter().filter(move |(_, looked)| looked.content == wanted).map(|(path, _)| path);
        let (lines, text) = (of(Content::Lines), of(Content::Text));
        let (Some(json), Some(prose)) = (lines.clone().next(), text.clone().next()) else { return Ok(()) };
        let (odd, is, other, are) = match text.count() <= lines.count() {
            true => (prose, "plain text", json, "JSON lines"),
            false => (json, "JSON lines", prose, "plain text"),
        };
        let first = shards.iter().find(|shard| shard.path == *json);
        let plain = match first.map(detect_format).transpose()? {
            Some(Ok(Some((format, _)))) => format.is_plain(),
            _ => false,
        };
        let both = if plain { format!(", or {} to read both", self.says.format(Format::Text.name())) } else { String::new() };
        let (odd, other, folder) = (odd.display(), other.display(), self.path.display());
        Err(user_error!(
            "{odd}:1: this is {is}, but {other} is {are}; take one of them out of {folder}, where a name that begins with a dot is left \
             out{both}"
        ))
    }

    /// Detects the format by the first lines of each file.
    fn format(&self, shards: &[Shard]) -> Result<Format> {
        let (mut known, mut fault): (Option<(Format, LinePos)>, _) = (None, None);
        for shard in shards.iter().filter(|shard| shard.is_json) {
            match detect_format(shard)? {
                Err(found) => fault = fault.or(Some(found)),
                Ok(None) => {}
                Ok(Some((format, place))) => match &known {
                    Some((first, at)) if *first != format => {
                        let (first, format) = (first.name(), format.name());
                        return Err(user_error!(
                            "{place}: this line is of format {format:?}, but {at} is of {first:?}; keep them in folders of their own, or {}",
                            self.says.format(first)
                        ));
                    }
                    _ => known = known.or(Some((format, place))),
                },
            }
        }
        match (known, fault) {
            (Some((format, _)), None | Some(DetectionError::LineError(..))) => Ok(format),
            (None, None) => Err(user_error!("{}: there is nothing to read", self.path.display())),
            (_, Some(fault)) => Err(self.unknown(fault)),
        }
    }

    fn unknown(&self, fault: DetectionError) -> anyhow::Error {
        match fault {
            DetectionError::LineError(place, damage) => {
                user_error!("{place}: {damage}; correct the line: no line before it shows the format")
            }
            DetectionError::Keys(place, line) => {
                if let Some(key) = key_of_examples(&line) {
                    return user_error!(
                        "{place}: the line has a list of objects under {key:?}; write them one a line, e.g. with jq -c '.{key}[]'"
                    );
                }
                let json = Json::value(&line).unwrap_or(Json::Null);
                if let Some(key) = ["messages", "conversations", "conversation", "dialog"].into_iter().find(|key| json.has(key)) {
                    return user_error!(
                        "{place}: this is a conversation ({key:?}) without an answer's logprobs; write its turns as \
                         {{\"prompt\": ..., \"completion\": ...}}, or put the API's response beside its \"messages\""
                    );
                }
                let known: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
                let keys = json.keys();
                let (names, other) = (known.join(", "), self.says.keys());
                user_error!("{place}: keys {keys} are those of no known format; name it ({names}), and {other}")
            }
        }
    }
}

/// Why the format could not be detected.
enum DetectionError {
    LineError(LinePos, LineError),
    /// A line whose keys match no format.
    Keys(LinePos, String),
}

/// The format detected by the first lines of a file, and the line that shows it; `None` if the file has no lines.
fn detect_format(shard: &Shard) -> Result<Result<Option<(Format, LinePos)>, DetectionError>> {
    let mut lines = Lines::open(&shard.path, shard.end)?;
    let (mut damaged, mut untold) = (None, None);
    for _ in 0..DETECTION_LINES {
        let Some(line) = lines.next_filled() else { break };
        let found = line.text.and_then(|text| Ok((Json::object(&text)?, text)));
        match found.map(|(json, text)| (Format::of(&json), text)) {
            Ok((Some(format), _)) => return Ok(Ok(Some((format, line.place)))),
            // A line whose text is null does not show the format; the next one may.
            Ok((None, text)) => untold = untold.or(Some(DetectionError::Keys(line.place, text))),
            Err(damage) => damaged = damaged.or(Some(DetectionError::LineError(line.place, damage))),
        }
    }
    Ok(untold.or(damaged).map_or(Ok(None), Err))
}

/// The file itself, or all files under a folder, sorted by path, without hidden ones.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    collect(path, &mut Vec::new(), &mut all)?;
    Ok(all)
}

/// Adds the files under `path` to `all`. `within` identifies the folders on the way to `path`, to detect link cycles.
fn collect(path: &Path, within: &mut Vec<(u64, u64)>, all: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => user_error!("{}: there is no such file", path.display()),
        _ => user_error!("{}: {}", path.display(), reason(&error)),
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_dir() {
        all.push(path.to_path_buf());
        return Ok(());
    }
    let own = (metadata.dev(), metadata.ino());
    if within.contains(&own) {
        return Err(user_error!("{}: this link leads back to a folder that it is in; remove it", path.display()));
    }
    let entries = std::fs::read_dir(path).map_err(unreadable)?;
    let mut entries: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>().map_err(unreadable)?;
    entries.retain(|entry| !entry.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    entries.sort();
    within.push(own);
    entries.iter().try_for_each(|entry| collect(entry, within, all))?;
    within.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(path: &Path, wanted: Wanted) -> Result<Survey, String> {
        Survey::of(path, wanted, Says::Flags).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_in_path_order_without_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["01/b.jsonl", "00/z", "00/.hidden", ".git/x", "01/a.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{\"text\": \"a\"}\n").unwrap();
        }
        let found = survey(folder.path(), Wanted::Any).unwrap();
        let names: Vec<_> = found.shards.iter().map(|shard| shard.path.strip_prefix(folder.path()).unwrap().to_owned()).collect();
        assert_eq!(names, ["00/z", "01/a.txt", "01/b.jsonl"].map(PathBuf::from));
        assert_eq!(found.format, Format::Jsonl);
    }

    #[test]
    fn a_folder_of_mixed_formats_is_refused_with_the_file_that_differs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a", "{\"src\": \"a\", \"tgt\": \"b\"}\n");
        write("_SUCCESS", "");
        assert_eq!(survey(folder.path(), Wanted::Any).unwrap().format, Format::SrcTgt, "an empty file is ignored");
        write("README.md", "What is here.\n");
        for wanted in [Wanted::Any, Wanted::Documents, Wanted::Named(Format::SrcTgt)] {
            let error = survey(folder.path(), wanted).unwrap_err();
            assert!(error.starts_with(&format!("{}/README.md:1: ", folder.path().display())), "{error}");
        }
        std::fs::rename(folder.path().join("README.md"), folder.path().join(".README.md")).unwrap();
        write("b.jsonl", "{\"text\": \"b\"}\n");
        let error = survey(folder.path(), Wanted::Any).unwrap_err();
        assert!(error.contains("b.jsonl:1: this line is of format \"jsonl\", but"), "{error}");
        std::fs::remove_file(folder.path().join("b.jsonl")).unwrap();
        std::os::unix::fs::symlink(".", folder.path().join("self")).unwrap();
        let error = survey(folder.path(), Wanted::Any).unwrap_err();
        assert!(error.contains("self: this link leads back"), "{error}");
    }

    #[test]
    fn format_text_overrides_only_guesses_about_prose() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text = Wanted::Named(Format::Text);
        for prose in ["a,b\nc,d\ne,f\n", "<html>", "[\"a\"]\n[\"b\"]\n", "{\"a\": 1}\nb\nc\n"] {
            std::fs::write(&path, prose).unwrap();
            assert!(survey(&path, Wanted::Any).is_err(), "{prose}");
            assert!(!survey(&path, text).unwrap().shards[0].is_json, "{prose}");
        }
        for other in ["[\n{\"text\": \"a\"}\n]\n", "{\n\"data\": []\n}\n", "%PDF-1.4\n", "a\0b\0c\0d\0"] {
            std::fs::write(&path, other).unwrap();
            assert!(survey(&path, text).is_err(), "{other}");
        }
        // JSON lines are never read as prose.
        std::fs::write(&path, "{\"text\": \"a\"}\n").unwrap();
        assert!(survey(&path, text).unwrap().shards[0].is_json);
    }
}
