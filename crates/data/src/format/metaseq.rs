//! metaseq's lines (#736): for training, `src`, `tgt` and `top_logprobs` or `top_logits`; from inference (#733), `prompt_text`
//! and `beam_results`, of which the first is used.
//!
//! A row of logprobs is `{token text: {"token_id": id or null, "logprob_score": x, "logit_score": y}}`. Texts are keys, so two
//! ids that decode to the same text collide in the writer, and the row becomes shorter.

use super::Keys;
use crate::answers::{row_name, score};
use crate::example::{Answers, Beside, Entry, Example, Scores, Segment, Token};
use crate::json::Json;
use crate::line_error::{Kind, LineError};

pub fn parse(json: &Json, keys: &Keys, example: &mut Example) -> Result<(), LineError> {
    let beam = match json.get("beam_results") {
        Some(Json::List(beams)) => {
            let first = beams.first();
            Some(first.ok_or_else(|| LineError::new(Kind::EmptyText, "\"beam_results\" is empty"))?)
        }
        other => other,
    };
    let source = keys.source(if beam.is_some() { "prompt_text" } else { "src" });
    let text = json.need(source)?.text(source)?.trim_end_matches(' ');
    example.source = Some(Segment::Text(text.to_string()));
    let inner = beam.unwrap_or(json);
    let target = keys.target(if beam.is_some() { "generated_text" } else { "tgt" });
    example.target = match (inner.get("tokens"), inner.get(target)) {
        // The sampled tokens, as the teacher tokenised them.
        (Some(tokens), _) if keys.target.is_none() => Some(Segment::Tokens(
            tokens.list("tokens")?.iter().map(|token| Token::listed(token, "tokens")).collect::<Result<_, _>>()?,
        )),
        (_, Some(text)) => Some(Segment::Text(text.text(target)?.trim_end_matches(' ').to_string())),
        _ => None,
    };
    let (key, scores) = if inner.has("top_logits") { ("top_logits", Scores::Logits) } else { ("top_logprobs", Scores::Logprobs) };
    let rows = match (inner.get(key), &example.target) {
        (Some(rows), _) => rows.list(key)?,
        // Hard labels need no logprobs.
        (None, Some(_)) => return Ok(()),
        (None, None) => {
            return Err(LineError::new(Kind::MissingKey, format!("expected {target:?}, \"top_logprobs\" or \"top_logits\"")));
        }
    };
    let row = |(index, cell): (usize, &Json)| row(cell, scores).map(Some).map_err(|damage| damage.of(row_name(index)));
    let rows: Vec<Option<Vec<Entry>>> = rows.iter().enumerate().map(row).collect::<Result<_, _>>()?;
    if rows.is_empty() {
        return Err(LineError::new(Kind::EmptyText, format!("{key:?} is empty")));
    }
    let mut beside = Beside::default();
    if keys.target.is_none() && (inner.has("tokens") || inner.has("token_ids")) {
        beside.target = inner.get(target).and_then(|text| text.text(target).ok()).map(str::to_string);
    }
    if let Some(ids) = inner.get("token_ids") {
        // `teach --export` adds the tokens of the whole text, the last of which have logprobs.
        let ids = ids.list("token_ids")?.iter().map(|id| Token::listed(id, "token_ids")).collect::<Result<Vec<Token>, _>>()?;
        let read = ids.len().checked_sub(rows.len());
        let read =
            read.ok_or_else(|| LineError::new(Kind::Misaligned, format!("{} token_ids but {} rows", ids.len(), rows.len())))?;
        if read > 0 {
            // Other writers give the ids of the target alone.
            example.source = Some(Segment::Tokens(ids[..read].to_vec()));
            beside.source = Some(text.to_string());
        }
        example.target = Some(Segment::Tokens(ids[read..].to_vec()));
    }
    example.answers = Some(Answers { scores, rows, beside });
    Ok(())
}

