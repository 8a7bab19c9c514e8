//! Scores the text of a split with a model behind an endpoint: what is sent, and how the returned logprobs reach the cache.
//!
//! Sent as ids, each sequence is one request, and the teacher reads what the student reads. Sent as text, each document is one
//! request, because text that was cut between two tokens may be tokenised differently when it is read again. In a document longer
//! than the context, the teacher then reads more than the student; the import report counts such rows. Either way, each row of
//! logprobs must belong to one of our tokens: the server must tokenise the text as we do. That is checked for every response
//! before the next request is paid for.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::{UserError, user_error};
use hydrometer_data::answers::{Answer, Counts, by_id};
use hydrometer_data::encode::Encoded;
use hydrometer_data::example::{Answers, Beside, Entry, Scores, Token};
use hydrometer_data::format::openai::{Completion, Rows, parse_completion};
use hydrometer_data::import::{Charged, Import};
use hydrometer_data::json::Json;
use hydrometer_data::sequences::Sequence;
use hydrometer_data::tokenizer;
use hydrometer_data::vocabulary::Vocabulary;
use hydrometer_record::journal::Fence;

use super::super::cache::Cache;
use super::super::imported::{IMPORT, Writer};
use super::collect::collect;
use super::prompt_scorer::PromptScorer;
use super::request::ApiRequest;
use super::response_log::{FILE, ResponseLog};
use super::scoring_request::ScoringRequest;
use crate::teacher::recipe::EchoRows;

/// Minimum number of rows whose most likely token identifies them, before they decide how rows are aligned.
const MIN_ROWS_TO_INFER: usize = 5;
/// Minimum number of listed ids before the share outside the vocabulary is judged.
const MIN_IDS: u64 = 50;

