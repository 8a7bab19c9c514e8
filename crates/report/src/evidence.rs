//! What the frames say of each run that a claim may ask about.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_record::frames::{EvalRow, Frames};

use super::input::Table;

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
    /// What the evaluation says of the whole text.
    pub whole: Option<EvalRow>,
}

/// All runs by id.
pub fn read(frames: &Frames) -> Result<BTreeMap<String, FinalEvaluation>> {
    let mut all: BTreeMap<String, FinalEvaluation> = BTreeMap::new();
    let runs = Table(&frames.runs);
    for ((run, seed), status) in runs.text("run")?.into_iter().zip(runs.whole("seed")?).zip(runs.text("status")?) {
        let measured =
            FinalEvaluation { seed: seed.unwrap_or(0), status: status.unwrap_or_default(), ..FinalEvaluation::default() };
        all.insert(run.unwrap_or_default(), measured);
    }
    let documents = Table(&frames.documents);
    let (run, split, name) = (documents.text("run")?, documents.text("split")?, documents.text("document")?);
    let (nats, tokens) = (documents.number("nll_sum")?, documents.number("tokens")?);
    for row in 0..run.len() {
        let Some(measured) = run[row].as_ref().and_then(|run| all.get_mut(run)) else { continue };
        measured.documents.push((split[row].clone().unwrap_or_default(), name[row].clone().unwrap_or_default()));
        measured.tokens.push(tokens[row].unwrap_or(f64::NAN));
        measured.nats.push(nats[row].unwrap_or(f64::NAN));
    }
    for eval in EvalRow::rows(&frames.evals)? {
        if let Some(measured) = all.get_mut(&eval.run) {
            // The last one counts.
            measured.whole = Some(eval);
        }
    }
    Ok(all)
}
