//! The claims of an experiment, decided by its frames.
//!
//! A claim compares two expressions, seed by seed on the same documents. Where both are products of metrics the logarithm of their
//! ratio is measured, else their difference; its mean over seeds and its interval over seeds and documents (see
//! [`crate::stats::crossed`]) decide. Bits per byte follow the nats per token of the drawn documents at the whole text's bytes per
//! token; accuracy, calibration and fidelity are known for the whole text only and vary by seed alone ([`Pooling`]).

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_base::text::capital;
use hydrometer_base::units::{fixed, signed};
use hydrometer_record::frames::Frames;
use hydrometer_record::metric::{Metric, Place, Pooling};
use hydrometer_record::run_status::RunStatus;
use serde::Serialize;

use super::evidence::{FinalEvaluation, read};
use crate::claim::Claim;
use crate::claim::expectation::{Relation, Side};
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Crossed, Draws, crossed};
use crate::stats::holm::holm;
use crate::stats::paired::corpus_nll;
use crate::stats::power::{POWER, minimum_detectable_effect, seeds_needed};
use crate::stats::superiority::probability_of_superiority;
use crate::stats::verdict::{Verdict, below_zero};

/// A claim and what became of it, as in `claims.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub id: String,
    pub says: String,
    pub expect: String,
    pub level: f64,
    pub verdict: Verdict,
    /// The verdict with all claims of the experiment counted (Holm).
    pub verdict_holm: Verdict,
    /// What was measured: `log-ratio` or `difference`, left side against right.
    pub scale: &'static str,
    pub estimate: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Two-sided, against equality.
    pub p: Option<f64>,
    pub p_holm: Option<f64>,
    pub seeds: usize,
    pub documents: usize,
    /// What this many seeds and documents would have shown four times out of five, on `scale`.
    pub minimum_detectable_effect: Option<f64>,
    /// Seeds that would show the estimate four times out of five; absent where documents hide it.
    pub seeds_needed: Option<usize>,
    /// That a seed of a ends below a seed of b in nats per token.
    pub probability_of_superiority: Option<f64>,
    /// Why nothing could be measured.
    pub reason: Option<String>,
    pub a: Vec<String>,
    pub b: Vec<String>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Decides `claims` by `frames`.
pub fn decide(claims: &[Claim], frames: &Frames) -> Result<Vec<Outcome>> {
    let evidence = read(frames)?;
    let mut outcomes: Vec<Outcome> = claims.iter().map(|claim| outcome(claim, &evidence)).collect();
    let p: Vec<f64> = outcomes.iter().map(|outcome| outcome.p.unwrap_or(f64::NAN)).collect();
    for (outcome, adjusted) in outcomes.iter_mut().zip(holm(&p)) {
        outcome.p_holm = Some(adjusted).filter(|p| p.is_finite()).map(rounded);
        if outcome.p_holm.is_some_and(|p| p < 1.0 - outcome.level) {
            outcome.verdict_holm = outcome.verdict;
        }
    }
    let many = outcomes.len() > 1;
    outcomes.iter_mut().for_each(|outcome| outcome.sentence = sentence(outcome, many));
    Ok(outcomes)
}

fn outcome(claim: &Claim, evidence: &BTreeMap<String, FinalEvaluation>) -> Outcome {
    let product = claim.expectation.left.is_product() && claim.expectation.right.is_product();
    let mut outcome = Outcome {
        id: claim.id.clone(),
        says: claim.says.clone(),
        expect: claim.expect.clone(),
        level: claim.level,
        verdict: Verdict::Inconclusive,
        verdict_holm: Verdict::Inconclusive,
        scale: if product { "log-ratio" } else { "difference" },
        estimate: None,
        low: None,
        high: None,
        p: None,
        p_holm: None,
        seeds: 0,
        documents: 0,
        minimum_detectable_effect: None,
        seeds_needed: None,
        probability_of_superiority: None,
        reason: None,
        a: claim.a.clone(),
        b: claim.b.clone(),
        sentence: String::new(),
    };
    match measure(claim, evidence, product) {
        Err(reason) => outcome.reason = Some(reason),
        Ok((found, superiority)) => {
            let above = matches!(claim.expectation.relation, Relation::Above | Relation::AtLeast);
            outcome.verdict = if above { below_zero(-found.high, -found.low) } else { below_zero(found.low, found.high) };
            (outcome.estimate, outcome.low, outcome.high) = (Some(found.mean), Some(found.low), Some(found.high));
            (outcome.p, outcome.seeds, outcome.documents) = (Some(found.p), found.seeds, found.documents);
            outcome.minimum_detectable_effect = Some(minimum_detectable_effect(&found, claim.level, POWER));
            outcome.seeds_needed = seeds_needed(&found, found.mean, claim.level, POWER);
            outcome.probability_of_superiority = superiority;
            for number in [&mut outcome.estimate, &mut outcome.low, &mut outcome.high, &mut outcome.minimum_detectable_effect] {
                *number = number.map(rounded);
            }
            outcome.p = outcome.p.map(rounded);
        }
    }
    outcome
}

/// Nine significant digits: what the last bits of a machine's logarithm are must not show in the file.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

