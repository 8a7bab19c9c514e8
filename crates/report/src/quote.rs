//! Fills the marked places of a Markdown file with results from the frames.
//!
//! Inside a line, `<!--=EXPERIMENT/NAME/NUMBER-->TEXT<!--/-->` is a number or a word by the name it has in `export --format json`
//! ([`super::numbers`]). Around lines, `<!--=EXPERIMENT KIND: WHAT-->` and `<!--/-->` hold a block ([`super::block`]).
//! `<!--?EXPERIMENT/NAME is WORD-->` quotes nothing but asserts what the prose beside it relies on. Markers in code are ignored.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::units::markdown;
use hydrometer_record::checked::Checked;
use serde_json::Value;

use super::CLAIMS;
use super::block::block;
use super::comparison::comparison;
use super::material::{MarkerError, Material};
use super::numbers::numbers;

/// The experiments in a folder of results, each read when it is first quoted.
pub struct Results {
    root: PathBuf,
    known: BTreeMap<String, std::result::Result<Material, MarkerError>>,
}

/// A text with its quotes filled.
#[derive(Debug, Default)]
pub struct Filled {
    pub text: String,
    /// Number of markers in it.
    pub quotes: usize,
    pub changes: Vec<Change>,
    pub faults: Vec<Placed>,
}

/// A quote that differed from the frames.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    pub line: usize,
    pub quote: String,
    pub found: String,
    pub given: String,
}

/// A marker that cannot be filled, or that the frames contradict.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Placed {
    pub line: usize,
    #[serde(flatten)]
    pub fault: MarkerError,
}

impl Results {
    pub fn of(root: &Path) -> Self {
        Self { root: root.to_path_buf(), known: BTreeMap::new() }
    }

    fn get(&mut self, experiment: &str) -> std::result::Result<&Material, MarkerError> {
        let root = &self.root;
        let found = self.known.entry(experiment.to_string()).or_insert_with(|| read(&root.join(experiment)));
        found.as_ref().map_err(Clone::clone)
    }
}

fn read(folder: &Path) -> std::result::Result<Material, MarkerError> {
    if !folder.join("runs.parquet").exists() {
        return Err(MarkerError::wrong(format!("{} has no frames to quote", folder.display())));
    }
    let unreadable = |error: anyhow::Error| MarkerError::contradicted(format!("{error:#}"));
    let results = Checked::read(folder).map_err(unreadable)?;
    if let Some(warning) = results.warning(folder) {
        return Err(MarkerError::contradicted(warning));
    }
    let material = |results: Checked| -> Result<Material> {
        let claims = std::fs::read_to_string(folder.join(CLAIMS)).ok();
        let numbers = numbers(&results.frames, &results.provenance, claims.as_deref())?;
        let comparison = comparison(&results.frames, &results.provenance)?;
        Ok(Material { folder: folder.to_path_buf(), results, numbers, comparison, claims })
    };
    material(results).map_err(unreadable)
}

/// Fills the quotes of `text`, the content of `file`.
pub fn fill(text: &str, file: &Path, results: &mut Results) -> Filled {
    let mut filled = Filled::default();
    let mut faults = Vec::new();
    let (mut copied, mut open): (usize, Option<&Mark>) = (0, None);
    let all = marks(text, &mut faults);
    for mark in &all {
        match (mark.kind, open) {
            (Kind::End, None) => faults.push(placed(mark, MarkerError::wrong("<!--/--> ends a quote that does not begin"))),
            (Kind::End, Some(begin)) => {
                open = None;
                filled.quotes += 1;
                let found = &text[begin.place.end..mark.place.start];
                match given(begin, text, found, file, results) {
                    Ok(given) => {
                        filled.text += &text[copied..begin.place.end];
                        filled.text += &given;
                        copied = mark.place.start;
                        filled.changes.extend(change(begin, found, &given));
                    }
                    Err(fault) => faults.push(placed(begin, fault)),
                }
            }
            (_, Some(begin)) => {
                faults.push(placed(begin, MarkerError::wrong("this quote has no <!--/--> before the next marker")));
                open = (mark.kind == Kind::Quote).then_some(mark);
            }
            (Kind::Quote, None) => open = Some(mark),
            (Kind::Holds, None) => {
                filled.quotes += 1;
                faults.extend(holds(mark.says, results).err().map(|fault| placed(mark, fault)));
            }
        }
    }
    faults.extend(open.map(|begin| placed(begin, MarkerError::wrong("this quote has no <!--/-->"))));
    faults.sort_by_key(|fault| fault.line);
    filled.text += &text[copied..];
    Filled { faults, ..filled }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Quote,
    Holds,
    End,
}

struct Mark<'a> {
    kind: Kind,
    says: &'a str,
    place: Range<usize>,
    line: usize,
    /// The text before it on its line.
    before: &'a str,
}

fn placed(mark: &Mark, fault: MarkerError) -> Placed {
    Placed { line: mark.line, fault }
}

/// The markers of `text` outside of code.
fn marks<'a>(text: &'a str, faults: &mut Vec<Placed>) -> Vec<Mark<'a>> {
    let (mut all, mut fence, mut begin): (Vec<Mark>, Option<&str>, usize) = (Vec::new(), None, 0);
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let (offset, number) = (begin, at + 1);
        begin += line.len();
        if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| line.trim_start().starts_with(mark)) {
            fence = match fence {
                None => Some(mark),
                Some(open) => Some(open).filter(|open| *open != mark),
            };
            continue;
        }
        let mut from = 0;
        while let Some(found) = line[from..].find("<!--").filter(|_| fence.is_none()) {
            let start = from + found;
            from = start + 4;
            let kind = match line[from..].chars().next() {
                Some('=') => Kind::Quote,
                Some('?') => Kind::Holds,
                Some('/') => Kind::End,
                _ => continue,
            };
            if line[..start].matches('`').count() % 2 == 1 {
                continue;
            }
            let Some(length) = line[from + 1..].find("-->") else {
                faults.push(Placed { line: number, fault: MarkerError::wrong("this marker is not closed by --> on its line") });
                continue;
            };
            let (says, before) = (line[from + 1..from + 1 + length].trim(), &line[..start]);
            from += 1 + length + 3;
            all.push(Mark { kind, says, place: offset + start..offset + from, line: number, before });
        }
    }
    all
}

