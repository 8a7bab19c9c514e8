//! Encodes examples as token ids: source, prompt end and target within the context, with the teacher's logprobs beside them.
//!
//! Follows metaseq (#736) where that is correct: source, `prompt_eos` and target are tokenised separately; a target longer than
//! the context is cut to a share of it, and the source gets the rest of the context; then comes the end-of-text token. A
//! sequence of `context` inputs has `context + 1` tokens.

use anyhow::Result;

use super::agreement::{self, Claim, Lack};
use super::answers::{Answer, Counts, by_id, row_name};
use super::example::{Answers, Example, Segment, Token};
use super::line_error::{Kind, LineError};
use super::vocabulary::Vocabulary;
use crate::recipe::{Eos, ExampleRecipe, Input, Truncation};

/// An example as token ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Number of leading ids that are read but not predicted; `None` for a document.
    pub prompt: Option<usize>,
    /// Bytes of text that the predicted tokens stand for.
    pub bytes: u64,
    /// The teacher's logprobs for each id; empty without a teacher.
    pub answers: Vec<Option<Answer>>,
    pub counts: Counts,
}

/// Encodes examples under a recipe, or plain documents if there is none.
pub struct Encoder<'a> {
    vocabulary: &'a Vocabulary<'a>,
    recipe: Option<&'a ExampleRecipe>,
    context: usize,
    prompt_eos: Vec<u32>,
    /// The end-of-text token, if one is to be added.
    eos: Option<u32>,
}

impl<'a> Encoder<'a> {
    /// An encoder into sequences of at most `context` input tokens. An error if the recipe needs an end-of-text token and none is
    /// known.
    pub fn new(vocabulary: &'a Vocabulary<'a>, recipe: Option<&'a ExampleRecipe>, context: usize) -> Result<Self> {
        let prompt_eos = recipe.map_or(Ok(Vec::new()), |recipe| vocabulary.encode(&recipe.prompt_eos, false))?;
        let eos = recipe.filter(|recipe| recipe.eos != Eos::None).map(|_| vocabulary.eos()).transpose()?;
        Ok(Self { vocabulary, recipe, context, prompt_eos, eos })
    }

    /// The inner `Err` is a fault of the line; the outer one is any other error.
    pub fn encode(&self, example: &Example) -> Result<Result<Encoded, LineError>> {
        let encoded = match (&example.source, self.recipe) {
            (Some(source), Some(recipe)) => self.prompted(example, source, recipe),
            _ => self.document(example),
        };
        let encoded = match encoded {
            Err(EncodeError::Line(damage)) => return Ok(Err(damage)),
            Err(EncodeError::Ours(error)) => return Err(error),
            Ok(encoded) => encoded,
        };
        self.vocabulary.check(&encoded.ids)?;
        Ok(Ok(encoded))
    }

    /// Encodes a plain text as a document.
    pub fn text(&self, text: &str) -> Result<Encoded> {
        let (ids, bytes) = self.vocabulary.encode_document(text)?;
        self.vocabulary.check(&ids)?;
        Ok(Encoded { ids, bytes, ..Encoded::default() })
    }

    fn document(&self, example: &Example) -> Result<Encoded, EncodeError> {
        let mut counts = Counts::default();
        let (mut answers, _) = self.answers(example.answers.as_ref(), &mut counts)?;
        let (ids, bytes) = match &example.target {
            Some(Segment::Text(text)) => {
                let encoded = self.text(text)?;
                (encoded.ids, encoded.bytes)
            }
            Some(Segment::Tokens(tokens)) => {
                let mut ids = self.needed("the answer", tokens)?;
                self.agree_with_target(example, &ids)?;
                if answers.first().is_some_and(Option::is_some) {
                    // The teacher also scores the first token: it is predicted from the BOS token, if there is one.
                    let begin = self.vocabulary.encode_first("")?;
                    answers.splice(0..0, begin.iter().map(|_| None));
                    ids.splice(0..0, begin);
                }
                let bytes = self.vocabulary.bytes(ids.get(1..).unwrap_or(&[]))?;
                (ids, bytes)
            }
            None => return Err(self.unknown_target(example)),
        };
        if example.answers.is_some() && answers.len() != ids.len() {
            return Err(misaligned(ids.len(), answers.len()));
        }
        if let Some(first) = answers.first_mut()
            && first.take().is_some()
        {
            counts.rows -= 1;
        }
        Ok(Encoded { ids, prompt: None, bytes, answers, counts })
    }

