use hydrometer_record::metric::Metric;

use super::super::claims::{Outcome, decide, json as claims_json};
use super::{documented, made};
use crate::claim::Claim;
use crate::claim::expectation::Expectation;

pub const SOFT: [&str; 3] = ["soft-ce-20-1", "soft-ce-20-2", "soft-ce-20-3"];
pub const HARD: [&str; 3] = ["finetune-x-1", "finetune-x-2", "finetune-x-3"];

/// A claim on two arms of three seeds each.
pub fn claim(expect: &str, a: &[&str], b: &[&str]) -> Claim {
    let runs = |runs: &[&str]| runs.iter().map(|run| run.to_string()).collect();
    Claim {
        id: format!("claim {expect}"),
        says: "So it is.".into(),
        expect: expect.into(),
        expectation: Expectation::parse(expect).unwrap(),
        level: 0.95,
        a: runs(a),
        b: runs(b),
    }
}

#[test]
fn claims_are_supported_refuted_or_inconclusive_and_say_why() {
    let mut made = made();
    made.run("student", "finetune", 4, None, 1.0, "failed");
    let frames = documented(&made);
    let mse = ["logit-mse-x-1", "logit-mse-x-2", "logit-mse-x-3"];
    let claims = [
        claim("perplexity(a) < 0.98 * perplexity(b)", &SOFT, &HARD),
        claim("perplexity(a) > perplexity(b)", &SOFT, &HARD),
        claim("nll(a) < nll(b) - 0.005", &mse, &HARD),
        claim("perplexity(a) < perplexity(b)", &SOFT, &["finetune-x-1", "finetune-x-4"]),
        claim("perplexity(a) < perplexity(b)", &SOFT, &["finetune-x-9"]),
        claim("nll(a) < 5", &SOFT[..1], &[]),
    ];
    let found = decide(&claims, &frames).unwrap();
    let verdicts: Vec<&str> = found.iter().map(|outcome| outcome.verdict.name()).collect();
    assert_eq!(verdicts, ["supported", "refuted", "inconclusive", "inconclusive", "inconclusive", "inconclusive"]);
    let sentences: Vec<&str> = found.iter().map(|outcome| outcome.sentence.as_str()).collect();
    // Oracle: 85 is 3.4% less than 88, and 1.4% less than 0.98 · 88.
    assert!(
        sentences[0].starts_with("soft-ce top_k=20 reaches 3.4% lower perplexity than finetune (95% CI −3."),
        "{}",
        sentences[0]
    );
    let verdict = "), in 3 of 3 seeds; claim supported: So it is (claim perplexity(a) < 0.98 * perplexity(b); measured against the \
                   claimed bound: −1.4%, −1.";
    assert!(sentences[0].contains(verdict), "{}", sentences[0]);
    assert!(sentences[0].contains("; 30 documents; all 6 claims counted (Holm): supported, p = 0.0"), "{}", sentences[0]);
    assert!(
        sentences[1].contains("in 3 of 3 seeds; claim refuted: So it is (claim perplexity(a) > perplexity(b); 30 doc"),
        "{}",
        sentences[1]
    );
    let unfinished = "1 of the claim's 5 runs did not finish (finetune-x-4 is failed); claim inconclusive: So it is (claim ";
    assert!(sentences[3].starts_with(unfinished), "{}", sentences[3]);
    assert!(sentences[4].contains("1 of the claim's 4 runs did not finish (finetune-x-9 is missing)"), "{}", sentences[4]);
    assert!(sentences[5].starts_with("One seed tells nothing of the variation between seeds"), "{}", sentences[5]);
    assert_eq!(found[0].probability_of_superiority, Some(1.0));
    assert!(found[2].seeds_needed.is_none_or(|seeds| seeds > 3) && found[0].p_holm >= found[0].p);
    let json = |outcomes: &[Outcome]| String::from_utf8(claims_json("made", outcomes).unwrap()).unwrap();
    assert_eq!(json(&found), json(&decide(&claims, &frames).unwrap()));
    assert!(!json(&found).contains("NaN"));
}

/// Oracle: by hand. soft-ce's KL is 1, 1.1 and 0.9, finetune's twice that; agreement 0.5 on all seeds of both.
#[test]
fn claims_can_use_calibration_and_fidelity() {
    let mut made = made();
    for eval in &mut made.evals {
        let soft = eval.run.starts_with("soft-ce-20");
        let shift = match eval.run.chars().last() {
            Some('2') => 0.1,
            Some('3') => -0.1,
            _ => 0.0,
        };
        eval.scores[Metric::Ece] = Some(if soft { 0.01 } else { 0.04 } + 0.01 * shift);
        eval.scores[Metric::KlToTeacher] =
            (!eval.run.starts_with("logit-mse")).then_some(if soft { 1.0 + shift } else { 2.0 + 2.0 * shift });
        eval.scores[Metric::Top1Agreement] = Some(0.5);
        eval.scores[Metric::Top10Overlap] = (eval.run != "finetune-x-2").then_some(0.4);
    }
    let mse = ["logit-mse-x-1", "logit-mse-x-2", "logit-mse-x-3"];
    let claims = [
        claim("kl_to_teacher(a) < 0.6 * kl_to_teacher(b)", &SOFT, &HARD),
        claim("ece(a) > ece(b)", &SOFT, &HARD),
        claim("top_1_agreement(a) > top_1_agreement(b)", &SOFT, &HARD),
        claim("kl_to_teacher(a) < 3", &mse, &[]),
        claim("top_10_overlap(a) > top_10_overlap(b) - 0.1", &SOFT, &HARD),
    ];
    let found = decide(&claims, &documented(&made)).unwrap();
    let verdicts: Vec<&str> = found.iter().map(|outcome| outcome.verdict.name()).collect();
    assert_eq!(verdicts, ["supported", "refuted", "inconclusive", "inconclusive", "inconclusive"]);
    // The ratio of the two is the same on every seed, and documents do not vary.
    let ratio = (0.5f64 / 0.6).ln();
    let (low, high) = (found[0].low.unwrap(), found[0].high.unwrap());
    assert!((low - ratio).abs() < 1e-8 && (high - ratio).abs() < 1e-8, "{low} {high}");
    assert_eq!(found[2].estimate, Some(0.0));
    let none =
        "KL to teacher is missing from 3 of the 3 runs of logit-mse (the first is seed 1): they were held against no teacher";
    assert_eq!(found[3].reason.as_deref(), Some(none));
    assert!(found[3].sentence.starts_with(&format!("{none}; claim inconclusive: So it is")), "{}", found[3].sentence);
    assert!(
        found[4].sentence.starts_with("Top-10 overlap is missing from 1 of the 3 runs of finetune (the first is seed 2)"),
        "{}",
        found[4].sentence
    );
}
