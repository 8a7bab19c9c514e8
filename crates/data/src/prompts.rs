//! Prompts with their references, from examples with a source and a target.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_base::user_error;

use crate::corpus::Reader;
use crate::example::Segment;
use crate::line_error::LinePos;
use crate::recipe::DataFiles;

/// A prompt, and the texts that would complete it well.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The line's own id, else its number.
    pub id: String,
    /// Its first line.
    pub place: LinePos,
    pub text: String,
    /// The targets of all lines with this source, in order, each once; empty if they have logprobs alone.
    pub references: Vec<String>,
}

/// The prompts of split `split` in the order of their first lines; at most the first `limit`. Lines with the same source are one prompt
/// with several references.
pub fn read(files: &DataFiles, split: &str, limit: Option<usize>) -> Result<Vec<Prompt>> {
    let mut reader = Reader::of_split(files, split)?;
    let (mut prompts, mut known): (Vec<Prompt>, BTreeMap<String, usize>) = Default::default();
    while let Some(example) = reader.next_example()? {
        let place = example.place;
        let Some(source) = &example.source else {
            return Err(user_error!("{place}: the line has no prompt; a task needs lines with a source and a target"));
        };
        let text = text(source).ok_or_else(|| user_error!("{place}: the prompt has tokens without text; a task needs text"))?;
        let index = match known.get(&text) {
            Some(&index) => index,
            None if limit.is_some_and(|limit| prompts.len() >= limit) => continue,
            None => {
                known.insert(text.clone(), prompts.len());
                prompts.push(Prompt { id: example.id, place: place.clone(), text, references: Vec::new() });
                prompts.len() - 1
            }
        };
        if let Some(target) = &example.target {
            let reference = self::text(target);
            let reference =
                reference.ok_or_else(|| user_error!("{place}: the reference has tokens without text; a task needs text"))?;
            let references = &mut prompts[index].references;
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
    }
    Ok(prompts)
}

/// The text of `segment`, if it is known.
fn text(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Text(text) => Some(text.clone()),
        Segment::Tokens(tokens) => tokens.iter().map(|token| token.text.as_deref()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::{Format, Keys};
    use crate::line_error::OnBadLine;

    fn files(path: &Path) -> DataFiles {
        DataFiles {
            splits: [("valid".to_string(), path.to_path_buf())].into(),
            tokenizer: None,
            format: Format::SrcTgt,
            keys: Keys::default(),
            on_bad_line: OnBadLine::Stop,
            ends: None,
        }
    }

    #[test]
    fn lines_with_one_source_are_one_prompt_with_several_references() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let line = |source: &str, target: &str| format!("{{\"src\": {source:?}, \"tgt\": {target:?}}}\n");
        let lines = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "1"), ("b ", " 2")];
        std::fs::write(&path, lines.map(|(source, target)| line(source, target)).concat()).unwrap();
        let found = |limit: Option<usize>| -> Vec<(String, Vec<String>)> {
            read(&files(&path), "valid", limit).unwrap().into_iter().map(|prompt| (prompt.text, prompt.references)).collect()
        };
        let wanted = [("a", vec!["1", "3"]), ("b", vec!["2", " 2"]), ("c", vec!["4"])];
        let wanted = wanted.map(|(text, references)| (text.to_string(), references.into_iter().map(String::from).collect()));
        assert_eq!(found(None), wanted);
        // References after the last prompt still count.
        assert_eq!(found(Some(2)), wanted[..2]);
    }
}