impl PromptScorer<'_> {
    /// Brings logprobs for all `wanted` sequences into the cache in `folder`. Those that must be requested go through the
    /// response log in `answers` first; `fence` belongs to the lease of that folder. `interrupts` counts ctrl-C. Returns the
    /// import report, or `None` if it was interrupted.
    pub fn prepare(
        &self,
        wanted: &[Sequence],
        (answers, fence): (&Path, Fence),
        folder: &Path,
        interrupts: impl Fn() -> usize,
    ) -> Result<Option<Import>> {
        for path in Cache::remove_corrupt(folder, self.title)? {
            tracing::warn!("{} is damaged; its content is built again", path.display());
        }
        let cache = Cache::open(folder, self.title)?;
        let known = Import::read(&folder.join(IMPORT));
        // Without its report, an import is not known to be complete.
        let there = |sequence: &Sequence| known.is_some() && cache.contains(&sequence.key(self.split));
        let missing: Vec<Sequence> = wanted.iter().copied().filter(|sequence| !there(sequence)).collect();
        if let (true, Some(import)) = (missing.is_empty(), &known) {
            return Ok(Some(import.clone()));
        }
        drop(cache);
        let vocabulary = Vocabulary::new(self.tokenizer, self.title.vocab_size, self.examples)?;
        let units = self.units(&missing, &vocabulary)?;
        let mut ledger = ResponseLog::open(answers, fence)?;
        let questions: Vec<ApiRequest> =
            units.iter().flat_map(|unit| [&unit.question].into_iter().chain(&unit.opening)).cloned().collect();
        let by_key: HashMap<String, &ScoringRequest> = units.iter().map(|unit| (unit.question.key(), unit)).collect();
        let check = |question: &ApiRequest, line: &str| match by_key.get(&question.key()) {
            Some(unit) => self.check(unit, line, &vocabulary, answers),
            None => Ok(()),
        };
        // Checks old responses before new ones are paid for.
        for unit in units.iter().filter(|unit| ledger.has(&unit.question)).collect::<Vec<_>>() {
            check(&unit.question, &ledger.read(&unit.question)?)?;
        }
        if !collect(self.name, self.service, &questions, &mut ledger, check, interrupts)? {
            return Ok(None);
        }
        let mut writer = Writer::new(self.title, folder, self.context, self.split.examples.is_some())?;
        for unit in &units {
            let mut counts = Counts::default();
            let line = ledger.read(&unit.question)?;
            let opening = unit.opening.as_ref().map(|question| ledger.read(question)).transpose()?;
            let answers = self.answers(unit, &line, opening.as_deref(), &vocabulary, &mut counts)?;
            let ids = self.split.ids.range(unit.ids.start, unit.ids.end).to_vec();
            writer.add(&unit.name, Encoded { ids, prompt: unit.prompt, bytes: 0, answers, counts })?;
        }
        let mut found = writer.finish()?;
        found.tally.lines = units.len() as u64;
        let spent = ledger.spent;
        found.charged = Some(Charged {
            requests: spent.requests,
            prompt_tokens: spent.prompt_tokens,
            completion_tokens: spent.completion_tokens,
            cost: spent.cost(self.service.price),
        });
        found.say(self.name);
        let mut import = known.unwrap_or_default();
        import.add(&found);
        import.write(&folder.join(IMPORT))?;
        Ok(Some(import))
    }

    /// Checks that a response in the log in `answers` can be used.
    fn check(&self, unit: &ScoringRequest, line: &str, vocabulary: &Vocabulary, answers: &Path) -> Result<()> {
        let mut counts = Counts::default();
        let found = self.answers(unit, line, None, vocabulary, &mut counts).and_then(|_| {
            let (lost, all) = (counts.unmapped, counts.entries);
            match all >= MIN_IDS && lost * 5 > all {
                true => Err(self.refused(
                    unit,
                    &format!(
                        "{lost} of {all} ids that it lists are tokens that the student's vocabulary does not have; use the teacher's \
                         tokenizer, or have the server write ids (vLLM's return_tokens_as_token_ids)"
                    ),
                )),
                false => Ok(()),
            }
        });
        // The request is sent again only if its response is not in the log.
        let (path, key) = (answers.join(FILE), unit.question.key());
        found.map_err(|error| match error.downcast::<UserError>() {
            Ok(UserError(why)) => {
                user_error!("{why}. If the server is at fault, delete the line with {key} from {}", path.display())
            }
            Err(error) => error,
        })
    }

    /// The logprobs in the log's `line` for each id of `unit`. `opening` is the response that gives those after the first token,
    /// where an echo does not.
    fn answers(
        &self,
        unit: &ScoringRequest,
        line: &str,
        opening: Option<&str>,
        vocabulary: &Vocabulary,
        counts: &mut Counts,
    ) -> Result<Vec<Option<Answer>>> {
        let refused = |why: String| self.refused(unit, &why);
        let ids = self.split.ids.range(unit.ids.start, unit.ids.end);
        let judged = &ids[..ids.len() - usize::from(unit.ends)];
        let Completion { tokens, mut own, mut rows, .. } = self.read(unit, line)?;
        if self.recipe.echo_rows == EchoRows::Next {
            let first = match opening {
                // Before the opening is requested, only the rest is checked.
                None => Vec::new(),
                Some(opening) => {
                    let said = Json::object(opening)
                        .and_then(|json| parse_completion(&json))
                        .map_err(|damage| refused(damage.to_string()))?;
                    let first = said.rows.into_iter().next().flatten();
                    first.ok_or_else(|| refused("the server gives no logprobs for the token after the first".into()))?
                }
            };
            rows.splice(0..1, [None, Some(first)]);
            own.iter_mut().for_each(|score| *score = None);
        }
        rows.truncate(judged.len());
        // The prompt is not learned.
        let first = unit.prompt.unwrap_or(0).max(1);
        rows.iter_mut().take(first).for_each(|row| drop(row.take()));
        for (at, ((&id, token), row)) in judged.iter().zip(&tokens).zip(&mut rows).enumerate().skip(first) {
            let row = row.as_mut().ok_or_else(|| refused(format!("the server gives no logprobs for token {}", at + 1)))?;
            // The row's own token is identified by its id, because not every server can write every token. An unclear text may
            // stand for several tokens, and the score beside it may be another's.
            let unclear = token.id.is_none() && is_unclear(token.text.as_deref().unwrap_or_default());
            if let Some(entry) = row.iter_mut().find(|entry| entry.token.text == token.text && entry.token.id == token.id) {
                match own[at] {
                    Some(score) if unclear => *entry = Entry { token: Token::id(u64::from(id)), score, logprob: None },
                    None if unclear => {}
                    _ => entry.token = Token::id(u64::from(id)),
                }
            }
        }
        let (mut answers, _) = by_id(vocabulary, &Answers { scores: Scores::Logprobs, rows, beside: Beside::default() }, counts)
            .map_err(|damage| refused(damage.to_string()))?;
        if unit.ends {
            let eos = *ids.last().expect("a unit has ids");
            answers.push(Some(Answer { entries: vec![(eos, 0.0)], lse: 0.0, recorded: false }));
        }
        Ok(answers)
    }

    /// Parses `line`. An error unless its tokens begin with those of `unit` and its rows are aligned as configured.
    fn read(&self, unit: &ScoringRequest, line: &str) -> Result<Completion> {
        let refused = |why: String| self.refused(unit, &why);
        let ids = self.split.ids.range(unit.ids.start, unit.ids.end - usize::from(unit.ends));
        let found = Json::object(line).and_then(|json| parse_completion(&json)).map_err(|damage| refused(damage.to_string()))?;
        let Completion { tokens, rows, .. } = &found;
        if tokens.len() as u64 <= unit.question.max_tokens {
            let other = "use one that takes echo with logprobs, or have it write answers (--ask complete) and train on those";
            return Err(refused(format!("the server does not echo the prompt, which scoring needs; {other}")));
        }
        let advice = "use the teacher's tokenizer, or set sent = \"tokens\"";
        if tokens.len() < ids.len() {
            let (theirs, ours) = (tokens.len(), ids.len());
            return Err(refused(format!("the server has cut {ours} tokens into {theirs}, what it generates included; {advice}")));
        }
        for (at, (&id, token)) in ids.iter().zip(tokens).enumerate() {
            if let Some(ours) = self.differs(id, token) {
                let theirs = token.shown();
                let at = at + 1;
                return Err(refused(format!("token {at} is {theirs} to the server and {ours:?} to the student; {advice}")));
            }
        }
        let told = self.recipe.echo_rows;
        match detect_alignment(&tokens[..ids.len()], rows) {
            Some(found) if found != told => Err(refused(match found {
                EchoRows::Next => "each row gives the logprobs of the token after its own; set echo_rows = \"next\"".into(),
                EchoRows::Own => "each row gives the logprobs of its own token; set echo_rows = \"own\"".into(),
            })),
            _ => Ok(found),
        }
    }

    fn refused(&self, unit: &ScoringRequest, why: &str) -> anyhow::Error {
        user_error!("teacher {} on {:?}: {why}", self.name, unit.name)
    }

    /// The text of `id`, if the server's `token` cannot be the same.
    fn differs(&self, id: u32, token: &Token) -> Option<String> {
        if let Some(theirs) = token.id {
            return (theirs != u64::from(id)).then(|| self.tokenizer.id_to_token(id).unwrap_or_default());
        }
        let theirs = token.text.as_deref().unwrap_or_default();
        let ours = tokenizer::decode(self.tokenizer, &[id], false).unwrap_or_default();
        // Special tokens are written in many ways; some tokenizers drop a leading space.
        (!is_unclear(theirs) && !is_unclear(&ours) && theirs.trim() != ours.trim()).then_some(ours)
    }
}