/// The measured value over seeds and documents and the probability of superiority, or why there is none.
fn measure(
    claim: &Claim,
    evidence: &BTreeMap<String, FinalEvaluation>,
    product: bool,
) -> std::result::Result<(Crossed, Option<f64>), String> {
    let mut unfinished = Vec::new();
    let mut arm = |runs: &[String]| -> Vec<&FinalEvaluation> {
        let mut found = Vec::new();
        for run in runs {
            match evidence.get(run) {
                Some(measured) if measured.status == RunStatus::Done.in_frames() => found.push(measured),
                Some(measured) => unfinished.push(format!("{run} is {}", measured.status)),
                None => unfinished.push(format!("{run} is missing")),
            }
        }
        found
    };
    let (a, b) = (arm(&claim.a), arm(&claim.b));
    if let Some(first) = unfinished.first() {
        let (count, all) = (unfinished.len(), claim.a.len() + claim.b.len());
        return Err(format!("{count} of its {all} runs did not finish ({first})"));
    }
    // Where the expectation asks for one side only, that side stands for both.
    let (left, right) = (if a.is_empty() { &b } else { &a }, if b.is_empty() { &a } else { &b });
    let pairs: Vec<(&FinalEvaluation, &FinalEvaluation)> =
        left.iter().filter_map(|a| Some((*a, *right.iter().find(|b| b.seed == a.seed)?))).collect();
    let Some((first, _)) = pairs.first() else { return Err("its arms share no seed".into()) };
    if pairs.iter().flat_map(|(a, b)| [a, b]).any(|run| run.documents != first.documents || run.tokens != first.tokens) {
        return Err("its runs were evaluated on different documents".into());
    }
    for (metric, side) in claim.expectation.metrics().into_iter().filter(|(metric, _)| metric.item().place == Place::Beside) {
        let of_side = if side == Side::A { &a } else { &b };
        let lacking: Vec<&&FinalEvaluation> = of_side.iter().filter(|run| run.scores.finite(metric).is_nan()).collect();
        if let Some(first) = lacking.first() {
            let why = if metric.is_fidelity() { ": they were held against no teacher" } else { "" };
            let (count, all, arm) = (lacking.len(), of_side.len(), if side == Side::A { "a" } else { "b" });
            let (name, seed) = (metric.name(), first.seed);
            return Err(format!("{name} is missing from {count} of the {all} runs of {arm} (the first is seed {seed}){why}"));
        }
    }
    let tokens = &first.tokens;
    let value = |seed: usize, weights: &[f64]| {
        let (a, b) = pairs[seed];
        let (nll_a, nll_b) = (corpus_nll(&a.nats, tokens, weights), corpus_nll(&b.nats, tokens, weights));
        let of = |metric: Metric, side: Side| {
            let (run, nll) = if side == Side::A { (a, nll_a) } else { (b, nll_b) };
            match metric.item().pooling {
                Pooling::Documents(pooled) => pooled(nll, &run.scores),
                Pooling::WholeText => run.scores.finite(metric),
            }
        };
        let (left, right) = (claim.expectation.left.value(&of), claim.expectation.right.value(&of));
        if product { left.ln() - right.ln() } else { left - right }
    };
    let draws = Draws { replicates: REPLICATES, seed: SEED };
    let found =
        crossed(pairs.len(), tokens.len(), claim.level, draws, value).ok_or_else(|| match (pairs.len(), tokens.len()) {
            (1, _) => "one seed tells nothing of the variation between seeds".to_string(),
            (_, 0 | 1) => "one document tells nothing of the variation between documents".to_string(),
            _ => "its value is not a finite number".to_string(),
        })?;
    let once = vec![1.0; tokens.len()];
    let final_nll =
        |runs: &[&FinalEvaluation]| -> Vec<f64> { runs.iter().map(|run| corpus_nll(&run.nats, tokens, &once)).collect() };
    let superiority = (!a.is_empty() && !b.is_empty()).then(|| probability_of_superiority(&final_nll(&a), &final_nll(&b)));
    Ok((found, superiority))
}

fn sentence(outcome: &Outcome, many: bool) -> String {
    let Outcome { id, says, verdict, .. } = outcome;
    let head = format!("{}: {id}. {}", capital(verdict.name()), says.trim_end_matches('.'));
    let (Some(estimate), Some(low), Some(high)) = (outcome.estimate, outcome.low, outcome.high) else {
        return format!("{head}: {}.", outcome.reason.as_deref().unwrap_or("nothing was measured"));
    };
    let (left, right) = outcome.expect.split_once(['<', '>']).unwrap_or((&outcome.expect, ""));
    let (left, right) = (left.trim(), right.trim_start_matches('=').trim());
    let (what, low, high) = match outcome.scale {
        "log-ratio" => {
            let percent = |log: f64| 100.0 * log.exp_m1();
            let side = if estimate < 0.0 { "below" } else { "above" };
            let what = format!("{left} is {}% {side} {right}", fixed(percent(estimate).abs(), 1));
            (what, format!("{}%", signed(percent(low), 1)), format!("{}%", signed(percent(high), 1)))
        }
        _ => (format!("{left} less {right} is {}", signed(estimate, 4)), signed(low, 4), signed(high, 4)),
    };
    let level = fixed(outcome.level * 100.0, 0);
    let evidence = format!("{level}% interval {low} to {high}, {} seeds, {} documents", outcome.seeds, outcome.documents);
    let holm = match outcome.p_holm {
        Some(p) if many => format!("; of all claims together {}, p {}", outcome.verdict_holm.name(), probability(p)),
        _ => String::new(),
    };
    format!("{head}: {what} ({evidence}{holm}).")
}

/// `= 0.012`, or `< 0.001`.
fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("= {}", fixed(p, 3)) }
}

/// `claims.json`.
pub fn json(experiment: &str, outcomes: &[Outcome]) -> Result<Vec<u8>> {
    let value = serde_json::json!({ "experiment": experiment, "claims": outcomes });
    Ok(format!("{value:#}\n").into_bytes())
}
