//! OpenAI's completions and chat completions with `logprobs`: token texts or bytes, no ids, up to 20 a token and sometimes fewer.
//!
//! A line is the response, with the request's `prompt` or `messages` beside it or under `request`; the response may stand under
//! `response`, and there under `body`, as the batch API writes it; or it is a flat `{source, text, logprobs}`.

use super::Keys;
use crate::data::damage::{Damage, Kind};
use crate::data::example::{Answers, Entry, Example, Piece, Scores, Token};
use crate::data::json::Json;

/// What the API writes for a log-probability that it does not know.
const SENTINEL: f64 = -9999.0;

/// The response within a line.
pub fn response(json: &Json) -> &Json {
    let outer = json.get("response").unwrap_or(json);
    outer.get("body").unwrap_or(outer)
}

/// The prompt beside a response, as text. Messages are joined by line ends, without their roles.
pub fn prompt(json: &Json, keys: &Keys) -> Result<Option<Piece>, Damage> {
    let request = json.get("request").map_or(json, |request| request.get("body").unwrap_or(request));
    if let Some(key) = &keys.source {
        return Ok(Some(Piece::Text(
            json.get(key).or(request.get(key)).map_or_else(|| json.need(key), Ok)?.text(key)?.to_string(),
        )));
    }
    for key in ["prompt", "source", "src"] {
        if let Some(found) = request.get(key).or(json.get(key)) {
            // A request may ask several prompts; a line answers one.
            return match found {
                Json::List(list) if matches!(list[..], [Json::Text(_)]) => list[0].text(key),
                other => other.text(key),
            }
            .map(|text| Some(Piece::Text(text.to_string())));
        }
    }
    let Some(messages) = request.get("messages").or(json.get("messages")) else { return Ok(None) };
    let contents = messages.list("messages")?.iter().map(|message| message.need("content")?.text("content"));
    Ok(Some(Piece::Text(contents.collect::<Result<Vec<_>, _>>()?.join("\n"))))
}

pub fn parse(json: &Json, keys: &Keys, example: &mut Example) -> Result<(), Damage> {
    let Said { mut tokens, mut rows, cut, .. } = said(json)?;
    example.source = prompt(json, keys)?;
    example.cut = cut;
    if let Some(Piece::Text(prompt)) = &example.source {
        let echoed = echoed(&tokens, prompt, &rows);
        tokens.drain(..echoed);
        rows.drain(..echoed);
    }
    example.target = Some(Piece::Tokens(tokens));
    example.answers = Some(Answers { scores: Scores::Logprobs, rows });
    Ok(())
}

/// Of each token, what a teacher gives for it; `None` where it says nothing of it.
pub type Rows = Vec<Option<Vec<Entry>>>;

/// What a response says.
pub struct Said {
    /// Those of an echoed prompt with them.
    pub tokens: Vec<Token>,
    /// Of each token, its own log-probability, where it is known.
    pub own: Vec<Option<f64>>,
    pub rows: Rows,
    /// Whether it ends because it may be no longer.
    pub cut: bool,
}

/// The tokens of a response and what is said of each.
pub fn said(json: &Json) -> Result<Said, Damage> {
    let response = response(json);
    let choice = match response.get("choices") {
        Some(choices) => choices.list("choices")?.first().ok_or_else(|| Damage::new(Kind::EmptyText, "\"choices\" is empty"))?,
        None => response,
    };
    let logprobs = choice.need("logprobs").map_err(|_| {
        Damage::new(Kind::MissingKey, "expected \"logprobs\" beside the text; ask the API for them, e.g. logprobs = 20")
    })?;
    let (tokens, scores, rows) = if logprobs.has("content") { chat(logprobs)? } else { completion(logprobs)? };
    let own = scores.into_iter().map(|score| Some(score).filter(|score| *score > SENTINEL)).collect();
    let cut = choice.get("finish_reason").is_some_and(|reason| *reason == Json::Text("length".into()));
    Ok(Said { tokens, own, rows, cut })
}