/// Whether a token is a part of a character, or special, so that its text does not identify it.
fn is_unclear(text: &str) -> bool {
    text.is_empty() || text.contains('\u{fffd}') || text.starts_with("bytes:")
}

/// Detects which token the rows beside `tokens` predict: the most likely id of a row is often that token, and seldom another.
/// `None` if there are too few rows to tell.
fn detect_alignment(tokens: &[Token], rows: &Rows) -> Option<EchoRows> {
    let best = |row: &Option<Vec<Entry>>| {
        let best = row.as_ref()?.iter().max_by(|a, b| a.score.total_cmp(&b.score))?;
        Some(best.token.clone())
    };
    let (mut own, mut next) = (0, 0);
    for (at, best) in rows.iter().take(tokens.len()).map(best).enumerate() {
        let is = |at: usize| best.as_ref().zip(tokens.get(at)).is_some_and(|(best, token)| best.is(token));
        own += usize::from(is(at));
        next += usize::from(is(at + 1));
    }
    let clear = |more: usize, less: usize| more >= MIN_ROWS_TO_INFER && more > 2 * less;
    match (clear(own, next), clear(next, own)) {
        (true, _) => Some(EchoRows::Own),
        (_, true) => Some(EchoRows::Next),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: rows constructed with and without the shift, for a model that assigns every token a high probability.
    #[test]
    fn rows_shifted_to_the_next_token_are_detected() {
        let words: Vec<Token> = (0..40).map(|at| Token::text(format!("w{}", at * 7 % 11))).collect();
        let row = |likeliest: &Token, sure: bool| {
            let other = Token::text("other");
            let (a, b) = if sure { (-0.5, -1.5) } else { (-1.5, -0.5) };
            Some(vec![
                Entry { token: likeliest.clone(), score: a, logprob: None },
                Entry { token: other, score: b, logprob: None },
            ])
        };
        let own: Rows = words.iter().enumerate().map(|(at, word)| row(word, at % 3 == 0)).collect();
        let next: Rows = words[1..].iter().enumerate().map(|(at, word)| row(word, at % 3 == 0)).collect();
        assert_eq!(detect_alignment(&words, &own), Some(EchoRows::Own));
        assert_eq!(detect_alignment(&words[..39], &next), Some(EchoRows::Next));
        assert_eq!(detect_alignment(&words[..9], &own), None, "three distinctive rows are not enough");
        let same = vec![Token::text("a"); 40];
        let rows: Rows = same.iter().map(|word| row(word, true)).collect();
        assert_eq!(detect_alignment(&same, &rows), None, "both alignments fit");
    }
}
