//! README and docs quote the numbers of the committed frames, and every deviation is reported with its line.

use std::fs;
use std::path::{Path, PathBuf};

use hydrometer::report::quote::{Filled, Results, fill};

use super::lab::Lab;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn results() -> Results {
    Results::of(&root().join("results"))
}

fn texts() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    all.sort();
    all.insert(0, root().join("README.md"));
    all
}

fn filled(text: &str) -> Filled {
    fill(text, &root().join("README.md"), &mut results())
}

/// Oracle: the frames, read by the report's code.
#[test]
fn readme_and_docs_quote_what_the_frames_give() {
    let (mut results, mut wrong, mut quotes) = (results(), String::new(), 0);
    for file in texts() {
        let text = fs::read_to_string(&file).unwrap();
        let found = fill(&text, &file, &mut results);
        let name = file.strip_prefix(root()).unwrap().display();
        for change in &found.changes {
            let (line, quote, found, given) = (change.line, &change.quote, &change.found, &change.given);
            wrong += &format!("{name}:{line}: {quote}: found {found:?}, the frames give {given:?}\n");
        }
        for placed in &found.faults {
            wrong += &format!("{name}:{}: {}\n", placed.line, placed.fault.reason);
        }
        quotes += found.quotes;
    }
    assert!(wrong.is_empty(), "\n{wrong}`make readme` writes what the frames give");
    assert!(quotes > 15, "{quotes} quotes are left");
}

/// In README's section on results, digits occur only in quotes, links and names.
#[test]
fn readme_has_no_result_outside_a_marker() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let section = text.split("\n## ").find(|part| part.starts_with("What it found")).unwrap();
    let mut rest = section;
    let mut typed = String::new();
    while let Some((before, after)) = rest.split_once("<!--") {
        typed += before;
        let (marker, after) = after.split_once("-->").unwrap();
        rest = if marker.starts_with('=') { after.split_once("<!--/-->").unwrap().1 } else { after };
    }
    typed += rest;
    let is_name = |word: &str| word.contains("](") || word.contains('`') || word.starts_with("SmolLM2");
    let numbers: Vec<&str> =
        typed.split_whitespace().filter(|word| !is_name(word) && word.chars().any(|c| c.is_ascii_digit())).collect();
    assert!(numbers.is_empty(), "typed in README: {numbers:?}");
}

/// Changes every digit of a quoted table and of a quoted number in turn.
#[test]
fn a_changed_digit_is_named_with_its_line() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let clean = filled(&text);
    let table = text.find("<!--=methods facets").unwrap();
    for from in [table + 30, text.find("/params-->").unwrap() + 10] {
        let at = from + text[from..].find(|c: char| c.is_ascii_digit()).unwrap();
        let other = if &text[at..=at] == "7" { "8" } else { "7" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        let found = filled(&changed);
        let line = text[..at].matches('\n').count() + 1;
        assert_eq!(found.changes.iter().map(|change| change.line).collect::<Vec<_>>(), [line], "{:?}", found.changes);
        assert_eq!(found.text, clean.text, "the text is corrected");
    }
}

#[test]
fn wrong_markers_are_named_and_nothing_is_written() {
    for (text, line, reason) in [
        ("\nsee <!--=nothing/soft-ce/percent-->1<!--/-->", 2, "nothing has no frames"),
        (
            "see <!--=quickstart/soft-cf/percent-->1<!--/-->",
            1,
            "quickstart has no `soft-cf`; it has `finetune`, `logit-mse`, `soft-ce`",
        ),
        ("see <!--=quickstart/soft-ce/pct-->1<!--/-->", 1, "quickstart/soft-ce has no `pct`; it has `bits_per_byte`"),
        ("see <!--=smollm2/bucket/nats-->1<!--/-->", 1, "smollm2/bucket has no `nats`"),
        ("see <!--=quickstart/soft-ce-->1<!--/-->", 1, "quickstart/soft-ce is no number"),
        ("see <!--=methods/claims/it-helps/verdict-->x<!--/-->", 1, "methods/claims has no `it-helps`"),
        ("<!--=quickstart/soft-ce/percent-->1<!--/-->", 1, "must not begin with a marker"),
        ("see <!--=quickstart/soft-ce/percent-->1\n2<!--/-->", 1, "stand on one line"),
        ("see <!--=quickstart/soft-ce/percent-->1", 1, "has no <!--/-->"),
        ("see <!--=quickstart/soft-ce/percent\n-->1<!--/-->", 1, "not closed by -->"),
        ("1<!--/-->", 1, "does not begin"),
        ("a <!--=quickstart/soft-ce/p-->1 <!--=quickstart/soft-ce/p-->1<!--/-->", 1, "before the next marker"),
        ("<!--=quickstart tables: p-->\n<!--/-->", 1, "there is no block `tables`"),
        ("<!--=quickstart table: pct-->\n<!--/-->", 1, "no arm of quickstart has a `pct`"),
        ("<!--=quickstart figure: forest-->\n<!--/-->", 1, "no plot `forest`; it has `difference`"),
        ("<!--=quickstart claims-->\n<!--/-->", 1, "quickstart has no claims"),
        ("x <!--=quickstart sentences-->\n<!--/-->", 1, "lines of their own"),
        ("<!--?quickstart/soft-ce/verdict lower-->", 1, "is not EXPERIMENT/NAME is WORD"),
    ] {
        let found = filled(text);
        let first = found.faults.first().unwrap_or_else(|| panic!("{text}: no fault"));
        assert!(first.line == line && first.fault.reason.contains(reason), "{text}: {first:?}");
        assert!(!first.fault.contradicted, "{text}");
    }
}