fn row(json: &Json, scores: Scores) -> Result<Vec<Entry>, LineError> {
    let mut entries = Vec::new();
    for (text, entry) in json.fields("top_logprobs")? {
        let id = entry.get("token_id").map(|id| id.id("token_id")).transpose()?;
        let token = Token { id, ..Token::text(text) };
        let logprob = || score(entry.given("logprob_score"), "logprob_score", Scores::Logprobs);
        let entry = match scores {
            Scores::Logprobs => logprob()?.map(|score| Entry { token, score, logprob: None }),
            Scores::Logits => {
                let written = entry.given("logit_score").or(entry.given("logit"));
                let logprob = if entry.has("logprob_score") { logprob()? } else { None };
                score(written, "logit_score", scores)?.map(|score| Entry { token, score, logprob })
            }
        };
        entries.extend(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::tests::place;
    use super::super::{Format, Keys};
    use super::*;

    fn parse(line: &str) -> Result<Example, LineError> {
        Format::Metaseq.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn training_and_inference_lines_give_the_same_example() {
        let rows =
            r#"[{" a": {"token_id": 5, "logprob_score": -0.5}, "bytes:\\xe2": {"token_id": null, "logprob_score": -Infinity}}]"#;
        let training = parse(&format!(r#"{{"src": "q  ", "tgt": " a ", "top_logprobs": {rows}}}"#)).unwrap();
        let inference = parse(&format!(
            r#"{{"instance_idx": 3, "target_text": "human", "prompt_text": "q", "beam_results": [{{"generated_text": " a", "top_logprobs": {rows}}}, {{}}]}}"#
        ))
        .unwrap();
        assert_eq!((&training.source, &training.target), (&inference.source, &inference.target));
        assert_eq!((training.target, inference.id.as_str()), (Some(Segment::Text(" a".into())), "3"));
        let answers = training.answers.unwrap();
        assert_eq!(Some(&answers), inference.answers.as_ref());
        let row = answers.rows[0].as_ref().unwrap();
        assert_eq!((row[0].token.id, row[0].score, row[1].score), (Some(5), -0.5, f64::NEG_INFINITY));
        assert_eq!(row[1].token, Token::text("bytes:\\xe2"));
    }

    #[test]
    fn custom_keys_logits_and_single_beams_are_read() {
        let keys = Keys { source: Some("ask".into()), target: Some("target_text".into()) };
        let line = r#"{"ask": "q", "beam_results": {"target_text": "t", "tokens": ["x"], "top_logits": [{"t": {"token_id": 1, "logit_score": 9.5, "logprob_score": -0.1}}]}}"#;
        let example = Format::Metaseq.parse(line, &place(), &keys).unwrap();
        assert_eq!(example.target, Some(Segment::Text("t".into())));
        let answers = example.answers.unwrap();
        let entry = &answers.rows[0].as_ref().unwrap()[0];
        assert_eq!((answers.scores, entry.score, entry.logprob), (Scores::Logits, 9.5, Some(-0.1)));
    }

    #[test]
    fn missing_and_invalid_fields_are_classified() {
        let cases = [
            (r#"{"tgt": "a"}"#, Kind::MissingKey),
            (r#"{"src": "a"}"#, Kind::MissingKey),
            (r#"{"src": 1, "tgt": "a"}"#, Kind::WrongType),
            (r#"{"src": "a", "tgt": " "}"#, Kind::EmptyText),
            (r#"{"src": "a", "top_logprobs": [["x", -1]]}"#, Kind::WrongType),
            (r#"{"src": "a", "top_logprobs": [{"x": {"token_id": 1}}]}"#, Kind::MissingKey),
            (r#"{"src": "a", "top_logprobs": [{"x": {"token_id": 1, "logprob_score": NaN}}]}"#, Kind::BadScore),
            (r#"{"src": "a", "top_logits": [{"x": {"token_id": 1, "logprob_score": -1}}]}"#, Kind::MissingKey),
            (r#"{"prompt_text": "a", "beam_results": []}"#, Kind::EmptyText),
        ];
        for (line, kind) in cases {
            assert_eq!(parse(line).unwrap_err().kind, kind, "{line}");
        }
    }
}
