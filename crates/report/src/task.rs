//! The scores of tasks: every arm, and its difference from the reference on the same prompts with the same seeds.
//!
//! A prompt takes the place that a document of one token has in the comparison of nats per token, so means and intervals come from
//! the same code (see [`crate::stats::crossed`]). What runs are compared or averaged on are the prompts at which all of them have a
//! value.

use hydrometer_base::mean::mean;
use hydrometer_score::Score;
use serde::Serialize;

use super::difference::partner;
use super::evidence::{Evidence, FinalEvaluation};
use super::input::{Input, Run};
use crate::cell::{Cell, Estimate, LEVEL};
use crate::stats::bootstrap::{REPLICATES, SEED};
use crate::stats::crossed::{Draws, crossed};
use crate::stats::holm::holm;
use crate::stats::paired::{Pairs, corpus_nll};
use crate::stats::verdict::{Verdict, below_zero};

/// A score of a task for all arms.
#[derive(Clone, Debug, Serialize)]
pub struct TaskComparison {
    pub task: String,
    pub score: Score,
    /// `higher` or `lower`.
    pub better: &'static str,
    /// The cells whose runs have the score, in the order of the comparison.
    pub arms: Vec<TaskArm>,
    /// Teachers, and the unigram baseline if it has the score.
    pub references: Vec<TaskReference>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TaskArm {
    /// Label of the cell.
    pub label: String,
    /// Mean over seeds and prompts; the interval needs two of each. `n` counts the seeds.
    pub value: Estimate,
    pub prompts: usize,
    /// Absent for the reference itself.
    pub difference: Option<ScoreDifference>,
}

/// A score minus the reference's, seed by seed on the same prompts. The interval is over seeds and prompts and needs two of each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreDifference {
    /// Label of the reference's cell.
    pub to: String,
    pub mean: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// Two-sided p-value against no difference.
    pub p: Option<f64>,
    /// The same after Holm's correction over all comparisons of all scores of the experiment.
    pub p_holm: Option<f64>,
    pub seeds: usize,
    pub prompts: usize,
    /// `higher`, `lower`, `undecided` if the interval contains 0, or `unknown` without an interval.
    pub verdict: &'static str,
    /// The verdict after Holm's correction.
    pub verdict_holm: &'static str,
}

/// A model shown for orientation: the mean over its prompts.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReference {
    pub name: String,
    pub role: String,
    pub mean: f64,
    pub prompts: usize,
}

impl TaskComparison {
    pub fn arm(&self, label: &str) -> Option<&TaskArm> {
        self.arms.iter().find(|arm| arm.label == label)
    }
}

/// Every score of every task.
pub(super) fn compare(cells: &[Cell], input: &Input, reference: &str, evidence: &Evidence) -> Vec<TaskComparison> {
    let scores = evidence.tasks.iter().flat_map(|(task, scores)| scores.iter().map(move |score| (task, *score)));
    let mut all: Vec<TaskComparison> = scores
        .map(|(task, score)| {
            let of = OneScore { task, score, input, evidence };
            TaskComparison {
                task: task.clone(),
                score,
                better: if score.is_better_lower() { "lower" } else { "higher" },
                arms: cells.iter().filter_map(|cell| of.arm(cell, partner(cells, cell, reference))).collect(),
                references: of.references(),
            }
        })
        .filter(|found| !found.arms.is_empty() || !found.references.is_empty())
        .collect();
    let arms = all.iter_mut().flat_map(|found| &mut found.arms);
    let mut decided: Vec<&mut ScoreDifference> =
        arms.filter_map(|arm| arm.difference.as_mut().filter(|found| found.p.is_some())).collect();
    let p: Vec<f64> = decided.iter().filter_map(|found| found.p).collect();
    for (found, adjusted) in decided.iter_mut().zip(holm(&p)) {
        found.p_holm = Some(adjusted);
        found.verdict_holm = if adjusted < 1.0 - LEVEL { found.verdict } else { "undecided" };
    }
    all
}

/// The runs of an experiment under one score of a task.
struct OneScore<'a> {
    task: &'a str,
    score: Score,
    input: &'a Input,
    evidence: &'a Evidence,
}