    fn prompted(&self, example: &Example, source: &Segment, recipe: &ExampleRecipe) -> Result<Encoded, EncodeError> {
        let mut counts = Counts::default();
        let mut source_ids = match source {
            Segment::Text(text) => self.vocabulary.encode_first(text)?,
            Segment::Tokens(tokens) => {
                let ids = self.needed("the source", tokens)?;
                let text = example.answers.as_ref().and_then(|answers| answers.beside.source.as_deref());
                // A server may have truncated a long source to its end.
                self.agree("the source", text, tokens, &ids, Lack::Beginning)?;
                ids
            }
        };
        let (mut answers, highest) = self.answers(example.answers.as_ref(), &mut counts)?;
        let by_argmax = recipe.input == Input::TeacherArgmax && !answers.is_empty();
        // If the student does not read the sampled tokens, they only tell how far the teacher's context equals the student's.
        let sampled = match self.sampled(example, &answers) {
            Err(EncodeError::Line(damage)) if by_argmax && damage.kind != Kind::Contradictory => None,
            other => other?,
        };
        let mut ids = match by_argmax {
            true => argmax(&answers)?,
            false => sampled.clone().ok_or_else(|| self.unknown_target(example))?,
        };
        if !answers.is_empty() && answers.len() != ids.len() {
            return Err(misaligned(ids.len(), answers.len()));
        }
        // From the first token that differs from the sampled one, the teacher has read a different context than the student will.
        if let Some(sampled) = sampled {
            let same = sampled.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            counts.mismatched = answers.iter().skip(same + 1).flatten().count() as u64;
        }

        let (context, before) = (self.context, self.prompt_eos.len());
        let whole = ids.len();
        let fits = source_ids.len() + before + whole <= context;
        if !fits && recipe.truncation == Truncation::None {
            let (source, target) = (source_ids.len() + before, whole);
            return Err(EncodeError::Line(LineError::new(
                Kind::OverBudget,
                format!(
                    "{source} tokens to read and {target} to predict are more than the context of {context}; set truncation = \"left\" or \"right\""
                ),
            )));
        }
        if ids.len() > context {
            ids.truncate((recipe.target_budget * context as f64) as usize);
        }
        ids.truncate(context.saturating_sub(before));
        let room = context.saturating_sub(ids.len() + before);
        if source_ids.len() > room {
            // The BOS token stays.
            let begin = self.vocabulary.encode_first("")?;
            let kept = begin.len().min(room);
            match recipe.truncation {
                Truncation::Left if source_ids.starts_with(&begin) => {
                    let cut = source_ids.len() - (room - kept);
                    source_ids.drain(kept..cut);
                }
                Truncation::Left => drop(source_ids.drain(..source_ids.len() - room)),
                _ => source_ids.truncate(room),
            }
            counts.mismatched = answers.iter().take(ids.len()).flatten().count() as u64;
        }
        answers.truncate(ids.len());
        counts.rows = answers.iter().flatten().count() as u64;
        counts.mismatched = counts.mismatched.min(counts.rows);

        let cut = ids.len() < whole || example.cut;
        if let Some(eos) = self.eos
            && (recipe.eos == Eos::Append || !cut && !ids.last().is_some_and(|&last| self.vocabulary.is_end(last)))
        {
            ids.push(eos);
            if !answers.is_empty() {
                let lse = if highest.is_finite() { highest } else { 0.0 };
                answers.push(Some(Answer { entries: vec![(eos, 0.0)], lse, recorded: false }));
            }
        }
        let bytes = match &example.target {
            Some(Segment::Text(text)) if !cut && recipe.input == Input::Sampled => text.len() as u64,
            _ => self.vocabulary.bytes(&ids)?,
        };
        let prompt = source_ids.len() + before;
        let mut all = source_ids;
        all.extend(&self.prompt_eos);
        all.extend(ids);
        if !answers.is_empty() {
            answers.splice(0..0, (0..prompt).map(|_| None));
        }
        Ok(Encoded { ids: all, prompt: Some(prompt), bytes, answers, counts })
    }

