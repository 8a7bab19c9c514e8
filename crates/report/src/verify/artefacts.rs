//! Rebuilds tables, plots, pages and claims from the frames beside them and compares them byte by byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::guard::caught;
use hydrometer_base::shortage::first_words;
use hydrometer_record::fingerprint::Fingerprint;
use hydrometer_record::frames::{Frames, IMPORTS, NAMES, OPTIONAL, file_of, read_frame};
use hydrometer_record::provenance::{self, Provenance, frame_hashes};
use serde::Serialize;

use super::contradictions::contradictions;
use super::task_contradictions::task_contradictions;
use crate::claim::Claim;
use crate::{CLAIMS, render};

/// How a file differs from what the frames produce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    Missing,
    /// The line with its expected and actual text, shortened; absent for files that are not text.
    Differs {
        line: Option<usize>,
        expected: String,
        found: String,
    },
    /// The frames do not produce this file.
    Unexpected,
    /// A frame that was changed after it was written, with the columns and runs that changed, which are unknown for older frames.
    Changed {
        columns: Vec<String>,
        runs: Vec<String>,
    },
    /// A frame whose checksum the provenance does not record.
    Unrecorded,
    /// A frame in which numbers contradict each other.
    Contradiction(String),
    /// A file that cannot be read, and why.
    Damaged(String),
}

/// Maximum number of characters that a fault shows of a line.
const SHOWN: usize = 100;

/// The content of a results folder and its faults.
#[derive(Debug, Default)]
pub struct Findings {
    /// Files that agree with the frames.
    pub same: Vec<PathBuf>,
    pub faults: Vec<(PathBuf, Mismatch)>,
    /// Files that are not part of results.
    pub strangers: Vec<PathBuf>,
    /// The frames, if all of them can be read.
    pub frames: Option<Frames>,
    /// Version of the arithmetic that computed them, if it can be read.
    pub numerics: Option<u32>,
}

impl Findings {
    fn fault(&mut self, file: impl Into<PathBuf>, fault: Mismatch) {
        self.faults.push((file.into(), fault));
    }
}

/// Compares the frames of `folder` with the checksums in its provenance, and every file of its report with what the frames and
/// `claims` produce. Checksums are compared before any frame is read.
pub fn compare(folder: &Path, claims: &[Claim]) -> Result<Findings> {
    let mut all = Findings::default();
    let provenance = match Provenance::read(folder) {
        Ok(provenance) => provenance,
        Err(error) => {
            all.fault(provenance::FILE, Mismatch::Damaged(format!("{error:#}")));
            return Ok(all);
        }
    };
    all.numerics = Some(provenance.numerics());
    let found = frame_hashes(folder);
    for name in NAMES {
        let file = file_of(name);
        match (provenance.frames.get(&file), found.get(&file)) {
            (Some(recorded), Some(hash)) if recorded == hash => all.same.push(file.into()),
            (Some(_), Some(_)) => {
                let now = read_frame(folder, name).and_then(|frame| Fingerprint::of(&frame)).ok();
                let both = provenance.fingerprints.get(&file).zip(now.as_ref());
                let (runs, columns) = both.map(|(then, now)| then.differences(now)).unwrap_or_default();
                all.fault(file, Mismatch::Changed { columns, runs });
            }
            (None, None) if OPTIONAL.contains(&name) => {}
            // It may exist but not be a file, or not be readable.
            (_, None) if folder.join(&file).exists() => all.fault(file, Mismatch::Damaged("it is not a readable file".into())),
            (_, None) => all.fault(file, Mismatch::Missing),
            // Its numbers are checked against each other below.
            (None, Some(_)) if name == IMPORTS => all.same.push(file.into()),
            (None, Some(_)) => all.fault(file, Mismatch::Unrecorded),
        }
    }
    for name in NAMES.into_iter().filter(|name| found.contains_key(&file_of(name))) {
        if let Err(error) = read_frame(folder, name) {
            all.same.retain(|file| *file != Path::new(&file_of(name)));
            all.fault(file_of(name), Mismatch::Damaged(format!("{error:#}")));
        }
    }
    let Ok(frames) = Frames::read(folder) else { return Ok(all) };
    for (name, why) in contradictions(&frames)?.into_iter().chain(task_contradictions(&frames)?) {
        all.same.retain(|file| *file != Path::new(&file_of(name)));
        all.fault(file_of(name), Mismatch::Contradiction(why));
    }
    // Changed frames may contain data that no page can show.
    let rendered = caught(|| render(folder, claims)).unwrap_or_else(|panic| Err(anyhow::anyhow!(first_words(&panic))));
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) if all.faults.is_empty() => return Err(error),
        Err(error) => {
            all.fault("report.md", Mismatch::Damaged(format!("the frames give no report: {error:#}")));
            return Ok(all);
        }
    };
    let mut known: BTreeSet<PathBuf> = NAMES.into_iter().map(|name| file_of(name).into()).collect();
    known.insert(provenance::FILE.into());
    for (name, expected) in rendered {
        known.insert(name.clone());
        match std::fs::read(folder.join(&name)) {
            Ok(found) if found == expected => all.same.push(name),
            Ok(found) => all.fault(name, difference(&expected, &found)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => all.fault(name, Mismatch::Missing),
            Err(error) => all.fault(name, Mismatch::Damaged(format!("cannot read it: {error}"))),
        }
    }
    for file in files_in(folder).into_iter().filter(|file| !known.contains(file)) {
        // Files that the frames do not produce would be mistaken for results.
        let ours =
            file == Path::new(CLAIMS) || file.starts_with("plots") || file.extension().is_some_and(|kind| kind == "parquet");
        if ours { all.fault(file, Mismatch::Unexpected) } else { all.strangers.push(file) }
    }
    all.frames = Some(frames);
    Ok(all)
}

