//! vLLM's dumps: `prompt_logprobs` (nothing of the first token; K entries a token, or K + 1 where the token itself is not among
//! the K), or generations in `outputs` with `logprobs`. Entries go by token id: `{"42": {"logprob", "rank", "decoded_token"}}`.

use super::Keys;
use super::openai::{prompt, response};
use crate::data::damage::{Damage, Kind};
use crate::data::example::{Answers, Entry, Example, Piece, Scores, Token};
use crate::data::json::Json;

pub fn parse(json: &Json, keys: &Keys, example: &mut Example) -> Result<(), Damage> {
    let response = response(json);
    let choice = response.get("choices").and_then(|choices| choices.list("choices").ok()?.first()).unwrap_or(json);
    let prompt_ids = json.get("prompt_token_ids").or(choice.get("prompt_token_ids"));
    let read = match prompt_ids {
        Some(ids) => Some(Piece::Tokens(tokens(ids, "prompt_token_ids")?)),
        None => prompt(json, keys)?,
    };
    let output = json.get("outputs").and_then(|outputs| outputs.list("outputs").ok()?.first());
    if let Some(output) = output.filter(|output| output.has("logprobs")) {
        let ids = tokens(output.need("token_ids")?, "token_ids")?;
        let rows = rows(output.need("logprobs")?, "logprobs")?;
        aligned(ids.len(), rows.len(), "token_ids", "logprobs")?;
        (example.source, example.target) = (read, Some(Piece::Tokens(ids)));
        example.answers = Some(Answers { scores: Scores::Logprobs, rows });
        return Ok(());
    }
    let answers = choice.get("prompt_logprobs").map_or_else(|| json.need("prompt_logprobs"), Ok)?;
    let rows = rows(answers, "prompt_logprobs")?;
    if rows.first().is_some_and(Option::is_some) {
        return Err(Damage::new(Kind::Misaligned, "\"prompt_logprobs\" must begin with null: nothing predicts the first token"));
    }
    if let Some(Piece::Tokens(ids)) = &read {
        aligned(ids.len(), rows.len(), "prompt_token_ids", "prompt_logprobs")?;
    }
    example.target = read;
    if example.target.is_none() {
        return Err(Damage::new(Kind::MissingKey, "expected a JSON object with \"prompt_token_ids\" or a \"prompt\""));
    }
    example.answers = Some(Answers { scores: Scores::Logprobs, rows });
    Ok(())
}

fn aligned(a: usize, b: usize, a_name: &str, b_name: &str) -> Result<(), Damage> {
    if a == b { Ok(()) } else { Err(Damage::new(Kind::Misaligned, format!("{a} {a_name} but {b} {b_name}"))) }
}

fn tokens(json: &Json, key: &str) -> Result<Vec<Token>, Damage> {
    json.list(key)?.iter().map(|id| id.id(key).map(Token::id)).collect()
}

fn rows(json: &Json, key: &str) -> Result<Vec<Option<Vec<Entry>>>, Damage> {
    let row = |cell: &Json| -> Result<Option<Vec<Entry>>, Damage> {
        if *cell == Json::Null {
            return Ok(None);
        }
        let entries = cell.fields(key)?.iter().map(|(id, entry)| {
            let id = id.parse().map_err(|_| Damage::new(Kind::WrongType, format!("{id:?} in {key:?} is no token id")))?;
            // Older dumps write the number alone.
            let score = entry.get("logprob").unwrap_or(entry).number("logprob")?;
            let text = entry.get("decoded_token").and_then(|text| text.text("decoded_token").ok()).map(str::to_string);
            Ok(Entry { token: Token { text, ..Token::id(id) }, score, logprob: None })
        });
        entries.collect::<Result<_, _>>().map(Some)
    };
    json.list(key)?.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::place;
    use super::*;

    fn parse(line: &str) -> Result<Example, Damage> {
        Format::Vllm.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn a_prompt_is_a_document_and_an_output_is_learned_after_its_prompt() {
        let row = r#"{"7": {"logprob": -0.5, "rank": 1, "decoded_token": " a"}, "9": {"logprob": -Infinity, "rank": 2}}"#;
        let document = parse(&format!(r#"{{"prompt_token_ids": [3, 7], "prompt_logprobs": [null, {row}]}}"#)).unwrap();
        assert_eq!((&document.source, &document.target), (&None, &Some(Piece::Tokens(vec![Token::id(3), Token::id(7)]))));
        let rows = document.answers.unwrap().rows;
        assert!(rows[0].is_none() && rows[1].as_ref().unwrap()[1].score == f64::NEG_INFINITY);
        let generated =
            parse(&format!(r#"{{"prompt": "q", "outputs": [{{"text": " a", "token_ids": [7], "logprobs": [{row}]}}]}}"#))
                .unwrap();
        assert_eq!(generated.source, Some(Piece::Text("q".into())));
        assert_eq!(generated.target, Some(Piece::Tokens(vec![Token::id(7)])));
    }

    #[test]
    fn what_does_not_align_is_refused() {
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
