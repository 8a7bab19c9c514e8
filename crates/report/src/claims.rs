//! Decides the claims of an experiment by its frames.
//!
//! A claim compares two expressions, seed by seed on the same documents. If both are products of metrics, the logarithm of their
//! ratio is measured, else their difference. Its mean over seeds and its interval over seeds and documents (see
//! [`crate::stats::crossed`]) give the verdict. On drawn documents, bits per byte are computed from nats per token with the whole
//! text's bytes per token. Accuracy, calibration and fidelity are known only for the whole text and vary only by seed
//! ([`Pooling`]). In a claim about a task's scores, the prompts of the task take the place of the documents, each with the same weight.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_base::text::capital;
use hydrometer_base::units::fixed;
use hydrometer_record::frames::Frames;
use hydrometer_record::metric::{Place, Pooling};
use hydrometer_record::run_status::RunStatus;
use hydrometer_score::Score;
use serde::Serialize;

use super::evidence::{Evidence, FinalEvaluation};
use super::task::on_common_prompts;
use crate::claim::Claim;
use crate::claim::arms::{Arms, Points};
use crate::claim::expectation::{Relation, Side};
use crate::claim::finding::{Measured, finding};
use crate::claim::measure::Measure;
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Crossed, Draws, crossed};
use crate::stats::holm::holm;
use crate::stats::paired::corpus_nll;
use crate::stats::power::{POWER, minimum_detectable_effect, seeds_needed};
use crate::stats::superiority::probability_of_superiority;
use crate::stats::verdict::{Verdict, below_zero};

/// A claim and its verdict, as in `claims.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub id: String,
    pub says: String,
    pub expect: String,
    pub level: f64,
    pub verdict: Verdict,
    /// The verdict after Holm's correction over all claims of the experiment.
    pub verdict_holm: Verdict,
    /// The measured quantity: `log-ratio` or `difference` of the left side and the right.
    pub scale: &'static str,
    pub estimate: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Two-sided, against equality.
    pub p: Option<f64>,
    pub p_holm: Option<f64>,
    pub seeds: usize,
    pub documents: usize,
    /// Of a claim about a task's scores: the prompts that it was measured on, in place of documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<usize>,
    /// The smallest effect that these seeds and documents detect with probability 0.8, on `scale`.
    pub minimum_detectable_effect: Option<f64>,
    /// Number of seeds that detect the estimate with probability 0.8; absent if the documents hide it.
    pub seeds_needed: Option<usize>,
    /// Probability that a seed of a ends below a seed of b in nats per token; absent for scores of a task.
    pub probability_of_superiority: Option<f64>,
    /// Why nothing could be measured.
    pub reason: Option<String>,
    pub a: Vec<String>,
    pub b: Vec<String>,
    /// Everything in one sentence: the finding, the verdict, the claim.
    pub sentence: String,
    /// The finding, or why there is none.
    #[serde(skip)]
    pub finding: String,
    /// The claim in one sentence.
    #[serde(skip)]
    claimed: String,
    /// The distance between the two sides of the expectation, if the finding gives other numbers.
    #[serde(skip)]
    distance: Option<String>,
}

/// Decides `claims` by `frames`.
pub fn decide(claims: &[Claim], frames: &Frames) -> Result<Vec<Outcome>> {
    let (evidence, points) = (Evidence::read(frames)?, Points::read(frames)?);
    let mut outcomes: Vec<Outcome> = claims.iter().map(|claim| outcome(claim, &evidence.runs, &points.arms(claim))).collect();
    let p: Vec<f64> = outcomes.iter().map(|outcome| outcome.p.unwrap_or(f64::NAN)).collect();
    for (outcome, adjusted) in outcomes.iter_mut().zip(holm(&p)) {
        outcome.p_holm = Some(adjusted).filter(|p| p.is_finite()).map(rounded);
        if outcome.p_holm.is_some_and(|p| p < 1.0 - outcome.level) {
            outcome.verdict_holm = outcome.verdict;
        }
    }
    let count = outcomes.len();
    for outcome in &mut outcomes {
        let particulars = outcome.particulars(count);
        outcome.sentence = format!("{}; {}: {particulars}.", outcome.finding, outcome.verdict_words());
    }
    Ok(outcomes)
}