/// The files in `folder` and its folder of plots, sorted, without hidden ones.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let names = |inner: &str| {
        let entries = std::fs::read_dir(folder.join(inner)).into_iter().flatten().flatten();
        let prefix = PathBuf::from(inner);
        entries.map(move |entry| prefix.join(entry.file_name())).collect::<Vec<_>>()
    };
    let mut all = [names(""), names("plots")].concat();
    all.retain(|file| {
        file != Path::new("plots") && !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    });
    all.sort();
    all
}

fn difference(expected: &[u8], found: &[u8]) -> Mismatch {
    let (Ok(wanted), Ok(text)) = (std::str::from_utf8(expected), std::str::from_utf8(found)) else {
        let size = |bytes: &[u8]| format!("{} bytes", bytes.len());
        return Mismatch::Differs { line: None, expected: size(expected), found: size(found) };
    };
    let (mut wanted, mut text) = (wanted.split('\n'), text.split('\n'));
    let mut line = 0;
    loop {
        line += 1;
        let (a, b) = (wanted.next(), text.next());
        if a != b || a.is_none() {
            let (expected, found) = around(a.unwrap_or("the end"), b.unwrap_or("the end"));
            return Mismatch::Differs { line: Some(line), expected, found };
        }
    }
}

/// Both lines from shortly before the first difference.
fn around(a: &str, b: &str) -> (String, String) {
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let part = |line: &str| line.chars().skip(common.saturating_sub(SHOWN / 2)).take(SHOWN).collect();
    (part(a), part(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_from_where_the_lines_diverge() {
        let fault =
            |line, expected: &str, found: &str| Mismatch::Differs { line, expected: expected.into(), found: found.into() };
        assert_eq!(difference(b"a\nb 1\nc", b"a\nb 2\nc"), fault(Some(2), "b 1", "b 2"));
        assert_eq!(difference(b"a", b"a\nb"), fault(Some(2), "the end", "b"));
        assert_eq!(difference(&[0xff, 1], &[0xff]), fault(None, "2 bytes", "1 bytes"));
        let long = format!("{}1", "x".repeat(5000));
        let (a, b) = around(&long, &long.replace('1', "2"));
        assert!(a.ends_with("x1") && b.ends_with("x2") && a.len() <= SHOWN);
    }
}
