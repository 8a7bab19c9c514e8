use super::super::claims::{Outcome, decide, json as claims_json};
use super::{documented, made};
use crate::experiment::claim::Claim;
use crate::experiment::expectation::Expectation;

const SOFT: [&str; 3] = ["soft-ce-20-1", "soft-ce-20-2", "soft-ce-20-3"];
const HARD: [&str; 3] = ["finetune-x-1", "finetune-x-2", "finetune-x-3"];

/// A claim on two arms of three seeds each.
fn claim(expect: &str, a: &[&str], b: &[&str]) -> Claim {
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
    // Oracle: 85/88 is 3.4% less, 1.4% less than 0.98 of it.
    let start = "Supported: claim perplexity(a) < 0.98 * perplexity(b). So it is: perplexity(a) is 1.4% below 0.98 * \
                 perplexity(b) (95% interval −1.";
    assert!(sentences[0].starts_with(start), "{}", sentences[0]);
    assert!(sentences[0].contains("3 seeds, 30 documents; of all claims together supported, p = 0.0"), "{}", sentences[0]);
    assert!(sentences[3].contains("1 of its 5 runs did not finish (finetune-x-4 is failed)"), "{}", sentences[3]);
    assert!(sentences[4].contains("1 of its 4 runs did not finish (finetune-x-9 is missing)"), "{}", sentences[4]);
    assert!(sentences[5].contains("one seed tells nothing of the variation between seeds"), "{}", sentences[5]);
    assert_eq!(found[0].probability_of_superiority, Some(1.0));
    assert!(found[2].seeds_needed.is_none_or(|seeds| seeds > 3) && found[0].p_holm >= found[0].p);
    let json = |outcomes: &[Outcome]| String::from_utf8(claims_json("made", outcomes).unwrap()).unwrap();
    assert_eq!(json(&found), json(&decide(&claims, &frames).unwrap()));
    assert!(!json(&found).contains("NaN"));
}
