//! The final evaluations of all runs that comparisons and claims may use, and the scores of what the runs wrote.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_record::frames::{DocumentRow, EvalRow, Frames, RunRow, ScoreRow};
use hydrometer_record::metric::Scores;
use hydrometer_score::Score;

/// Everything that is compared.
pub struct Evidence {
    /// All runs by id.
    pub runs: BTreeMap<String, FinalEvaluation>,
    /// The tasks with their scores, in the order of their first rows.
    pub tasks: Vec<(String, Vec<Score>)>,
}

/// A run's final evaluation on held-out text, and its scores.
#[derive(Clone, Debug, Default)]
pub struct FinalEvaluation {
    pub seed: i64,
    pub status: String,
    /// Split and name of every document, in the order of the frame.
    pub documents: Vec<(String, String)>,
    /// Predicted tokens of each document.
    pub tokens: Vec<f64>,
    /// Summed NLL of each document in nats.
    pub nats: Vec<f64>,
    /// The scores on the whole text.
    pub scores: Scores,
    /// The scores of what it wrote: of each task and score, by their names, the value at each prompt, by the prompt's id.
    pub written: BTreeMap<(String, String), BTreeMap<String, f64>>,
}

impl Evidence {
    pub fn read(frames: &Frames) -> Result<Self> {
        let known = |row: RunRow| {
            let RunRow { run, seed, status, .. } = row;
            (run, FinalEvaluation { seed, status, ..FinalEvaluation::default() })
        };
        let mut runs: BTreeMap<String, FinalEvaluation> = RunRow::rows(&frames.runs)?.into_iter().map(known).collect();
        for row in DocumentRow::rows(&frames.documents)? {
            let Some(measured) = runs.get_mut(&row.run) else { continue };
            measured.documents.push((row.split, row.document));
            measured.tokens.push(row.tokens as f64);
            measured.nats.push(row.nll_sum);
        }
        for eval in EvalRow::rows(&frames.evals)? {
            if let Some(measured) = runs.get_mut(&eval.run) {
                // The last one counts.
                measured.scores = eval.scores;
            }
        }
        let mut tasks: Vec<(String, Vec<Score>)> = Vec::new();
        for row in frames.scores.as_ref().map(ScoreRow::rows).transpose()?.unwrap_or_default() {
            // A score that this version does not know is in no table; `verify` reports it.
            let (Some(measured), Ok(score)) = (runs.get_mut(&row.run), Score::parse(&row.score)) else { continue };
            match tasks.iter_mut().find(|(task, _)| *task == row.task) {
                Some((_, scores)) if scores.contains(&score) => {}
                Some((_, scores)) => scores.push(score),
                None => tasks.push((row.task.clone(), vec![score])),
            }
            if row.value.is_finite() {
                measured.written.entry((row.task, row.score)).or_default().insert(row.prompt, row.value);
            }
        }
        Ok(Self { runs, tasks })
    }
}

impl FinalEvaluation {
    /// The value of a task's score at each prompt; `None` if there is none.
    pub fn written(&self, task: &str, score: Score) -> Option<&BTreeMap<String, f64>> {
        self.written.get(&(task.to_string(), score.name()))
    }
}