/// How many tokens repeat the prompt, as `echo` makes them: they come first, and the API knows nothing of the very first.
fn echoed(tokens: &[Token], prompt: &str, rows: &Rows) -> usize {
    let (mut rest, mut count) = (prompt, 0);
    while let (false, Some(text)) = (rest.is_empty(), tokens.get(count).and_then(|token| token.text.as_deref())) {
        let Some(after) = rest.strip_prefix(text) else { return 0 };
        (rest, count) = (after, count + 1);
    }
    if rest.is_empty() && rows.first().is_some_and(Option::is_none) { count } else { 0 }
}

/// `tokens`, `token_logprobs` and `top_logprobs`, side by side.
fn completion(logprobs: &Json) -> Result<(Vec<Token>, Vec<f64>, Rows), Damage> {
    let list = |key: &str| logprobs.need(key)?.list(key);
    let (tokens, scores, tops) = (list("tokens")?, list("token_logprobs")?, list("top_logprobs")?);
    if tokens.len() != scores.len() || tokens.len() != tops.len() {
        let (t, s, r) = (tokens.len(), scores.len(), tops.len());
        return Err(Damage::new(Kind::Misaligned, format!("{t} tokens, {s} token_logprobs and {r} top_logprobs")));
    }
    let tokens: Vec<Token> = tokens.iter().map(|token| token.text("tokens").map(named)).collect::<Result<_, _>>()?;
    let score = |score: &Json| if *score == Json::Null { Ok(SENTINEL) } else { score.number("token_logprobs") };
    let scores: Vec<f64> = scores.iter().map(score).collect::<Result<_, _>>()?;
    let row = |((token, own), top): ((&Token, &f64), &Json)| -> Result<Option<Vec<Entry>>, Damage> {
        if *top == Json::Null {
            return Ok(None);
        }
        let entries = top
            .fields("top_logprobs")?
            .iter()
            .map(|(text, score)| Ok(Entry { token: named(text), score: score.number("top_logprobs")?, logprob: None }));
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Some(with_own(entries, token, *own)))
    };
    let rows = tokens.iter().zip(&scores).zip(tops).map(row).collect::<Result<_, _>>()?;
    Ok((tokens, scores, rows))
}