#[test]
fn prose_that_contradicts_the_frames_is_reported() {
    let found = filled(
        "<!--?methods/claims/metaseq-costs/verdict is supported-->\n\n<!--?methods/claims/metaseq-costs/verdict is refuted-->\n",
    );
    assert_eq!(found.faults.len(), 1);
    assert!(found.faults[0].line == 3 && found.faults[0].fault.contradicted, "{:?}", found.faults);
    assert!(found.faults[0].fault.reason.contains("the frames give supported"), "{:?}", found.faults);
}

#[test]
fn markers_in_code_are_ignored() {
    let text = "`<!--=a/b/c-->` and\n\n```markdown\n<!--=a b-->\n```\n\n~~~\n```\n<!--/-->\n~~~\n<!-- a comment -->\n";
    let found = filled(text);
    assert!(found.faults.is_empty() && found.quotes == 0 && found.text == text, "{found:?}");
}

/// Oracle: the committed report's row of the same arm.
#[test]
fn quote_fills_and_checks_with_the_documented_exit_codes() {
    let lab = Lab::new();
    let results = root().join("results");
    let results = results.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = lab.run(&[&["quote", "--results", results], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    lab.write("a.md", "# A\n\nIt is <!--=methods/bucket tokens=800k/percent-->+1.0%<!--/-->.\n");
    let report = fs::read_to_string(root().join("results/methods/report.md")).unwrap();
    let row = report.split("**tokens=800k**").nth(1).unwrap().lines().find(|line| line.starts_with("| bucket |")).unwrap();
    let percent = row.split(" | ").nth(3).unwrap();
    let (code, said, _) = run(&["a.md", "--check"]);
    assert!(code == 4 && said.contains("a.md:3: ") && said.contains("+1.0%") && said.contains(percent), "{said}");
    assert_eq!(run(&["a.md"]).0, 0);
    let text = fs::read_to_string(lab.path().join("a.md")).unwrap();
    assert_eq!(text, format!("# A\n\nIt is <!--=methods/bucket tokens=800k/percent-->{percent}<!--/-->.\n"));
    assert_eq!(run(&["a.md", "--check"]).0, 0);
    lab.write("b.md", "It is <!--=methods/bucket tokens=800k/percent-->1<!--/-->, <!--=methods/buckets/p-->1<!--/-->.\n");
    let (code, _, told) = run(&["b.md", "a.md"]);
    assert!(code == 2 && told.contains("b.md:1: methods has no `buckets`"), "{told}");
    assert!(fs::read_to_string(lab.path().join("b.md")).unwrap().contains("-->1<!--/-->, "), "nothing was written");
    lab.write("c.md", "<!--?methods/claims/the-help-fades/verdict is supported-->\nIt fades.\n");
    assert_eq!(run(&["c.md"]).0, 4);
    assert_eq!(run(&["none.md"]).0, 2);
}

/// A frame with a flipped bit is not quoted.
#[test]
fn frames_that_do_not_match_their_provenance_are_not_quoted() {
    let lab = Lab::new();
    let folder = lab.path().join("results/quickstart");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(root().join("results/quickstart")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            fs::copy(&entry, folder.join(entry.file_name().unwrap())).unwrap();
        }
    }
    lab.write("a.md", "It is <!--=quickstart/soft-ce/percent-->1<!--/-->.\n");
    assert_eq!(lab.run(&["quote", "a.md"]).status.code(), Some(0));
    let mut provenance = fs::read_to_string(folder.join("provenance.json")).unwrap();
    let at = provenance.find("evals.parquet\": \"").unwrap() + 17;
    let other = if &provenance[at..=at] == "0" { "1" } else { "0" };
    provenance.replace_range(at..=at, other);
    fs::write(folder.join("provenance.json"), provenance).unwrap();
    let output = lab.run(&["quote", "a.md"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && told.contains("a.md:1: ") && told.contains("evals.parquet"), "{told}");
}
