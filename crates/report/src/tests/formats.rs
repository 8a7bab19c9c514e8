use super::*;
use crate::pooled::Pooled;
use crate::table::csv::csv;
use crate::table::document::{Language, document};

/// A name with all special characters of LaTeX, Typst, Markdown and CSV.
const NASTY: &str = r#"[*] 50%_\&#${x}^~"a","b"|<c>@--`//"#;

/// Three arms, one of them with a name of special characters.
fn nasty() -> Comparison {
    let mut made = Made::default();
    for (seed, shift) in [(1, 0.0), (2, 1.0), (3, -1.0)] {
        made.run("student", "finetune", seed, None, 88.0 + shift, "ok");
        made.run("student", "soft-ce", seed, Some("20"), 85.0 + 0.9 * shift, "ok");
        made.run("student", "soft-ce", seed, Some("100"), 84.0 + 1.1 * shift, "ok");
        made.run("student", NASTY, seed, None, 91.0 + 0.8 * shift, "ok");
    }
    made.run("teacher", "τ → big", 1, None, 61.0, "ok").run("baseline", "unigram", 1, None, 640.0, "ok");
    comparison(&documented(&made), &provenance()).unwrap()
}

fn pooled() -> Vec<Pooled> {
    let nll = Estimate { mean: -0.05, low: Some(-0.07), high: Some(-0.03), n: 3 };
    vec![Pooled { arm: "soft-ce".into(), at: "top_k=20".into(), sets: vec!["plays".into(), "a_b".into()], nll }]
}

/// Oracle: files under tests/fixtures/tables, read by eye; the Typst one compiled with typst 0.15.2.
#[test]
fn each_format_equals_its_fixture() {
    let (found, pooled) = ([nasty()], pooled());
    for (name, text) in [
        ("made.md", document(&found, &pooled, Language::Markdown)),
        ("made.tex", document(&found, &pooled, Language::Latex)),
        ("made.typ", document(&found, &pooled, Language::Typst)),
        ("made.csv", csv(&found, &pooled)),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tables").join(name);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        if std::env::var_os("HYDROMETER_KEEP_TABLES").is_some() {
            std::fs::write(&path, &text).unwrap();
        } else {
            assert_eq!(text, kept, "{name}");
        }
    }
}

/// Oracle: LaTeX's rules: outside escapes, braces nest, dollars are paired, every row has as many cells as columns.
#[test]
fn latex_is_balanced_and_every_row_has_all_columns() {
    let text = document(&[nasty()], &pooled(), Language::Latex);
    let bare = text.replace("\\\\\n", "\n").replace("\\{", "").replace("\\}", "").replace("\\$", "").replace("\\&", "");
    let mut depth = 0i32;
    for c in bare.chars() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        assert!(depth >= 0, "{text}");
    }
    assert_eq!(depth, 0, "{text}");
    assert_eq!(bare.matches('$').count() % 2, 0, "{text}");
    for table in bare.split("\\begin{tabular}").skip(1) {
        let table = table.split("\\end{tabular}").next().unwrap();
        let mut lines = table.lines();
        let columns = lines.next().unwrap().chars().filter(|c| matches!(c, 'l' | 'r')).count();
        for line in lines.filter(|line| line.contains('&')) {
            assert_eq!(line.matches('&').count() + 1, columns, "{line}");
        }
    }
    assert!(!text.contains('−') && !text.contains('±') && !text.contains('Δ') && !text.contains('τ'), "{text}");
    assert!(text.is_ascii(), "nothing here needs more");
    // No row begins with a character that `\\` would take for its argument.
    assert!(text.lines().all(|line| !line.starts_with('[') && !line.starts_with('*')), "{text}");
}

#[test]
fn facets_and_references_are_separated_by_rules() {
    let found = [comparison(&crowd(), &provenance()).unwrap()];
    let latex = document(&found, &[], Language::Latex);
    let table = latex.split("\\end{tabular}").next().unwrap();
    assert_eq!(table.matches("\\multicolumn{9}{@{}l}{\\textit{tokens=").count(), 2);
    assert_eq!(table.matches("\\midrule").count(), 2, "under the head and between the facets");
    let typst = document(&found, &[], Language::Typst);
    assert_eq!(typst.split("#text").next().unwrap().matches("table.cell(colspan: 9, align: left, emph(").count(), 2);
    assert_eq!(csv(&found, &[]).lines().count(), 1 + 26);
}

#[test]
fn hidden_characters_are_made_visible_and_line_breaks_break_no_row() {
    let mut made = made();
    made.run("student", "a\nb\u{1b}[31m", 1, None, 90.0, "ok");
    let found = [comparison(&made.frames(), &provenance()).unwrap()];
    let typst = document(&found, &[], Language::Typst);
    assert!(typst.contains(r#""a b\\u{1b}[31m""#), "{typst}");
    let latex = document(&found, &[], Language::Latex);
    assert!(latex.contains(r"a b\textbackslash{}u\{1b\}{[}31m & 1 ok"), "{latex}");
}
