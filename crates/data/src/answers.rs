//! Recorded teacher logprobs, mapped to the ids of the student's vocabulary.

use hydrometer_base::text::quoted;

use super::example::{Answers, Entry, Scores};
use super::json::Json;
use super::line_error::{Kind, LineError};
use super::vocabulary::Vocabulary;

/// The teacher's distribution for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Distinct ids with logit − lse (the logprob), most likely first.
    pub entries: Vec<(u32, f64)>,
    /// Log-sum-exp: add it to get logits back. 0 if only logprobs are known.
    pub lse: f64,
    /// Whether the file records this row; false for a row that was added for the end-of-text token.
    pub recorded: bool,
}

/// Counts of what happened to a teacher's logprobs on the way to the student's ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Rows of logprobs, one per token.
    pub rows: u64,
    /// Ids listed in these rows.
    pub entries: u64,
    /// Listed ids that the student's vocabulary does not have.
    pub unmapped: u64,
    /// Listed ids that map to the same id as another in their row; their probabilities are added.
    pub duplicate: u64,
    /// Rows whose teacher read a different context than the student does.
    pub mismatched: u64,
    /// Rows of logits without logprobs, whose probability mass outside the listed ids is unknown.
    pub unnormalized: u64,
    /// Rows of logprobs without logits.
    pub logprobs: u64,
}

impl Counts {
    /// Adds the counts of another part.
    pub fn add(&mut self, more: &Self) {
        self.rows += more.rows;
        self.entries += more.entries;
        self.unmapped += more.unmapped;
        self.duplicate += more.duplicate;
        self.mismatched += more.mismatched;
        self.unnormalized += more.unnormalized;
        self.logprobs += more.logprobs;
    }
}

/// Rounding tolerance: how far a logprob may exceed 0, or a sum of probabilities 1.
const ROUNDING: f64 = 0.01;

/// What OpenAI's API writes for a logprob that it does not know.
const UNKNOWN: f64 = -9999.0;

/// Reads a score, by the same rule for all formats. A logprob is a number of at most 0, or −∞; a logit is any number that f32 can
/// hold, or −∞. `None` if a logprob is unknown. Anything else is a [`LineError`].
pub fn score(written: Option<&Json>, key: &str, scores: Scores) -> Result<Option<f64>, LineError> {
    let Some(written) = written else {
        return Err(LineError::new(Kind::MissingKey, format!("expected a {key:?} beside the token")));
    };
    let what = if scores == Scores::Logprobs { "log-probability" } else { "logit" };
    let bad = |found: &str| Err(LineError::new(Kind::BadScore, format!("{key:?} is {found}, which is no {what}")));
    let score = match written {
        Json::Whole(n) => *n as f64,
        Json::Number(x) => *x,
        Json::Text(text) => return bad(&format!("the text {}", quoted(text))),
        other => return bad(other.kind()),
    };
    match scores {
        _ if score.is_nan() => bad("not a number (NaN)"),
        _ if score == f64::NEG_INFINITY => Ok(Some(score)),
        Scores::Logprobs if score <= UNKNOWN => Ok(None),
        Scores::Logprobs if score > ROUNDING => bad(&score.to_string()),
        Scores::Logits if !(score as f32).is_finite() => bad(&format!("{score:e}")),
        _ => Ok(Some(score)),
    }
}

/// What messages call the row with this index.
pub fn row_name(index: usize) -> String {
    format!("row {} of the logprobs", index + 1)
}