impl OneScore<'_> {
    /// The run's values, if it finished and has any.
    fn of<'b>(&'b self, run: &Run) -> Option<&'b FinalEvaluation> {
        let found = self.evidence.runs.get(&run.run).filter(|_| run.ok())?;
        found.written(self.task, self.score).map(|_| found)
    }

    /// The finished runs of a cell that have the score.
    fn runs(&self, cell: &Cell) -> Vec<&FinalEvaluation> {
        cell.runs.iter().filter_map(|&at| self.of(&self.input.runs[at])).collect()
    }

    fn arm(&self, cell: &Cell, partner: Option<&Cell>) -> Option<TaskArm> {
        let runs = self.runs(cell);
        let values = self.on_common_prompts(&runs);
        let prompts = values.first().map_or(0, Vec::len);
        let once = vec![1.0; prompts];
        let mean_of = |seed: usize, weights: &[f64]| corpus_nll(&values[seed], &once, weights);
        let mean = mean((0..runs.len()).map(|seed| mean_of(seed, &once))).filter(|mean| mean.is_finite())?;
        let interval = crossed(runs.len(), prompts, LEVEL, DRAWS, mean_of);
        let ends = |end: Option<f64>| end.filter(|end| end.is_finite());
        let (low, high) = (ends(interval.map(|found| found.low)), ends(interval.map(|found| found.high)));
        let value = Estimate { mean, low, high, n: runs.len() };
        let difference = partner.and_then(|partner| self.difference(&runs, partner));
        Some(TaskArm { label: cell.label.clone(), value, prompts, difference })
    }

    fn difference(&self, runs: &[&FinalEvaluation], partner: &Cell) -> Option<ScoreDifference> {
        let others = self.runs(partner);
        let pairs = runs.iter().filter_map(|run| Some([*run, *others.iter().find(|other| other.seed == run.seed)?]));
        let both: Vec<&FinalEvaluation> = pairs.flatten().collect();
        let values = self.on_common_prompts(&both);
        let prompts = values.first().map_or(0, Vec::len);
        let (a, b): (Vec<_>, Vec<_>) = values.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).unzip();
        let pairs = Pairs { tokens: vec![1.0; prompts], a, b };
        let of = |values: &[f64]| corpus_nll(values, &pairs.tokens, &pairs.tokens);
        let mean = mean(pairs.a.iter().zip(&pairs.b).map(|(a, b)| of(a) - of(b))).filter(|mean| mean.is_finite())?;
        let found = pairs.difference(LEVEL, DRAWS);
        let verdict = found.map_or("unknown", |found| match below_zero(found.low, found.high) {
            Verdict::Supported => "lower",
            Verdict::Refuted => "higher",
            Verdict::Inconclusive => "undecided",
        });
        Some(ScoreDifference {
            to: partner.label.clone(),
            mean,
            low: found.map(|found| found.low),
            high: found.map(|found| found.high),
            p: found.map(|found| found.p),
            p_holm: None,
            seeds: pairs.a.len(),
            prompts,
            verdict,
            verdict_holm: verdict,
        })
    }

    fn on_common_prompts(&self, runs: &[&FinalEvaluation]) -> Vec<Vec<f64>> {
        let wanted: Vec<_> = runs.iter().map(|run| (*run, self.score)).collect();
        on_common_prompts(self.task, &wanted)
    }

    fn references(&self) -> Vec<TaskReference> {
        let mut found: Vec<TaskReference> = Vec::new();
        for role in ["teacher", "baseline"] {
            for run in self.input.runs.iter().filter(|run| run.role == role) {
                if found.iter().any(|one| one.role == role && one.name == run.method) {
                    continue;
                }
                let of_name = self.input.runs.iter().filter(|other| other.role == role && other.method == run.method);
                let all: Vec<_> = of_name.filter_map(|run| self.of(run)?.written(self.task, self.score)).collect();
                let means = all.iter().filter_map(|values| mean(values.values().copied()));
                if let Some(mean) = mean(means) {
                    let prompts = all.iter().map(|values| values.len()).min().unwrap_or(0);
                    found.push(TaskReference { name: run.method.clone(), role: role.to_string(), mean, prompts });
                }
            }
        }
        found
    }
}

const DRAWS: Draws = Draws { replicates: REPLICATES, seed: SEED };

/// For each run, its values of the score beside it at the prompts of `task` at which all of `wanted` have one, in the same order.
pub(super) fn on_common_prompts(task: &str, wanted: &[(&FinalEvaluation, Score)]) -> Vec<Vec<f64>> {
    let all: Vec<_> = wanted.iter().map(|(run, score)| run.written(task, *score)).collect();
    let Some(Some(first)) = all.first() else { return vec![Vec::new(); wanted.len()] };
    let at = |prompt: &String| all.iter().map(|values| values.and_then(|values| values.get(prompt).copied())).collect();
    let rows: Vec<Vec<f64>> = first.keys().filter_map(at).collect();
    (0..wanted.len()).map(|run| rows.iter().map(|row| row[run]).collect()).collect()
}