fn outcome(claim: &Claim, evidence: &BTreeMap<String, FinalEvaluation>, arms: &Arms) -> Outcome {
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
        prompts: None,
        minimum_detectable_effect: None,
        seeds_needed: None,
        probability_of_superiority: None,
        reason: None,
        a: claim.a.clone(),
        b: claim.b.clone(),
        sentence: String::new(),
        finding: String::new(),
        claimed: if claim.says == claim.expect { arms.in_expression(&claim.expect) } else { claim.says.clone() },
        distance: None,
    };
    match measure(claim, evidence, arms, product) {
        Err(reason) => {
            outcome.finding = capital(&reason);
            outcome.reason = Some(reason);
        }
        Ok(MeasuredClaim { found, per_seed, superiority }) => {
            let measured = Measured {
                expectation: &claim.expectation,
                expect: &claim.expect,
                log_ratio: product,
                estimate: found.mean,
                low: found.low,
                high: found.high,
                per_seed: &per_seed,
                level: claim.level,
            };
            let told = finding(&measured, arms);
            (outcome.finding, outcome.distance) = (told.sentence, told.distance);
            let above = matches!(claim.expectation.relation, Relation::Above | Relation::AtLeast);
            outcome.verdict = if above { below_zero(-found.high, -found.low) } else { below_zero(found.low, found.high) };
            (outcome.estimate, outcome.low, outcome.high) = (Some(found.mean), Some(found.low), Some(found.high));
            (outcome.p, outcome.seeds) = (Some(found.p), found.seeds);
            match claim.expectation.task() {
                None => outcome.documents = found.documents,
                Some(_) => outcome.prompts = Some(found.documents),
            }
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

/// Rounded to nine significant digits, so that machines whose logarithms differ in the last bits write the same file.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

struct MeasuredClaim {
    /// Over seeds and documents.
    found: Crossed,
    /// The value of each seed on all documents.
    per_seed: Vec<f64>,
    superiority: Option<f64>,
}

/// The measurement that `claim` needs, or why there is none.
fn measure(
    claim: &Claim,
    evidence: &BTreeMap<String, FinalEvaluation>,
    arms: &Arms,
    product: bool,
) -> std::result::Result<MeasuredClaim, String> {
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
        return Err(format!("{count} of the claim's {all} runs did not finish ({first})"));
    }
    // If the expectation uses one side only, that side is used for both.
    let (left, right) = (if a.is_empty() { &b } else { &a }, if b.is_empty() { &a } else { &b });
    let pairs: Vec<(&FinalEvaluation, &FinalEvaluation)> =
        left.iter().filter_map(|a| Some((*a, *right.iter().find(|b| b.seed == a.seed)?))).collect();
    let Some((first, _)) = pairs.first() else { return Err("the claim's arms share no seed".into()) };
    let task = claim.expectation.task();
    if task.is_none()
        && pairs.iter().flat_map(|(a, b)| [a, b]).any(|run| run.documents != first.documents || run.tokens != first.tokens)
    {
        return Err("the claim's runs were evaluated on different documents".into());
    }
    for (measure, side) in claim.expectation.measures() {
        let of_side = if side == Side::A { &a } else { &b };
        let lacks = |run: &&&FinalEvaluation| match measure {
            Measure::Metric(metric) => metric.item().place == Place::Beside && run.scores.finite(*metric).is_nan(),
            Measure::Score { score, task } => run.written(task, *score).is_none(),
        };
        let lacking: Vec<&&FinalEvaluation> = of_side.iter().filter(lacks).collect();
        if let Some(first) = lacking.first() {
            let why = match measure {
                Measure::Metric(metric) if metric.is_fidelity() => ": they were held against no teacher",
                _ => "",
            };
            let (count, all, arm) = (lacking.len(), of_side.len(), arms.name(side));
            let (name, seed) = (measure.heading(), first.seed);
            return Err(format!("{name} is missing from {count} of the {all} runs of {arm} (the first is seed {seed}){why}"));
        }
    }
    // The values of each seed's scores at each prompt, and the weights of the items: tokens of documents, or 1 for each prompt.
    let asked: Vec<(&Measure, Side, Score)> = claim
        .expectation
        .measures()
        .into_iter()
        .filter_map(|(measure, side)| match measure {
            Measure::Score { score, .. } => Some((measure, side, *score)),
            Measure::Metric(_) => None,
        })
        .collect();
    let wanted = |(a, b)| asked.iter().map(move |(_, side, score)| (if *side == Side::A { a } else { b }, *score));
    let at_prompts = task.map_or_else(Vec::new, |task| {
        on_common_prompts(task, &pairs.iter().copied().flat_map(wanted).collect::<Vec<(&FinalEvaluation, Score)>>())
    });
    let even = vec![1.0; at_prompts.first().map_or(0, Vec::len)];
    let tokens = if task.is_some() { &even } else { &first.tokens };
    if task.is_some() && tokens.is_empty() {
        return Err("the claim's runs have values at no prompt in common".into());
    }
    let value = |seed: usize, weights: &[f64]| {
        let (a, b) = pairs[seed];
        let of = |measure: &Measure, side: Side| {
            let run = if side == Side::A { a } else { b };
            match measure {
                Measure::Metric(metric) => match metric.item().pooling {
                    Pooling::Documents(pooled) => pooled(corpus_nll(&run.nats, tokens, weights), &run.scores),
                    Pooling::WholeText => run.scores.finite(*metric),
                },
                Measure::Score { .. } => {
                    let at = asked.iter().position(|(known, of, _)| *known == measure && *of == side);
                    at.map_or(f64::NAN, |at| corpus_nll(&at_prompts[seed * asked.len() + at], tokens, weights))
                }
            }
        };
        let (left, right) = (claim.expectation.left.value(&of), claim.expectation.right.value(&of));
        if product { left.ln() - right.ln() } else { left - right }
    };
    let draws = Draws { replicates: REPLICATES, seed: SEED };
    let found =
        crossed(pairs.len(), tokens.len(), claim.level, draws, value).ok_or_else(|| match (pairs.len(), tokens.len()) {
            (1, _) => "one seed tells nothing of the variation between seeds".to_string(),
            (_, 0 | 1) if task.is_some() => "one prompt tells nothing of the variation between prompts".to_string(),
            (_, 0 | 1) => "one document tells nothing of the variation between documents".to_string(),
            _ => "the measured value is not a finite number".to_string(),
        })?;
    let once = vec![1.0; tokens.len()];
    let final_nll =
        |runs: &[&FinalEvaluation]| -> Vec<f64> { runs.iter().map(|run| corpus_nll(&run.nats, tokens, &once)).collect() };
    let superiority =
        (task.is_none() && !a.is_empty() && !b.is_empty()).then(|| probability_of_superiority(&final_nll(&a), &final_nll(&b)));
    let per_seed = (0..pairs.len()).map(|seed| value(seed, &once)).collect();
    Ok(MeasuredClaim { found, per_seed, superiority })
}

impl Outcome {
    /// The verdict as it appears in the sentence, between the finding and the claim.
    pub fn verdict_words(&self) -> String {
        format!("claim {}", self.verdict.name())
    }

    /// The part of the sentence after the verdict: the claim and its details.
    fn particulars(&self, claims: usize) -> String {
        let mut notes = vec![self.id.clone()];
        notes.extend(self.distance.as_ref().map(|distance| format!("measured against the claimed bound: {distance}")));
        if self.estimate.is_some() {
            notes.push(self.prompts.map_or(format!("{} documents", self.documents), |prompts| format!("{prompts} prompts")));
        }
        if let Some(p) = self.p_holm.filter(|_| claims > 1) {
            notes.push(format!("all {claims} claims counted (Holm): {}, p {}", self.verdict_holm.name(), probability(p)));
        }
        format!("{} ({})", self.claimed.trim_end_matches('.'), notes.join("; "))
    }
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
