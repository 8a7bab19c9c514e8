//! What `hydrometer generate` writes: the ids of prompt and text, and at each place of the text the likeliest ids.

use super::Keys;
use crate::answers::{row_name, score};
use crate::example::{Answers, Beside, Entry, Example, Scores, Segment, Token};
use crate::json::Json;
use crate::line_error::{Kind, LineError};

/// Reasons that mean a text was cut.
const CUT: [&str; 2] = ["length", "context"];

/// Whether `json` is such a line.
pub fn is(json: &Json) -> bool {
    json.has("prompt_ids") && json.has("ids")
}

pub fn parse(json: &Json, _: &Keys, example: &mut Example) -> Result<(), LineError> {
    let tokens = |key: &str| -> Result<Vec<Token>, LineError> {
        json.need(key)?.list(key)?.iter().map(|id| id.id(key).map(Token::id)).collect()
    };
    let text = |key: &str| json.get(key).map(|text| text.text(key).map(str::to_string)).transpose();
    let ids = tokens("ids")?;
    let finish = text("finish")?.unwrap_or_default();
    example.cut = CUT.contains(&finish.as_str());
    example.source = Some(Segment::Tokens(tokens("prompt_ids")?));
    if let Some(listed) = json.get("top_logprobs") {
        let listed = listed.list("top_logprobs")?;
        let own = json.need("logprobs")?.list("logprobs")?;
        if listed.len() != ids.len() || own.len() != ids.len() {
            let what = format!("{} ids, {} logprobs and {} top_logprobs", ids.len(), own.len(), listed.len());
            return Err(LineError::new(Kind::Misaligned, what));
        }
        let rows = listed.iter().zip(own).zip(&ids).enumerate();
        let rows =
            rows.map(|(index, ((cell, own), id))| row(cell, own, id).map(Some).map_err(|damage| damage.of(row_name(index))));
        let rows = rows.collect::<Result<_, _>>()?;
        let beside = Beside { source: None, target: text("text")?, stopped: finish == "stop" };
        example.answers = Some(Answers { scores: Scores::Logprobs, rows, beside });
    }
    example.target = Some(Segment::Tokens(ids));
    Ok(())
}

/// The listed ids, and the one that was written if it is not among them.
fn row(cell: &Json, own: &Json, id: &Token) -> Result<Vec<Entry>, LineError> {
    let entry = |token: Token, written: Option<&Json>| -> Result<Option<Entry>, LineError> {
        Ok(score(written, "logprob", Scores::Logprobs)?.map(|score| Entry { token, score, logprob: None }))
    };
    let mut entries = Vec::new();
    for listed in cell.list("top_logprobs")? {
        let token = Token::id(listed.need("id")?.id("id")?);
        entries.extend(entry(token, listed.given("logprob"))?);
    }
    if !entries.iter().any(|entry| entry.token.is(id)) {
        entries.extend(entry(id.clone(), Some(own))?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::place;
    use super::*;

    fn parse(line: &str) -> Result<Example, LineError> {
        Format::Generated.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn a_generated_line_has_the_ids_that_were_read_and_written() {
        let line = r#"{"id": 4, "sample": 0, "prompt": "q", "text": " a", "finish": "length", "prompt_ids": [3], "ids": [7, 8], "logprobs": [-0.5, -3.0], "top_logprobs": [[{"id": 7, "logprob": -0.5}], [{"id": 9, "logprob": -0.1}]]}"#;
        let example = parse(line).unwrap();
        assert_eq!(Format::of(&Json::object(line).unwrap()), Some(Format::Generated));
        assert_eq!((example.id.as_str(), example.cut), ("4", true));
        assert_eq!(example.source, Some(Segment::Tokens(vec![Token::id(3)])));
        assert_eq!(example.target, Some(Segment::Tokens(vec![Token::id(7), Token::id(8)])));
        let rows = example.answers.unwrap().rows;
        let scores = |row: usize| rows[row].iter().flatten().map(|entry| (entry.token.id, entry.score)).collect::<Vec<_>>();
        assert_eq!(scores(0), [(Some(7), -0.5)]);
        assert_eq!(scores(1), [(Some(9), -0.1), (Some(8), -3.0)], "what was written is added");
        let plain = parse(r#"{"prompt_ids": [3], "ids": [7], "logprobs": [-0.5], "finish": "end-token"}"#).unwrap();
        assert!(plain.answers.is_none() && !plain.cut);
        let uneven = r#"{"prompt_ids": [3], "ids": [7, 8], "logprobs": [-0.5], "top_logprobs": []}"#;
        assert_eq!(parse(uneven).unwrap_err().kind, Kind::Misaligned);
    }
}
