//! The manual names every key there is, in the order of the code, and no other.

use super::super::claim::CLAIM_KEYS;
use super::super::fair::{FAIR_KEYS, Match};
use super::super::file::{SMOKE_KEY, TOP_KEYS};
use super::super::preset::{DATA_KEYS, MODEL_KEYS};
use super::super::resolve::{RUN_KEYS, TEACHER_KEYS};
use super::super::sweep::{SKIP_KEYS, SWEEP_KEYS, WHEN_KEYS};
use super::expansion::DESIGN;

const MANUAL: &str = include_str!("../../../docs/experiment-file.md");

/// The keys in the tables under `heading`, up to the next heading.
fn keys(heading: &str) -> Vec<&'static str> {
    let (_, rest) = MANUAL.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = rest.split("\n#").next().unwrap_or_default();
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[test]
fn every_key_is_in_the_manual() {
    let sections: [(&str, &[&str]); 11] = [
        ("## Top level", &TOP_KEYS),
        ("## Keys of a run", &RUN_KEYS),
        ("## Data", &DATA_KEYS),
        ("## Models", &MODEL_KEYS),
        ("## Keys of a teacher", &TEACHER_KEYS),
        ("## Sweep", &SWEEP_KEYS),
        ("### When", &WHEN_KEYS),
        ("### Skip", &SKIP_KEYS),
        ("## Fair", &FAIR_KEYS),
        ("## Smoke", &[SMOKE_KEY]),
        ("## Claims", &CLAIM_KEYS),
    ];
    for (heading, wanted) in sections {
        assert_eq!(keys(heading), wanted, "docs/experiment-file.md, {heading}");
    }
}

#[test]
fn every_choice_is_in_the_manual() {
    for by in Match::ALL {
        assert!(MANUAL.contains(&format!("- `\"{}\"`: ", by.name())), "{}", by.name());
    }
    let line = |key: &str| MANUAL.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap_or_default();
    for tail in hydrometer_torch::objective::Tail::ALL {
        assert!(line("tail").contains(&format!("`\"{}\"`", tail.name())), "{}", tail.name());
    }
    for name in hydrometer_data::recipe::Packing::NAMES {
        assert!(line("packing").contains(&format!("`\"{name}\"`")), "{name}");
    }
    for name in hydrometer_torch::objective::Objective::NAMES {
        assert!(line("objective").contains(&format!("`\"{name}\"`")), "{name}");
    }
}

#[test]
fn the_manual_s_sample_is_the_one_that_is_expanded_here() {
    assert!(MANUAL.contains(DESIGN.trim()));
}
