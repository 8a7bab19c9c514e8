use super::*;
use crate::table::Surface;

/// Frames of [`made`] with the newer columns: soft-ce at top_k 20 has a KL of 1, 1.1 and 0.9.
fn measured() -> Made {
    let mut made = made();
    for eval in &mut made.evals {
        let soft = eval.run.starts_with("soft-ce");
        eval.scores[Metric::Ece] = Some(if soft { 0.0123 } else { 0.05 });
        // At a student's last evaluation only.
        if eval.step == 200 && !eval.run.starts_with("big") && !eval.run.starts_with("unigram") {
            let shift = match eval.run.chars().last() {
                Some('2') => 0.1,
                Some('3') => -0.1,
                _ => 0.0,
            };
            eval.scores[Metric::KlToTeacher] = Some(if soft { 1.0 } else { 2.0 } + shift);
            (eval.scores[Metric::Top1Agreement], eval.scores[Metric::Top10Overlap]) = (Some(0.5 + shift), Some(0.4));
        }
    }
    made
}

fn page(made: &Made) -> String {
    let found = comparison(&made.frames(), &provenance()).unwrap();
    table::metrics(&found, Surface::Page).map_or(String::new(), |table| table.markdown())
}

/// Oracle: by hand. The half-width of 1, 1.1, 0.9 is t = 4.30265 times s/√3 with s = 0.1.
#[test]
fn fidelity_and_calibration_of_every_arm_are_shown_beside_its_teacher_and_the_baseline() {
    let text = page(&measured());
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "| arm | bits per byte | token accuracy | ECE | KL to teacher | top-1 agreement | top-10 overlap |"
    );
    let row = |arm: &str| text.lines().find(|line| line.starts_with(&format!("| {arm} "))).unwrap_or_else(|| panic!("{text}"));
    let soft = "| soft-ce top\\_k=20 | 2.000 ± 0.000 | 30.0 ± 0.0% | 1.23 ± 0.00% | 1.000 ± 0.248 | 50.0 ± 24.8% | 40.0 ± 0.0% |";
    assert_eq!(row("soft-ce top\\_k=20"), soft);
    assert_eq!(row("big (teacher)"), "| big (teacher) | 2.000 | 30.0% | 5.00% |  |  |  |");
    assert_eq!(row("unigram"), "| unigram | 2.000 | 30.0% | 5.00% |  |  |  |");
    assert!(text.contains("All on the held-out text (valid)"), "{text}");
    let found = serde_json::to_value(comparison(&measured().frames(), &provenance()).unwrap()).unwrap();
    assert_eq!(found["cells"][1]["metrics"]["kl_to_teacher"]["mean"], 1.0);
    assert_eq!(found["cells"][1]["seeds"][2]["metrics"]["kl_to_teacher"], 0.9);
    assert_eq!(found["references"][0]["metrics"]["ece"]["mean"], 0.05);
    assert!(found["references"][0]["metrics"]["kl_to_teacher"].is_null());
}

#[test]
fn metrics_that_no_run_has_get_no_column_and_partial_ones_are_noted() {
    let text = page(&made());
    assert!(text.starts_with("| arm | bits per byte | token accuracy |\n"), "{text}");
    assert!(!text.contains("ECE") && !text.contains("teacher is held"), "{text}");
    assert!(!page(&measured()).contains("Not every finished run"));
    let mut some = measured();
    some.evals.iter_mut().filter(|eval| eval.run == "soft-ce-20-2").for_each(|eval| eval.scores[Metric::KlToTeacher] = None);
    some.evals
        .iter_mut()
        .filter(|eval| eval.run.starts_with("finetune"))
        .for_each(|eval| eval.scores[Metric::KlToTeacher] = None);
    let text = page(&some);
    assert!(text.contains("| 0.950 ± 0.635 |") && text.contains("| – |") && text.contains("Not every finished run"), "{text}");
    assert_eq!(page(&Made::default()), "");
}

#[test]
fn both_pages_have_the_section_of_metrics_with_fidelity_if_there_is_a_teacher() {
    for (made, there) in [(measured(), true), (made(), false)] {
        let folder = tempdir().unwrap();
        written(made.frames(), &provenance(), folder.path());
        for page in ["report.md", "report.html"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
            assert!(text.contains("Beside perplexity") && text.contains("KL to teacher") == there, "{page}");
        }
    }
}

#[test]
fn both_tables_fit_110_columns_in_a_terminal() {
    let mut made = measured();
    made.run("student", &"long-name-".repeat(12), 1, Some("20"), 91.0, "ok");
    let text = table::terminal(&comparison(&made.frames(), &provenance()).unwrap());
    assert!(text.contains("top-10 overlap") && text.lines().all(|line| line.chars().count() <= 110), "{text}");
    println!("{text}");
}
