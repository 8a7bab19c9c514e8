//! Tables, plots, pages and claims, rebuilt from the frames beside them and held against what is there, byte by byte.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::contradictions::contradictions;
use crate::experiment::claim::Claim;
use crate::record::fingerprint::fingerprints;
use crate::record::frames::{Frames, NAMES};
use crate::record::provenance::{Provenance, frame_hashes};
use crate::report::{CLAIMS, render};

/// How a file fails to be what the frames give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Missing,
    /// The line and what it should be and is, cut short; absent for files that are not text.
    Differs {
        line: Option<usize>,
        expected: String,
        found: String,
    },
    /// Nothing gives this file.
    Unexpected,
    /// A frame that is not the one that was written, and in which columns of which runs; of older frames neither is known.
    Changed {
        columns: Vec<String>,
        runs: Vec<String>,
    },
    /// A frame of which one number denies another.
    Contradiction(String),
    /// A frame that cannot be read, and why.
    Damaged(String),
}

/// Characters of a line that a fault shows.
const SHOWN: usize = 100;

/// Compares the frames of `folder` with the checksums that its provenance records, and every file of its report with what the
/// frames and `claims` give. Returns the files that agree, and those that do not.
pub fn compare(folder: &Path, claims: &[Claim]) -> Result<(Vec<PathBuf>, Vec<(PathBuf, Fault)>)> {
    let (mut same, mut faults) = (Vec::new(), Vec::new());
    let found = frame_hashes(folder);
    let provenance = Provenance::read(folder)?;
    let (frames, damage) = match Frames::read(folder) {
        Ok(frames) => (Some(frames), None),
        Err(error) => (None, Some(error)),
    };
    let now = frames.as_ref().map(fingerprints).transpose()?.unwrap_or_default();
    for (name, recorded) in provenance.frames {
        match found.get(&name) {
            Some(hash) if *hash == recorded => same.push(name.into()),
            Some(_) => {
                let both = provenance.fingerprints.get(&name).zip(now.get(&name));
                let (runs, columns) = both.map(|(then, now)| then.differences(now)).unwrap_or_default();
                faults.push((name.into(), Fault::Changed { columns, runs }));
            }
            None => faults.push((name.into(), Fault::Missing)),
        }
    }
    if let Some(error) = damage {
        let name = NAMES.into_iter().find(|name| format!("{error}").contains(&format!("{name}.parquet")));
        faults.push((format!("{}.parquet", name.unwrap_or("runs")).into(), Fault::Damaged(format!("{error:#}"))));
        return Ok((same, faults));
    }
    for (name, why) in frames.as_ref().map(contradictions).transpose()?.unwrap_or_default() {
        faults.push((format!("{name}.parquet").into(), Fault::Contradiction(why)));
    }
    for (name, expected) in render(folder, claims)? {
        match std::fs::read(folder.join(&name)) {
            Ok(found) if found == expected => same.push(name),
            Ok(found) => faults.push((name, difference(&expected, &found))),
            Err(_) => faults.push((name, Fault::Missing)),
        }
    }
    if claims.is_empty() && folder.join(CLAIMS).exists() {
        faults.push((CLAIMS.into(), Fault::Unexpected));
    }
    Ok((same, faults))
}

fn difference(expected: &[u8], found: &[u8]) -> Fault {
    let (Ok(wanted), Ok(text)) = (std::str::from_utf8(expected), std::str::from_utf8(found)) else {
        let size = |bytes: &[u8]| format!("{} bytes", bytes.len());
        return Fault::Differs { line: None, expected: size(expected), found: size(found) };
    };
    let (mut wanted, mut text) = (wanted.split('\n'), text.split('\n'));
    let mut line = 0;
    loop {
        line += 1;
        let (a, b) = (wanted.next(), text.next());
        if a != b || a.is_none() {
            let (expected, found) = around(a.unwrap_or("the end"), b.unwrap_or("the end"));
            return Fault::Differs { line: Some(line), expected, found };
        }
    }
}

/// Both lines from shortly before the place where they part.
fn around(a: &str, b: &str) -> (String, String) {
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let part = |line: &str| line.chars().skip(common.saturating_sub(SHOWN / 2)).take(SHOWN).collect();
    (part(a), part(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_where_lines_part() {
        let fault = |line, expected: &str, found: &str| Fault::Differs { line, expected: expected.into(), found: found.into() };
        assert_eq!(difference(b"a\nb 1\nc", b"a\nb 2\nc"), fault(Some(2), "b 1", "b 2"));
        assert_eq!(difference(b"a", b"a\nb"), fault(Some(2), "the end", "b"));
        assert_eq!(difference(&[0xff, 1], &[0xff]), fault(None, "2 bytes", "1 bytes"));
        let long = format!("{}1", "x".repeat(5000));
        let (a, b) = around(&long, &long.replace('1', "2"));
        assert!(a.ends_with("x1") && b.ends_with("x2") && a.len() <= SHOWN);
    }
}