/// `content`: a token, its log-probability and its alternatives together.
fn chat(logprobs: &Json) -> Result<(Vec<Token>, Vec<f64>, Rows), Damage> {
    let (mut tokens, mut scores, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for item in logprobs.need("content")?.list("content")? {
        let own = spelled(item)?;
        let score = item.need("logprob")?.number("logprob")?;
        let tops = item.get("top_logprobs").map_or(Ok(&[][..]), |tops| tops.list("top_logprobs"))?;
        let entries = tops
            .iter()
            .map(|top| Ok(Entry { token: spelled(top)?, score: top.need("logprob")?.number("logprob")?, logprob: None }));
        rows.push(Some(with_own(entries.collect::<Result<_, _>>()?, &own, score)));
        tokens.push(own);
        scores.push(score);
    }
    Ok((tokens, scores, rows))
}

/// `entries` less those whose score the API does not know, and the token itself where they lack it and its score is known.
fn with_own(mut entries: Vec<Entry>, token: &Token, score: f64) -> Vec<Entry> {
    // Bytes tell tokens apart that are no text; not every log has them in both places.
    let same = |entry: &Entry| {
        let bytes = (&entry.token.bytes, &token.bytes);
        entry.token.id == token.id
            && entry.token.text == token.text
            && (bytes.0 == bytes.1 || bytes.0.is_none() || bytes.1.is_none())
    };
    if !entries.iter().any(same) {
        entries.push(Entry { token: token.clone(), score, logprob: None });
    }
    entries.retain(|entry| entry.score > SENTINEL);
    entries
}

/// A token by the text that completions write: `bytes:\xe2\x80` where its bytes are no text, `token_id:17` where a server was
/// told to write ids (vLLM's `return_tokens_as_token_ids`).
fn named(text: &str) -> Token {
    if let Some(id) = text.strip_prefix("token_id:").and_then(|id| id.parse().ok()) {
        return Token::id(id);
    }
    let bytes = text.strip_prefix("bytes:").and_then(|spelled| {
        spelled.split("\\x").skip(1).map(|hex| u8::from_str_radix(hex, 16).ok()).collect::<Option<Vec<u8>>>()
    });
    Token { bytes: bytes.filter(|bytes| !bytes.is_empty()), ..Token::text(text) }
}

/// A token with its `bytes`, as chat completions write it.
fn spelled(item: &Json) -> Result<Token, Damage> {
    let text = item.need("token")?.text("token")?;
    let Some(bytes) = item.get("bytes") else { return Ok(named(text)) };
    let byte = |value: &Json| {
        let byte = value.id("bytes")?;
        u8::try_from(byte).map_err(|_| Damage::new(Kind::WrongType, format!("{byte} in \"bytes\" is no byte")))
    };
    let bytes: Vec<u8> = bytes.list("bytes")?.iter().map(byte).collect::<Result<_, _>>()?;
    Ok(Token { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), ..Token::text(text) })
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::place;
    use super::*;

    fn parse(line: &str) -> Result<Example, Damage> {
        Format::OpenAi.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn the_sampled_token_joins_its_alternatives_unless_its_score_is_the_sentinel() {
        let line = r#"{"prompt": "q", "choices": [{"text": " a\u2028", "logprobs": {
            "tokens": [" a", "bytes:\\xe2\\x80", "bytes:\\xa8"], "token_logprobs": [-0.5, -4.0, -9999.0],
            "top_logprobs": [{" a": -0.5, " b": -1.0}, {" c": -0.1}, {" d": -0.2}], "text_offset": [1, 3, 3]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.source, Some(Piece::Text("q".into())));
        let rows: Vec<Vec<f64>> =
            example.answers.unwrap().rows.into_iter().map(|row| row.unwrap().iter().map(|entry| entry.score).collect()).collect();
        assert_eq!(rows, [vec![-0.5, -1.0], vec![-0.1, -4.0], vec![-0.2]]);
        let Some(Piece::Tokens(tokens)) = example.target else { panic!() };
        assert_eq!(tokens[1].bytes, Some(vec![0xe2, 0x80]));
    }

    #[test]
    fn chat_with_bytes_in_a_batch_is_read() {
        let line = r#"{"custom_id": "r1", "request": {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "q"}]},
            "response": {"body": {"choices": [{"message": {"content": "é"}, "logprobs": {"content": [
            {"token": "\\xc3", "logprob": -0.1, "bytes": [195], "top_logprobs": [{"token": "e", "logprob": -3.0, "bytes": null}]},
            {"token": "\\xa9", "logprob": 0, "bytes": [169], "top_logprobs": []}]}}]}}}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!((example.id.as_str(), &example.source), ("r1", &Some(Piece::Text("be\nq".into()))));
        let rows = example.answers.unwrap().rows;
        let first = rows[0].as_ref().unwrap();
        assert_eq!((first.len(), first[1].token.bytes.as_deref()), (2, Some(&[195][..])));
        assert_eq!(rows[1].as_ref().unwrap().len(), 1);
    }

    #[test]
    fn an_echoed_prompt_is_source() {
        let line = r#"{"prompt": "to be", "choices": [{"text": "to be or", "logprobs": {"tokens": ["to", " be", " or"],
            "token_logprobs": [null, -1.0, -0.5], "top_logprobs": [null, {" be": -1.0}, {" or": -0.5}]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.target, Some(Piece::Tokens(vec![Token::text(" or")])));
        assert_eq!(example.answers.unwrap().rows.len(), 1);
    }

    #[test]
    fn ids_are_read_where_a_server_writes_them() {
        let line = r#"{"prompt": "q", "choices": [{"text": " a", "logprobs": {"tokens": ["token_id:7"], "token_logprobs": [-2.0],
            "top_logprobs": [{"token_id:9": -0.5}]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.target, Some(Piece::Tokens(vec![Token::id(7)])));
        let row = example.answers.unwrap().rows.remove(0).unwrap();
        assert_eq!(row.into_iter().map(|entry| entry.token.id).collect::<Vec<_>>(), [Some(9), Some(7)]);
    }

    #[test]
    fn lists_of_different_length_are_misaligned() {
        let line = r#"{"prompt": "q", "choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [], "top_logprobs": [{}]}}]}"#;
        assert_eq!(parse(line).unwrap_err().kind, Kind::Misaligned);
        assert_eq!(parse(r#"{"prompt": "q", "choices": [{"text": "a", "logprobs": null}]}"#).unwrap_err().kind, Kind::MissingKey);
    }
}
