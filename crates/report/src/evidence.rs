//! The final evaluations of all runs that claims may use.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_record::frames::{DocumentRow, EvalRow, Frames, RunRow};
use hydrometer_record::metric::Scores;

/// A run's final evaluation on held-out text.
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
}

/// All runs by id.
pub fn read(frames: &Frames) -> Result<BTreeMap<String, FinalEvaluation>> {
    let known = |row: RunRow| {
        let RunRow { run, seed, status, .. } = row;
        (run, FinalEvaluation { seed, status, ..FinalEvaluation::default() })
    };
    let mut all: BTreeMap<String, FinalEvaluation> = RunRow::rows(&frames.runs)?.into_iter().map(known).collect();
    for row in DocumentRow::rows(&frames.documents)? {
        let Some(measured) = all.get_mut(&row.run) else { continue };
        measured.documents.push((row.split, row.document));
        measured.tokens.push(row.tokens as f64);
        measured.nats.push(row.nll_sum);
    }
    for eval in EvalRow::rows(&frames.evals)? {
        if let Some(measured) = all.get_mut(&eval.run) {
            // The last one counts.
            measured.scores = eval.scores;
        }
    }
    Ok(all)
}