/// The text that belongs between `begin` and its end, in place of `found`.
fn given(begin: &Mark, text: &str, found: &str, file: &Path, results: &mut Results) -> std::result::Result<String, MarkerError> {
    let is_number = begin.says.find('/').is_some_and(|slash| begin.says.find(' ').is_none_or(|space| slash < space));
    if is_number {
        if found.contains('\n') {
            return Err(MarkerError::wrong("a number and its <!--/--> stand on one line"));
        }
        // Markdown treats a line, or an item of a list, that begins with a comment as HTML.
        if begin.before.chars().all(|c| c.is_whitespace() || "-+>".contains(c)) || begin.before.trim() == "*" {
            return Err(MarkerError::wrong(
                "a line must not begin with a marker: Markdown would take the whole line for HTML; put a word before it",
            ));
        }
        return Ok(markdown(&lookup(begin.says, results)?));
    }
    let (what, argument) = begin.says.split_once(':').unwrap_or((begin.says, ""));
    let Some((experiment, kind)) = what.split_once(' ') else {
        return Err(MarkerError::wrong(format!("`{}` is neither EXPERIMENT/NAME/NUMBER nor EXPERIMENT KIND", begin.says)));
    };
    let alone = begin.before.is_empty() && text[begin.place.end..].starts_with('\n') && found.ends_with('\n');
    if !alone {
        return Err(MarkerError::wrong("the markers of a block stand on lines of their own"));
    }
    let lines = block(results.get(experiment)?, kind.trim(), argument.trim(), file)?;
    Ok(format!("\n{}\n", lines.trim_end()))
}

/// The difference between `found` and `given`, if there is one.
fn change(begin: &Mark, found: &str, given: &str) -> Option<Change> {
    if found == given {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (found.split('\n').collect(), given.split('\n').collect());
    let at = (0..old.len().max(new.len())).find(|&at| old.get(at) != new.get(at)).unwrap_or_default();
    let line = |lines: &[&str]| lines.get(at).unwrap_or(&"").to_string();
    Some(Change { line: begin.line + at, quote: begin.says.to_string(), found: line(&old), given: line(&new) })
}

/// An error unless `EXPERIMENT/NAME is WORD` holds.
fn holds(says: &str, results: &mut Results) -> std::result::Result<(), MarkerError> {
    let Some((name, word)) = says.rsplit_once(" is ") else {
        return Err(MarkerError::wrong(format!("`{says}` is not EXPERIMENT/NAME is WORD")));
    };
    let found = lookup(name.trim(), results)?;
    match found == word.trim() {
        true => Ok(()),
        false => Err(MarkerError::contradicted(format!(
            "the text beside this rests on {} being {}; the frames give {found}: rewrite the text",
            name.trim(),
            word.trim()
        ))),
    }
}

/// The text of `EXPERIMENT/NAME/NUMBER`.
fn lookup(path: &str, results: &mut Results) -> std::result::Result<String, MarkerError> {
    let Some((experiment, rest)) = path.split_once('/') else {
        return Err(MarkerError::wrong(format!("`{path}` names no number: EXPERIMENT/NAME/NUMBER")));
    };
    let numbers = &results.get(experiment)?.numbers;
    let (mut node, mut rest, mut passed) = match named(numbers, rest) {
        Some((node, name)) => (node, rest[name.len()..].trim_start_matches('/'), format!("{experiment}/{name}")),
        None => (numbers, rest, experiment.to_string()),
    };
    while !rest.is_empty() {
        let (name, then) = rest.split_once('/').unwrap_or((rest, ""));
        node = node.get(name).or_else(|| node.get("numbers")?.get(name)).filter(|node| !node.is_null()).ok_or_else(|| {
            MarkerError::wrong(format!("{passed} has no `{name}`; it has {}", names(node, numbers, passed == experiment)))
        })?;
        passed += &format!("/{name}");
        rest = then;
    }
    text_of(node).ok_or_else(|| MarkerError::wrong(format!("{passed} is no number; it has {}", names(node, numbers, false))))
}

/// The cell or reference whose name `path` begins with; names hold any character.
fn named<'a>(numbers: &'a Value, path: &str) -> Option<(&'a Value, &'a str)> {
    let all = ["cells", "references"].into_iter().filter_map(|kind| numbers[kind].as_object()).flatten();
    let fits = |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    all.filter(|(name, _)| fits(name)).map(|(name, node)| (node, name.as_str())).max_by_key(|(_, name)| name.len())
}

/// The names of the numbers in `node`.
fn names(node: &Value, numbers: &Value, top: bool) -> String {
    let keys = |node: &Value| node.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect::<Vec<_>>();
    let mut all = if top { Vec::new() } else { keys(&node["numbers"]) };
    if top {
        all.extend(keys(&numbers["cells"]));
        all.extend(keys(&numbers["references"]));
    }
    all.extend(keys(node).into_iter().filter(|name| name != "numbers"));
    if all.is_empty() { "nothing".into() } else { all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ") }
}

fn text_of(node: &Value) -> Option<String> {
    match node {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(_) => node["text"].as_str().map(String::from),
        _ => None,
    }
}