/// Maps `answers` to the ids of `vocabulary`; also returns the highest finite logit among them.
pub fn by_id(vocabulary: &Vocabulary, answers: &Answers, counts: &mut Counts) -> Result<(Vec<Option<Answer>>, f64), LineError> {
    let mut highest = f64::NEG_INFINITY;
    let mut all = Vec::with_capacity(answers.rows.len());
    for (index, row) in answers.rows.iter().enumerate() {
        let Some(row) = row else {
            all.push(None);
            continue;
        };
        counts.rows += 1;
        counts.entries += row.len() as u64;
        let mut entries: Vec<(u32, f64)> = Vec::with_capacity(row.len());
        let mut lse = None;
        // A stable sort: equal scores keep the order of the file.
        let mut order: Vec<&Entry> = row.iter().collect();
        order.sort_by(|a, b| b.score.total_cmp(&a.score));
        for entry in order {
            let Some(id) = vocabulary.listed(&entry.token) else {
                counts.unmapped += 1;
                continue;
            };
            vocabulary.check_names(id, &entry.token).map_err(|damage| damage.of(row_name(index)))?;
            if lse.is_none() && entry.score.is_finite() {
                lse = entry.logprob.filter(|logprob| logprob.is_finite()).map(|logprob| entry.score - logprob);
                highest = highest.max(entry.score);
            }
            match entries.iter_mut().find(|(known, _)| *known == id) {
                None => entries.push((id, entry.score)),
                Some((_, score)) => {
                    counts.duplicate += 1;
                    *score = log_sum(&[*score, entry.score]);
                }
            }
        }
        let lse = match answers.scores {
            Scores::Logprobs => {
                counts.logprobs += 1;
                0.0
            }
            Scores::Logits => lse.unwrap_or_else(|| {
                counts.unnormalized += 1;
                let scores: Vec<f64> = entries.iter().map(|(_, score)| *score).collect();
                Some(log_sum(&scores)).filter(|lse| lse.is_finite()).unwrap_or(0.0)
            }),
        };
        // Adding up duplicates may have changed the order.
        entries.sort_by(|a, b| b.1.total_cmp(&a.1));
        entries.iter_mut().for_each(|(_, score)| *score = (*score - lse).min(0.0));
        let mass: f64 = entries.iter().map(|(_, logprob)| logprob.exp()).sum();
        if mass > 1.0 + ROUNDING {
            let damage = LineError::new(Kind::BadScore, format!("the probabilities add up to {mass:.3}"));
            return Err(damage.of(row_name(index)));
        }
        all.push(Some(Answer { entries, lse, recorded: true }));
    }
    let highest = if answers.scores == Scores::Logits { highest } else { 0.0 };
    Ok((all, highest))
}

fn log_sum(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + values.iter().map(|value| (value - max).exp()).sum::<f64>().ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_scores_are_refused() {
        let read = |written: &str, scores| {
            let json = Json::object(&format!("{{\"x\": {written}}}")).unwrap();
            score(json.given("x"), "x", scores).map_err(|damage| damage.kind)
        };
        let (logprobs, logits) = (Scores::Logprobs, Scores::Logits);
        for (written, logprob, logit) in [
            ("-0.5", Ok(Some(-0.5)), Ok(Some(-0.5))),
            ("0", Ok(Some(0.0)), Ok(Some(0.0))),
            ("0.001", Ok(Some(0.001)), Ok(Some(0.001))),
            ("0.5", Err(Kind::BadScore), Ok(Some(0.5))),
            ("-9999.0", Ok(None), Ok(Some(-9999.0))),
            ("-9999", Ok(None), Ok(Some(-9999.0))),
            ("-Infinity", Ok(Some(f64::NEG_INFINITY)), Ok(Some(f64::NEG_INFINITY))),
            ("Infinity", Err(Kind::BadScore), Err(Kind::BadScore)),
            ("NaN", Err(Kind::BadScore), Err(Kind::BadScore)),
            ("1e300", Err(Kind::BadScore), Err(Kind::BadScore)),
            ("null", Err(Kind::BadScore), Err(Kind::BadScore)),
            ("\"-0.5\"", Err(Kind::BadScore), Err(Kind::BadScore)),
            ("[-0.5]", Err(Kind::BadScore), Err(Kind::BadScore)),
        ] {
            assert_eq!((read(written, logprobs), read(written, logits)), (logprob, logit), "{written}");
        }
        assert_eq!(score(None, "x", logprobs).unwrap_err().kind, Kind::MissingKey);
    }
}
