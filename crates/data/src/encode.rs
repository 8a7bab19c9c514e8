//! Examples as token ids: source, prompt end and target put together within the context, and a teacher's answers beside them.
//!
//! As the seed does it (metaseq #736), where it is right: source, `prompt_eos` and target are tokenised apart; a target longer
//! than the context is cut to a share of it, and what is left of the context is the source's; then comes the token that ends a
//! text. A sequence of `context` inputs has `context + 1` tokens.

use anyhow::Result;

use super::agreement::{self, Claim, Lack};
use super::answers::{Answer, Counts, by_id};
use super::example::{Answers, Example, Segment, Token};
use super::line_error::{Kind, LineError};
use super::vocabulary::Vocabulary;
use crate::recipe::{Eos, ExampleRecipe, Input, Truncation};

/// An example as ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Leading ids that are read and not predicted; `None` where it is a document.
    pub prompt: Option<usize>,
    /// Of text that the predicted tokens stand for.
    pub bytes: u64,
    /// Of each id, what a teacher says of it; empty where none does.
    pub answers: Vec<Option<Answer>>,
    pub counts: Counts,
}

/// How examples become ids. Without a recipe they are plain documents.
pub struct Encoder<'a> {
    vocabulary: &'a Vocabulary<'a>,
    recipe: Option<&'a ExampleRecipe>,
    context: usize,
    prompt_eos: Vec<u32>,
    /// The token to end a text with, where one is to be added.
    eos: Option<u32>,
}

impl<'a> Encoder<'a> {
    pub fn new(vocabulary: &'a Vocabulary<'a>, recipe: Option<&'a ExampleRecipe>, context: usize) -> Result<Self> {
        let prompt_eos = recipe.map_or(Ok(Vec::new()), |recipe| vocabulary.encode(&recipe.prompt_eos, false))?;
        let eos = recipe.filter(|recipe| recipe.eos != Eos::None).map(|_| vocabulary.eos()).transpose()?;
        Ok(Self { vocabulary, recipe, context, prompt_eos, eos })
    }

    /// `Err` within `Ok` is the line's fault.
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

    /// A plain text, a document.
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
                    // The teacher tells of the first token too: it is predicted from what begins a text, if anything does.
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
                // A server may have read the end of a long source only.
                self.agree("the source", text, tokens, &ids, Lack::Beginning)?;
                ids
            }
        };
        let (mut answers, highest) = self.answers(example.answers.as_ref(), &mut counts)?;
        let by_argmax = recipe.input == Input::TeacherArgmax && !answers.is_empty();
        // Where the student does not read them, sampled tokens only tell how far its context is the teacher's.
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
        // From the first token that is not the sampled one, the teacher has read other tokens than the student will.
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
            // What begins a text stays.
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

    /// The sampled tokens; nothing where the line does not have them. A row of answers more than tokens is that of the end.
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

    /// An error where the tokens of the target spell another text than the line has beside them.
    fn agree_with_target(&self, example: &Example, ids: &[u32]) -> Result<(), LineError> {
        let (Some(answers), Some(Segment::Tokens(tokens))) = (&example.answers, &example.target) else { return Ok(()) };
        // Where the last token ends the text, no stop string did.
        let ended = ids.last().is_some_and(|&last| self.vocabulary.is_end(last));
        let may_lack = if answers.beside.stopped && !ended { Lack::Stop } else { Lack::Nothing };
        self.agree("the answer", answers.beside.target.as_deref(), tokens, ids, may_lack)
    }

    fn agree(&self, of: &str, text: Option<&str>, tokens: &[Token], ids: &[u32], may_lack: Lack) -> Result<(), LineError> {
        let Some(text) = text else { return Ok(()) };
        let claim = Claim { of, text, tokens, ids, may_lack };
        agreement::check(self.vocabulary.spelling(), &claim, |id| self.vocabulary.is_hidden(id))
    }

    /// The answers by the student's ids, and the highest finite logit among them.
    fn answers(&self, answers: Option<&Answers>, counts: &mut Counts) -> Result<(Vec<Option<Answer>>, f64), LineError> {
        answers.map_or(Ok((Vec::new(), f64::NEG_INFINITY)), |answers| by_id(self.vocabulary, answers, counts))
    }

    fn unknown_target(&self, example: &Example) -> EncodeError {
        let what = match example.answers {
            Some(_) => {
                "the line has answers but no text, so that the sampled tokens are not known; add a \"tgt\", or set input = \"teacher-argmax\""
            }
            None => "there is no text to learn from",
        };
        EncodeError::Line(LineError::new(Kind::MissingKey, what))
    }
}

/// Whose fault it is.
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
    let what = format!("the text has {tokens} tokens but the answers {rows} rows; use the teacher's tokenizer");
    EncodeError::Line(LineError::new(Kind::Misaligned, what))
}

fn argmax(answers: &[Option<Answer>]) -> Result<Vec<u32>, LineError> {
    let first = |(index, answer): (usize, &Option<Answer>)| {
        let id = answer.as_ref().and_then(|answer| answer.entries.first()).map(|&(id, _)| id);
        id.ok_or_else(|| {
            LineError::new(Kind::UnknownToken, format!("row {} of the answers has no id of the tokenizer", index + 1))
        })
    };
    answers.iter().enumerate().map(first).collect()
}