    /// The sampled tokens; `None` if the line does not have them. One more row than tokens means that the last row is that of the
    /// end-of-text token.
    fn sampled(&self, example: &Example, answers: &[Option<Answer>]) -> Result<Option<Vec<u32>>, EncodeError> {
        let mut ids = match &example.target {
            None => return Ok(None),
            Some(Segment::Text(text)) => self.vocabulary.encode(text, false)?,
            Some(Segment::Tokens(tokens)) => {
                let ids = self.needed("the answer", tokens)?;
                self.agree_with_target(example, &ids)?;
                ids
            }
        };
        if answers.len() == ids.len() + 1
            && let Some(Some(last)) = answers.last()
            && let Some(&(end, _)) = last.entries.first()
            && self.vocabulary.is_end(end)
        {
            ids.push(end);
        }
        Ok(Some(ids))
    }

    fn needed(&self, of: &str, tokens: &[Token]) -> Result<Vec<u32>, LineError> {
        let need =
            |(index, token)| self.vocabulary.need(token).map_err(|damage| damage.of(format!("token {} of {of}", index + 1)));
        tokens.iter().enumerate().map(need).collect()
    }

    /// An error if the tokens of the target do not spell the text that the line has beside them.
    fn agree_with_target(&self, example: &Example, ids: &[u32]) -> Result<(), LineError> {
        let (Some(answers), Some(Segment::Tokens(tokens))) = (&example.answers, &example.target) else { return Ok(()) };
        // If the last token ends the text, no stop string did.
        let ended = ids.last().is_some_and(|&last| self.vocabulary.is_end(last));
        let may_lack = if answers.beside.stopped && !ended { Lack::Stop } else { Lack::Nothing };
        self.agree("the answer", answers.beside.target.as_deref(), tokens, ids, may_lack)
    }

    fn agree(&self, of: &str, text: Option<&str>, tokens: &[Token], ids: &[u32], may_lack: Lack) -> Result<(), LineError> {
        let Some(text) = text else { return Ok(()) };
        let claim = Claim { of, text, tokens, ids, may_lack };
        agreement::check(self.vocabulary.spelling(), &claim, |id| self.vocabulary.is_hidden(id))
    }

    /// The teacher's logprobs by the student's ids, and the highest finite logit among them.
    fn answers(&self, answers: Option<&Answers>, counts: &mut Counts) -> Result<(Vec<Option<Answer>>, f64), LineError> {
        answers.map_or(Ok((Vec::new(), f64::NEG_INFINITY)), |answers| by_id(self.vocabulary, answers, counts))
    }

    fn unknown_target(&self, example: &Example) -> EncodeError {
        let what = match example.answers {
            Some(_) => {
                "the line has logprobs but no text, so the sampled tokens are not known; add a \"tgt\", or set input = \"teacher-argmax\""
            }
            None => "there is no text to learn from",
        };
        EncodeError::Line(LineError::new(Kind::MissingKey, what))
    }
}

/// Whose fault an encoding error is: the line's, or another.
enum EncodeError {
    Line(LineError),
    Ours(anyhow::Error),
}

impl From<LineError> for EncodeError {
    fn from(damage: LineError) -> Self {
        Self::Line(damage)
    }
}

impl From<anyhow::Error> for EncodeError {
    fn from(error: anyhow::Error) -> Self {
        Self::Ours(error)
    }
}

fn misaligned(tokens: usize, rows: usize) -> EncodeError {
    let what = format!("the text has {tokens} tokens but there are {rows} rows of logprobs; use the teacher's tokenizer");
    EncodeError::Line(LineError::new(Kind::Misaligned, what))
}

fn argmax(answers: &[Option<Answer>]) -> Result<Vec<u32>, LineError> {
    let first = |(index, answer): (usize, &Option<Answer>)| {
        let id = answer.as_ref().and_then(|answer| answer.entries.first()).map(|&(id, _)| id);
        id.ok_or_else(|| LineError::new(Kind::UnknownToken, format!("{} has no id of the tokenizer", row_name(index))))
    };
    answers.iter().enumerate().map(first).collect()
}
