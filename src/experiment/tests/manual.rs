//! The manual lists exactly the keys of the code, in their order and with their descriptions.

use super::super::fair::Match;
use super::super::keys::{self, Key, Objectives, Place, all, names};
use super::super::source::{Setting, SourceSpan};
use super::expansion::DESIGN;

const MANUAL: &str = include_str!("../../../docs/experiment-file.md");

/// The section of each table of the file.
const SECTIONS: [(Place, &str); 13] = [
    (Place::Top, "## Top level"),
    (Place::Base, "## Keys of a run"),
    (Place::Data, "## Data"),
    (Place::Model, "## Models"),
    (Place::Teacher, "## Keys of a teacher"),
    (Place::Sweep, "## Sweep"),
    (Place::When, "### When"),
    (Place::Skip, "### Skip"),
    (Place::Fair, "## Fair"),
    (Place::Smoke, "## Smoke"),
    (Place::Claim, "## Claims"),
    (Place::Task, "## Tasks"),
    (Place::Decode, "### Decode"),
];

/// The text under `heading`, up to the next one.
fn section(heading: &str) -> &'static str {
    let (_, rest) = MANUAL.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n#").next().unwrap_or_default()
}

/// The keys in the tables under `heading`.
fn rows(heading: &str) -> Vec<&'static str> {
    section(heading).lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// The row of `key`.
fn row(key: &Key) -> String {
    let default = key.default.map_or(String::new(), |text| match text.starts_with(['"', '{', '[']) {
        true => format!(". Default `{text}`"),
        false => format!(". Default {}", text.replace('_', ",")),
    });
    format!("| `{}` | {}{default} |", key.name, key.doc)
}

#[test]
fn every_key_is_in_the_manual() {
    for (place, heading) in SECTIONS {
        let mut wanted = names(place);
        if place == Place::Smoke {
            // It takes the keys of a run as well.
            wanted.retain(|name| keys::find(Place::Base, name).is_none());
        }
        assert_eq!(rows(heading), wanted, "docs/experiment-file.md, {heading}");
    }
}

#[test]
fn the_manual_describes_every_key_as_the_code_does() {
    let missing: Vec<String> = all()
        .filter_map(|key| {
            let (_, heading) = SECTIONS.iter().find(|(place, _)| key.places.first() == Some(place))?;
            let row = row(key);
            (!section(heading).contains(&row)).then(|| format!("{heading}\n{row}"))
        })
        .collect();
    assert!(missing.is_empty(), "docs/experiment-file.md lacks\n{}", missing.join("\n"));
}

#[test]
fn every_choice_is_in_the_manual() {
    for by in Match::NAMES {
        assert!(MANUAL.contains(&format!("- `\"{by}\"`: ")), "{by}");
    }
    for key in all().filter(|key| matches!(key.value, keys::Value::Choice(_))) {
        for name in key.names() {
            assert!(key.doc.contains(&format!("`\"{name}\"`")), "{}: {name}", key.name);
        }
    }
    for name in hydrometer_torch::objective::Objective::NAMES {
        assert!(keys::OBJECTIVE.doc.contains(&format!("`\"{name}\"`")), "{name}");
    }
}

/// Oracle: the enum of objectives.
#[test]
fn keys_apply_only_to_objectives_that_exist() {
    for key in all() {
        let (Objectives::Only(names) | Objectives::AllBut(names)) = key.objectives else { continue };
        for name in names {
            assert!(hydrometer_torch::objective::Objective::NAMES.contains(name), "{}: {name}", key.name);
        }
    }
}

#[test]
fn every_default_and_every_example_is_a_value_of_its_key() {
    let parsed = |text: &str| text.parse::<toml_edit::Value>().unwrap_or_else(|error| panic!("{text}: {error}"));
    let check = |key: &Key, value| key.check(&Setting { value, at: SourceSpan("here".into()) }).unwrap();
    for key in all() {
        key.default.into_iter().for_each(|text| check(key, parsed(text)));
        if key.places.contains(&Place::Axis) {
            let values = parsed(key.example);
            values.as_array().expect("a list").iter().for_each(|value| check(key, value.clone()));
        }
    }
}

#[test]
fn the_sample_of_the_manual_is_the_tested_one() {
    assert!(MANUAL.contains(DESIGN.trim()));
}
