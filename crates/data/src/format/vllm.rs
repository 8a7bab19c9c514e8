//! vLLM's dumps: `prompt_logprobs` (null for the first token; then K entries per token, or K + 1 if the token itself is not in
//! the top K), or generations in `outputs` with `logprobs`. Keys are token ids: `{"42": {"logprob", "rank", "decoded_token"}}`.

use super::openai::refusal;
use super::prompt::{self, Prompt, response};
use super::{Keys, finish};
use crate::answers::{row_name, score};
use crate::example::{Answers, Beside, Entry, Example, Scores, Segment, Token};
use crate::json::Json;
use crate::line_error::{Kind, LineError};

pub fn parse(json: &Json, keys: &Keys, example: &mut Example) -> Result<(), LineError> {
    if let Some(why) = refusal(json) {
        return Err(LineError::new(Kind::Refused, why));
    }
    let response = response(json);
    let choice = response.get("choices").and_then(|choices| choices.list("choices").ok()?.first()).unwrap_or(json);
    let output = json.get("outputs").and_then(|outputs| outputs.list("outputs").ok()?.first());
    let read = match prompt::ids(json)? {
        Some(tokens) => {
            let text = json.get("prompt").and_then(|text| text.text("prompt").ok()).map(str::to_string);
            Some(Prompt { piece: Segment::Tokens(tokens), text })
        }
        None => prompt::of(json, keys, output.and_then(|output| output.get("text")?.text("text").ok()))?,
    };
    if let Some(output) = output.filter(|output| output.has("logprobs")) {
        let ids = tokens(output.need("token_ids")?, "token_ids")?;
        let rows = rows(output.need("logprobs")?, "logprobs", 0)?;
        aligned(ids.len(), rows.len(), "token_ids", "logprobs")?;
        let read = read.ok_or_else(prompt::missing)?;
        let finish = finish::of(output)?;
        let beside = Beside {
            source: read.beside(),
            target: output.get("text").and_then(|text| text.text("text").ok()).map(str::to_string),
            stopped: finish.stopped,
        };
        (example.source, example.target, example.cut) = (Some(read.piece), Some(Segment::Tokens(ids)), finish.cut);
        example.answers = Some(Answers { scores: Scores::Logprobs, rows, beside });
        return Ok(());
    }
    if output.is_some() && !choice.has("prompt_logprobs") && !json.has("prompt_logprobs") {
        return Err(LineError::new(
            Kind::MissingKey,
            "expected \"logprobs\" in \"outputs\"; ask vLLM for them, e.g. logprobs = 20",
        ));
    }
    let answers = choice.get("prompt_logprobs").map_or_else(|| json.need("prompt_logprobs"), Ok)?;
    let rows = rows(answers, "prompt_logprobs", 1)?;
    if rows.first().is_some_and(Option::is_some) {
        return Err(LineError::new(
            Kind::Misaligned,
            "\"prompt_logprobs\" must begin with null: nothing predicts the first token",
        ));
    }
    let Some(read) = read else {
        return Err(LineError::new(Kind::MissingKey, "expected a JSON object with \"prompt_token_ids\" or a \"prompt\""));
    };
    if let Segment::Tokens(ids) = &read.piece {
        aligned(ids.len(), rows.len(), "prompt_token_ids", "prompt_logprobs")?;
    }
    let beside = Beside { target: read.beside(), ..Beside::default() };
    example.target = Some(read.piece);
    example.answers = Some(Answers { scores: Scores::Logprobs, rows, beside });
    Ok(())
}

fn aligned(a: usize, b: usize, a_name: &str, b_name: &str) -> Result<(), LineError> {
    if a == b { Ok(()) } else { Err(LineError::new(Kind::Misaligned, format!("{a} {a_name} but {b} {b_name}"))) }
}

fn tokens(json: &Json, key: &str) -> Result<Vec<Token>, LineError> {
    json.list(key)?.iter().map(|id| id.id(key).map(Token::id)).collect()
}

/// Rows of logprobs, of which the first `nullable` may be null.
fn rows(json: &Json, key: &str, nullable: usize) -> Result<Vec<Option<Vec<Entry>>>, LineError> {
    let row = |index: usize, cell: &Json| -> Result<Option<Vec<Entry>>, LineError> {
        match *cell == Json::Null {
            true if index < nullable => return Ok(None),
            true => return Err(LineError::new(Kind::BadScore, format!("{key:?} is null here, so that the token has no score"))),
            false => {}
        }
        let mut entries = Vec::new();
        for (id, entry) in cell.fields(key)? {
            let number = id.strip_prefix("token_id:").unwrap_or(id).parse();
            let number = number.map_err(|_| LineError::new(Kind::WrongType, format!("{id:?} in {key:?} is no token id")))?;
            // Older dumps write only the number.
            let written = if let Json::Object(_) = entry { entry.given("logprob") } else { Some(entry) };
            let text = entry.get("decoded_token").and_then(|text| text.text("decoded_token").ok()).map(str::to_string);
            if let Some(score) = score(written, "logprob", Scores::Logprobs)? {
                entries.push(Entry { token: Token { text, ..Token::id(number) }, score, logprob: None });
            }
        }
        Ok(Some(entries))
    };
    let rows = json.list(key)?.iter().enumerate();
    rows.map(|(index, cell)| row(index, cell).map_err(|damage| damage.of(row_name(index)))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::place;
    use super::*;

    fn parse(line: &str) -> Result<Example, LineError> {
        Format::Vllm.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn a_scored_prompt_is_a_document_and_an_output_is_a_target_after_its_prompt() {
        let row = r#"{"7": {"logprob": -0.5, "rank": 1, "decoded_token": " a"}, "9": {"logprob": -Infinity, "rank": 2}}"#;
        let document = parse(&format!(r#"{{"prompt_token_ids": [3, 7], "prompt_logprobs": [null, {row}]}}"#)).unwrap();
        assert_eq!((&document.source, &document.target), (&None, &Some(Segment::Tokens(vec![Token::id(3), Token::id(7)]))));
        let rows = document.answers.unwrap().rows;
        assert!(rows[0].is_none() && rows[1].as_ref().unwrap()[1].score == f64::NEG_INFINITY);
        let generated =
            parse(&format!(r#"{{"prompt": "q", "outputs": [{{"text": " a", "token_ids": [7], "logprobs": [{row}]}}]}}"#))
                .unwrap();
        assert_eq!(generated.source, Some(Segment::Text("q".into())));
        assert_eq!(generated.target, Some(Segment::Tokens(vec![Token::id(7)])));
    }

    #[test]
    fn misaligned_lines_are_refused() {
        let cases = [
            (r#"{"prompt_token_ids": [3], "prompt_logprobs": [null, {}]}"#, Kind::Misaligned),
            (r#"{"prompt_token_ids": [3], "prompt_logprobs": [{}]}"#, Kind::Misaligned),
            (r#"{"prompt_logprobs": [null]}"#, Kind::MissingKey),
            (r#"{"prompt_token_ids": [-3], "prompt_logprobs": [null]}"#, Kind::WrongType),
            (r#"{"prompt_token_ids": [3], "prompt_logprobs": [null, {"x": 1}]}"#, Kind::WrongType),
        ];
        for (line, kind) in cases {
            assert_eq!(parse(line).unwrap_err().kind, kind, "{line}");
        }
    }
}
