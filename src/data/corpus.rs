//! Documents from files: JSON lines with a `text`, or plain text; `.zst` is unpacked on the way.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

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

/// The documents of split `split` (`train`, `valid`, `test`).
///
/// Where a single source stands for all splits, a document's split follows from the hash of its text: 90% train, 5% valid,
/// 5% test, whatever the order of the file.
pub fn documents(files: &DataFiles, split: &str) -> Result<Vec<Document>> {
    let documents = if let Some(path) = files.splits.get(split) {
        read(path)?
    } else if let Some(path) = files.splits.get("all") {
        read(path)?.into_iter().filter(|document| split_of(&document.text) == split).collect()
    } else {
        return Err(user_error!("the data has no split {split:?}; it has {:?}", files.splits.keys().collect::<Vec<_>>()));
    };
    if documents.is_empty() {
        return Err(user_error!("the {split} split has no documents; give the data more text or a file of its own for {split}"));
    }
    Ok(documents)
}

fn split_of(text: &str) -> &'static str {
    match u32::from_str_radix(&sha256_hex(text.as_bytes())[..8], 16).unwrap_or(0) % 20 {
        0 => "valid",
        1 => "test",
        _ => "train",
    }
}

/// The documents of a file, or of all files in a folder in order of their names.
pub fn read(path: &Path) -> Result<Vec<Document>> {
    if !path.is_dir() {
        return read_file(path);
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(read_file(&file)?);
    }
    Ok(all)
}

fn read_file(path: &Path) -> Result<Vec<Document>> {
    let file = File::open(path).map_err(|error| user_error!("{}: {error}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (reader, name): (Box<dyn Read>, &str) = match name.strip_suffix(".zst") {
        Some(inner) => (Box::new(zstd::Decoder::new(file).context("zstd")?), inner),
        None => (Box::new(file), name.as_str()),
    };
    let reader = BufReader::new(reader);
    if name.ends_with(".jsonl") || name.ends_with(".json") { json_lines(reader, path) } else { plain_text(reader, path) }
}

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    text: String,
}

fn json_lines(reader: impl BufRead, path: &Path) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (index, line) in reader.lines().enumerate() {
        let at = || format!("{}:{}", path.display(), index + 1);
        let line = line.map_err(|error| user_error!("{}: {error}", at()))?;
        if line.trim().is_empty() {
            continue;
        }
        let Line { id, text } = serde_json::from_str(&line)
            .map_err(|error| user_error!("{}: expected a JSON object with a \"text\": {error}", at()))?;
        documents.push(Document { id: id.unwrap_or_else(|| format!("{}", index + 1)), text });
    }
    Ok(documents)
}

fn plain_text(mut reader: impl BufRead, path: &Path) -> Result<Vec<Document>> {
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(|error| user_error!("{}: {error}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut documents: Vec<Document> = Vec::new();
    let mut current = String::new();
    let mut close = |current: &mut String| {
        if !current.trim().is_empty() {
            documents.push(Document { id: format!("{name}/{}", documents.len() + 1), text: current.trim().to_string() });
        }
        current.clear();
    };
    for paragraph in text.split("\n\n") {
        if current.len() + paragraph.len() > TEXT_DOCUMENT {
            close(&mut current);
        }
        current.push_str(paragraph);
        current.push_str("\n\n");
    }
    close(&mut current);
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_cut_at_blank_lines_and_loses_nothing() {
        let paragraphs: Vec<String> = (0..400).map(|i| format!("Paragraph {i} of a long plain text.")).collect();
        let text = paragraphs.join("\n\n");
        let documents = plain_text(text.as_bytes(), Path::new("book.txt")).unwrap();
        assert!(documents.len() > 2);
        assert_eq!(documents.iter().map(|d| d.text.as_str()).collect::<Vec<_>>().join("\n\n"), text);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = json_lines("{\"text\": \"a\"}\n{\"txt\": 1}\n".as_bytes(), Path::new("x.jsonl")).unwrap_err();
        assert!(error.to_string().starts_with("x.jsonl:2: expected a JSON object with a \"text\""), "{error}");
    }
}
