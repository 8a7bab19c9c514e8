//! OpenAI's completions and chat completions with `logprobs`: the text of each token, its bytes in chats, its id if a server adds
//! it; up to 20 alternatives per token, sometimes fewer.
//!
//! A line is a response, with the request's `prompt` or `messages` beside it or under `request`. The response may be nested under
//! `response`, and there under `body`, as the batch API writes it. A flat `{source, text, logprobs}` is accepted too.

use hydrometer_base::text::quoted;

use super::prompt::{self, Prompt, response};
use super::{Keys, finish};
use crate::answers::{row_name, score};
use crate::example::{Answers, Beside, Entry, Example, Scores, Segment, Token};
use crate::json::Json;
use crate::line_error::{Kind, LineError};

pub fn parse(json: &Json, keys: &Keys, example: &mut Example) -> Result<(), LineError> {
    let Completion { mut tokens, mut rows, mut text, cut, stopped, .. } = parse_completion(json)?;
    let prompt = prompt::of(json, keys, text.as_deref())?.ok_or_else(prompt::missing)?;
    let echoed = echoed(&tokens, &prompt, &rows, text.as_deref(), response(json))?;
    tokens.drain(..echoed);
    rows.drain(..echoed);
    if echoed > 0 {
        let after = |text: String| text.strip_prefix(prompt.text.as_deref()?).map(str::to_string);
        text = text.and_then(after);
    }
    let beside = Beside { source: prompt.beside(), target: text, stopped: stopped && may_be_stopped(json) };
    example.source = Some(prompt.piece);
    example.cut = cut;
    example.target = Some(Segment::Tokens(tokens));
    example.answers = Some(Answers { scores: Scores::Logprobs, rows, beside });
    Ok(())
}

/// The teacher's entries for each token; `None` for a token without them.
pub type Rows = Vec<Option<Vec<Entry>>>;

/// The content of a response.
pub struct Completion {
    /// Tokens, those of an echoed prompt included.
    pub tokens: Vec<Token>,
    /// Logprob of each token itself, if known.
    pub own: Vec<Option<f64>>,
    pub rows: Rows,
    /// The text beside the tokens, if it is complete.
    text: Option<String>,
    /// Whether a length limit ended it.
    pub cut: bool,
    /// Whether a stop string or the model ended it.
    stopped: bool,
}

/// Parses the tokens of a response with their entries.
pub fn parse_completion(json: &Json) -> Result<Completion, LineError> {
    if let Some(why) = refusal(json) {
        return Err(LineError::new(Kind::Refused, why));
    }
    let response = response(json);
    let choice = match response.get("choices") {
        Some(choices) => {
            choices.list("choices")?.first().ok_or_else(|| LineError::new(Kind::EmptyText, "\"choices\" is empty"))?
        }
        None => response,
    };
    let message = choice.get("message");
    if let Some(Json::Text(refusal)) = message.and_then(|message| message.get("refusal")) {
        return Err(LineError::new(Kind::Refused, format!("the model refused to answer: {}", quoted(refusal))));
    }
    if choice.has("delta") && message.is_none() && !choice.has("text") {
        let what = "this is a piece of a streamed answer (\"delta\"); collect the pieces into one answer a line first";
        return Err(LineError::new(Kind::Refused, what));
    }
    let finish = finish::of(choice)?;
    let logprobs = choice.need("logprobs").map_err(|_| {
        LineError::new(Kind::MissingKey, "expected \"logprobs\" beside the text; ask the API for them, e.g. logprobs = 20")
    })?;
    let (mut tokens, own, mut rows) = match (logprobs.has("content"), logprobs.has("tokens")) {
        (true, _) => chat(logprobs, &choice_ids(choice, response)?)?,
        (_, true) => completion(logprobs, &choice_ids(choice, response)?)?,
        _ => return Err(LineError::new(Kind::MissingKey, "expected \"tokens\" or \"content\" in \"logprobs\"")),
    };
    if finish.ended
        && let (Some(last), Some(row)) = (tokens.last_mut(), rows.last_mut())
    {
        name_end(last, row.iter_mut().flatten());
    }
    Ok(Completion { tokens, own, rows, text: text(choice), cut: finish.cut, stopped: finish.stopped })
}

/// If a server hides the end-of-text token: marks the last token of an answer that the model ended, and the token's entry in its
/// row, as an end of text.
fn name_end<'a>(last: &mut Token, row: impl Iterator<Item = &'a mut Entry>) {
    let hidden = |token: &Token| token.id.is_none() && token.bytes.is_none() && token.text.as_deref() == Some("");
    if !hidden(last) {
        return;
    }
    last.ends = true;
    row.filter(|entry| hidden(&entry.token)).for_each(|entry| entry.token.ends = true);
}

/// The text of a choice, unless its tokens hold more: tool calls, or what a server treats as reasoning.
fn text(choice: &Json) -> Option<String> {
    let within = choice.get("message").unwrap_or(choice);
    let more = |key: &&str| match within.get(key) {
        None | Some(Json::Bool(false)) => false,
        Some(Json::Text(text)) => !text.is_empty(),
        Some(Json::List(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let key = if choice.has("message") { "content" } else { "text" };
    let whole = !["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"].iter().any(more);
    within.get(key).filter(|_| whole).and_then(|text| text.text(key).ok()).map(str::to_string)
}

/// Whether the line includes its request and that names stop strings.
fn may_be_stopped(json: &Json) -> bool {
    json.get("request").is_none_or(|request| request.get("body").unwrap_or(request).has("stop"))
}

/// The error of an API that gave no answer: `error` beside, inside or instead of the response, or an error status.
pub fn refusal(json: &Json) -> Option<String> {
    let outer = json.get("response").unwrap_or(json);
    let status = match outer.get("status_code") {
        Some(Json::Whole(status)) if *status >= 400 => Some(*status),
        _ => None,
    };
    let inner = response(json);
    let instead = inner.get("object").filter(|object| **object == Json::Text("error".into())).map(|_| inner);
    let error =
        [json, outer, inner].into_iter().find_map(|within| within.get("error").filter(|error| is_error(error))).or(instead);
    let message = error.and_then(error_message);
    let absent = json.given("response") == Some(&Json::Null) && !json.has("choices");
    let status = status.map(|status| format!(" (status {status})")).unwrap_or_default();
    match (error, message) {
        (_, Some(message)) => Some(format!("the API has refused this request{status}: {}", quoted(&message))),
        (None, _) if status.is_empty() && absent => Some("the API has not answered this request: \"response\" is null".into()),
        (None, _) if status.is_empty() => None,
        _ => Some(format!("the API has refused this request{status} without a message")),
    }
}

fn is_error(error: &Json) -> bool {
    match error {
        Json::Null | Json::Bool(false) => false,
        Json::Text(text) => !text.is_empty(),
        Json::Object(fields) => !fields.is_empty(),
        Json::List(list) => !list.is_empty(),
        _ => true,
    }
}

fn error_message(error: &Json) -> Option<String> {
    match error {
        Json::Text(text) => Some(text.clone()),
        Json::Object(_) => ["message", "error", "detail", "code", "type"].iter().find_map(|key| error_message(error.get(key)?)),
        Json::List(list) => list.iter().find_map(error_message),
        Json::Whole(n) => Some(n.to_string()),
        _ => None,
    }
}

/// How many leading tokens repeat the prompt, as with `echo`. The API gives no logprob for the very first.
fn echoed(tokens: &[Token], prompt: &Prompt, rows: &Rows, text: Option<&str>, response: &Json) -> Result<usize, LineError> {
    if rows.first().is_none_or(Option::is_some) {
        return Ok(0);
    }
    if let Segment::Tokens(ids) = &prompt.piece {
        let same = ids.len() <= tokens.len() && ids.iter().zip(tokens).all(|(id, token)| token.id.is_none() || token.is(id));
        return Ok(if same { ids.len() } else { 0 });
    }
    let Some(prompt) = prompt.text.as_deref() else { return Ok(0) };
    if let Some(count) = spelling_of(tokens, prompt) {
        return Ok(count);
    }
    if text.is_none_or(|text| !text.starts_with(prompt)) {
        return Ok(0);
    }
    let counted = response.get("usage").and_then(|usage| usage.get("prompt_tokens")?.id("prompt_tokens").ok());
    let counted = counted.and_then(|count| usize::try_from(count).ok()).filter(|&count| count <= tokens.len());
    counted.ok_or_else(|| {
        let what = "the answer repeats the prompt, but its tokens do not tell where the prompt ends; give \"prompt_token_ids\"";
        LineError::new(Kind::Misaligned, what)
    })
}

/// How many tokens spell `prompt`. A special token may precede it, and a space at its beginning may be missing.
fn spelling_of(tokens: &[Token], prompt: &str) -> Option<usize> {
    let (mut rest, mut count) = (prompt, 0);
    while !rest.is_empty() {
        let text = tokens.get(count)?.text.as_deref()?;
        let begins = rest.len() == prompt.len();
        rest = match rest.strip_prefix(text) {
            Some(after) => after,
            None if begins && text.starts_with(['<', '[']) => rest,
            None if begins => rest.strip_prefix(text.strip_prefix([' ', '▁'])?)?,
            None => return None,
        };
        count += 1;
    }
    Some(count)
}

/// The ids of all tokens of an answer, if the choice has them, with those of the prompt that an echo repeats.
fn choice_ids<'a>(choice: &'a Json, response: &'a Json) -> Result<[Option<&'a [Json]>; 2], LineError> {
    let list = |within: &'a Json, key: &str| within.get(key).map(|ids| ids.list(key)).transpose();
    let prompt = match list(choice, "prompt_token_ids")? {
        None => list(response, "prompt_token_ids")?,
        ids => ids,
    };
    Ok([prompt, list(choice, "token_ids")?])
}

/// Assigns to `tokens` the `token_ids` beside them, else those of the choice.
fn with_ids(tokens: &mut [Token], logprobs: &Json, [prompt, choice]: &[Option<&[Json]>; 2]) -> Result<(), LineError> {
    let beside = logprobs.get("token_ids").map(|ids| ids.list("token_ids")).transpose()?;
    let Some(ids) = beside.or(*choice) else { return Ok(()) };
    let before = prompt.filter(|prompt| prompt.len() + ids.len() == tokens.len()).unwrap_or_default();
    if before.len() + ids.len() != tokens.len() {
        return Err(LineError::new(Kind::Misaligned, format!("{} token_ids but {} tokens", ids.len(), tokens.len())));
    }
    for (token, id) in tokens.iter_mut().zip(before.iter().chain(ids)) {
        if *id != Json::Null {
            token.id = Some(id.id("token_ids")?);
        }
    }
    Ok(())
}

type Parts = (Vec<Token>, Vec<Option<f64>>, Rows);

/// Parses the parallel lists `tokens`, `token_logprobs` and `top_logprobs`.
fn completion(logprobs: &Json, ids: &[Option<&[Json]>; 2]) -> Result<Parts, LineError> {
    let list = |key: &str| logprobs.need(key)?.list(key);
    let (texts, scores, tops) = (list("tokens")?, list("token_logprobs")?, list("top_logprobs")?);
    if texts.len() != scores.len() || texts.len() != tops.len() {
        let (t, s, r) = (texts.len(), scores.len(), tops.len());
        return Err(LineError::new(Kind::Misaligned, format!("{t} tokens, {s} token_logprobs and {r} top_logprobs")));
    }
    let mut tokens: Vec<Token> = texts.iter().map(|token| Token::listed(token, "tokens")).collect::<Result<_, _>>()?;
    with_ids(&mut tokens, logprobs, ids)?;
    let (mut own, mut rows) = (Vec::new(), Vec::new());
    for (index, ((token, written), top)) in tokens.iter().zip(scores).zip(tops).enumerate() {
        // Nothing predicts the first token of a prompt. Every other token has at least a logprob of its own.
        if *top == Json::Null && *written == Json::Null && index == 0 {
            own.push(None);
            rows.push(None);
            continue;
        }
        let read = || {
            let own = score(Some(written), "token_logprobs", Scores::Logprobs)?;
            let mut entries = Vec::new();
            match top {
                // Some servers write alternatives as chat completions do.
                Json::Null => {}
                Json::List(items) => entries = items.iter().map(alternative).collect::<Result<_, _>>()?,
                _ => {
                    for (text, written) in top.fields("top_logprobs")? {
                        entries.push((Token::named(text), score(Some(written), "top_logprobs", Scores::Logprobs)?));
                    }
                }
            }
            Ok((own, with_own(entries, token, own)))
        };
        let (score, row) = read().map_err(|damage: LineError| damage.of(row_name(index)))?;
        own.push(score);
        rows.push(Some(row));
    }
    Ok((tokens, own, rows))
}

/// Parses `content`: each token with its logprob and its alternatives.
fn chat(logprobs: &Json, ids: &[Option<&[Json]>; 2]) -> Result<Parts, LineError> {
    let items = logprobs.need("content")?.list("content")?;
    let mut tokens = items.iter().map(spelled).collect::<Result<Vec<Token>, _>>()?;
    if tokens.iter().any(|token| token.id.is_none()) {
        with_ids(&mut tokens, logprobs, ids)?;
    }
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    for (index, (item, own)) in items.iter().zip(&tokens).enumerate() {
        let read = || {
            let tops = item.get("top_logprobs").map_or(Ok(&[][..]), |tops| tops.list("top_logprobs"))?;
            let entries = tops.iter().map(alternative).collect::<Result<_, _>>()?;
            let score = score(item.given("logprob"), "logprob", Scores::Logprobs)?;
            Ok((score, with_own(entries, own, score)))
        };
        let (score, row) = read().map_err(|damage: LineError| damage.of(row_name(index)))?;
        all.push(score);
        rows.push(Some(row));
    }
    Ok((tokens, all, rows))
}

fn alternative(item: &Json) -> Result<(Token, Option<f64>), LineError> {
    Ok((spelled(item)?, score(item.given("logprob"), "logprob", Scores::Logprobs)?))
}

/// `entries` without those of unknown score. The entry of `token` itself gets all of its names; it is added if it is missing and
/// its score is known.
fn with_own(mut entries: Vec<(Token, Option<f64>)>, token: &Token, score: Option<f64>) -> Vec<Entry> {
    // An ambiguous text belongs to this token only if the score matches, too.
    let unclear = token.is_unclear();
    let surely = |entry: &(Token, Option<f64>)| {
        let bytes = entry.0.bytes.is_some() && token.bytes.is_some();
        let ids = entry.0.id.is_some() && token.id.is_some();
        entry.0.is(token) && (ids || bytes || !unclear || entry.1 == score)
    };
    match entries.iter_mut().find(|entry| surely(entry)) {
        Some((own, _)) => *own = token.clone(),
        None => entries.push((token.clone(), score)),
    }
    entries.into_iter().filter_map(|(token, score)| Some(Entry { token, score: score?, logprob: None })).collect()
}

/// A token of a chat completion: its `token`, `bytes`, and `token_id` or `id`.
fn spelled(item: &Json) -> Result<Token, LineError> {
    let id = ["token_id", "id"].iter().find_map(|key| Some((key, item.get(key)?)));
    let id = id.map(|(key, id)| id.id(key)).transpose()?;
    let byte = |value: &Json| {
        let byte = value.id("bytes")?;
        u8::try_from(byte).map_err(|_| LineError::new(Kind::WrongType, format!("{byte} in \"bytes\" is no byte")))
    };
    let bytes = item.get("bytes").map_or(Ok(&[][..]), |bytes| bytes.list("bytes"))?;
    let bytes: Vec<u8> = bytes.iter().map(byte).collect::<Result<_, _>>()?;
    let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
    let text = match item.get("token") {
        None if id.is_some() || bytes.is_some() => return Ok(Token { id, bytes, ..Token::default() }),
        _ => item.need("token")?.text("token")?,
    };
    let named = Token::named(text);
    // When `token` holds an id, `bytes` may be those of the token's text or of the id written as text, so they are ignored.
    if named.id.is_some() {
        return Ok(Token { id: id.or(named.id), ..named });
    }
    Ok(Token { id, bytes: bytes.or(named.bytes), ..Token::text(text) })
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::place;
    use super::*;

    fn parse(line: &str) -> Result<Example, LineError> {
        Format::OpenAi.parse(line, &place(), &Keys::default())
    }

    #[test]
    fn the_sampled_token_is_added_to_its_alternatives_unless_its_score_is_the_sentinel() {
        let line = r#"{"prompt": "q", "choices": [{"text": " a\u2028", "logprobs": {
            "tokens": [" a", "bytes:\\xe2\\x80", "bytes:\\xa8"], "token_logprobs": [-0.5, -4.0, -9999.0],
            "top_logprobs": [{" a": -0.5, " b": -1.0}, {" c": -0.1}, {" d": -0.2}], "text_offset": [1, 3, 3]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.source, Some(Segment::Text("q".into())));
        let rows: Vec<Vec<f64>> =
            example.answers.unwrap().rows.into_iter().map(|row| row.unwrap().iter().map(|entry| entry.score).collect()).collect();
        assert_eq!(rows, [vec![-0.5, -1.0], vec![-0.1, -4.0], vec![-0.2]]);
        let Some(Segment::Tokens(tokens)) = example.target else { panic!() };
        assert_eq!(tokens[1].bytes, Some(vec![0xe2, 0x80]));
    }

    #[test]
    fn chat_with_bytes_in_a_batch_is_read() {
        let line = r#"{"custom_id": "r1", "request": {"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "q"}]},
            "response": {"body": {"choices": [{"message": {"content": "é"}, "logprobs": {"content": [
            {"token": "\\xc3", "logprob": -0.1, "bytes": [195], "top_logprobs": [{"token": "e", "logprob": -3.0, "bytes": null}]},
            {"token": "\\xa9", "logprob": 0, "bytes": [169], "top_logprobs": []}]}}]}}}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!((example.id.as_str(), &example.source), ("r1", &Some(Segment::Text("be\nq".into()))));
        let rows = example.answers.unwrap().rows;
        let first = rows[0].as_ref().unwrap();
        assert_eq!((first.len(), first[1].token.bytes.as_deref()), (2, Some(&[195][..])));
        assert_eq!(rows[1].as_ref().unwrap().len(), 1);
    }

    #[test]
    fn an_echoed_prompt_is_part_of_the_source() {
        let line = r#"{"prompt": "to be", "choices": [{"text": "to be or", "logprobs": {"tokens": ["to", " be", " or"],
            "token_logprobs": [null, -1.0, -0.5], "top_logprobs": [null, {" be": -1.0}, {" or": -0.5}]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.target, Some(Segment::Tokens(vec![Token::text(" or")])));
        assert_eq!(example.answers.unwrap().rows.len(), 1);
    }

    #[test]
    fn ids_are_read_from_every_field_that_servers_use() {
        let line = r#"{"prompt": "q", "choices": [{"text": " a", "logprobs": {"tokens": ["token_id:7"], "token_logprobs": [-2.0],
            "top_logprobs": [{"token_id:9": -0.5}]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.target, Some(Segment::Tokens(vec![Token::id(7)])));
        let row = example.answers.unwrap().rows.remove(0).unwrap();
        assert_eq!(row.into_iter().map(|entry| entry.token.id).collect::<Vec<_>>(), [Some(9), Some(7)]);
        // In a chat the bytes may be those of the text or those of the string `token_id:…`.
        let line = r#"{"prompt": "q", "choices": [{"logprobs": {"content": [{"token": "token_id:7", "bytes": [32, 97], "logprob": -2.0,
            "top_logprobs": [{"token": "token_id:7", "bytes": [116, 111], "logprob": -2.0}, {"token": "b", "token_id": 9, "logprob": -1.0}]}]}}]}"#;
        let example = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(example.target, Some(Segment::Tokens(vec![Token::id(7)])));
        let row = example.answers.unwrap().rows.remove(0).unwrap();
        assert_eq!(row.into_iter().map(|entry| entry.token.id).collect::<Vec<_>>(), [Some(7), Some(9)], "once");
    }

    #[test]
    fn a_list_of_ids_identifies_the_tokens_and_their_own_entries() {
        let line = |ids: &str, choice: &str| {
            format!(
                r#"{{"prompt": "q", "choices": [{{{choice} "text": "a\ufffd", "logprobs": {{{ids} "tokens": ["a", "\ufffd"],
                "token_logprobs": [-1.0, -0.5], "top_logprobs": [{{"a": -1.0}}, {{"\ufffd": -0.5, "b": -2.0}}]}}}}]}}"#
            )
            .replace('\n', " ")
        };
        for line in [line(r#""token_ids": [7, 9],"#, ""), line("", r#""token_ids": [7, 9],"#)] {
            let example = parse(&line).unwrap();
            let ids = |tokens: &[Token]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
            let Some(Segment::Tokens(tokens)) = &example.target else { panic!() };
            assert_eq!(ids(tokens), [Some(7), Some(9)]);
            let rows = example.answers.unwrap().rows;
            let row = |at: usize| rows[at].as_ref().unwrap().iter().map(|entry| entry.token.clone()).collect::<Vec<_>>();
            assert_eq!((ids(&row(0)), ids(&row(1))), (vec![Some(7)], vec![Some(9), None]));
        }
        assert_eq!(parse(&line(r#""token_ids": [7],"#, "")).unwrap_err().kind, Kind::Misaligned);
    }

    #[test]
    fn an_empty_last_token_is_the_end_token_only_if_the_model_stopped() {
        let line = |reason: &str| {
            format!(
                r#"{{"prompt": "q", "choices": [{{"finish_reason": {reason}, "text": "a", "logprobs": {{"tokens": ["a", ""],
                "token_logprobs": [-1.0, -0.5], "top_logprobs": [{{"a": -1.0}}, {{"": -0.5, "b": -2.0}}]}}}}]}}"#
            )
            .replace('\n', " ")
        };
        let ends = |line: &str| {
            let example = parse(line).unwrap();
            let Some(Segment::Tokens(tokens)) = &example.target else { panic!() };
            (tokens[1].ends, example.answers.unwrap().rows[1].as_ref().unwrap()[0].token.ends)
        };
        assert_eq!(ends(&line("\"stop\"")), (true, true));
        assert_eq!((ends(&line("\"length\"")), ends(&line("null"))), ((false, false), (false, false)));
    }

    #[test]
    fn answers_without_prompts_and_errors_are_refused() {
        let choices = r#""choices": [{"logprobs": {"content": [{"token": "a", "logprob": -1.0}]}}]"#;
        let missing = parse(&format!("{{{choices}}}")).unwrap_err();
        assert_eq!(missing.kind, Kind::MissingKey);
        assert!(missing.what.contains("\"prompt\" or \"messages\""), "{missing}");
        assert_eq!(parse(&format!("{{\"prompt\": \"\", {choices}}}")).unwrap().source, Some(Segment::Text(String::new())));
        for (line, told) in [
            (
                r#"{"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "too large"}}}, "error": null}"#,
                "(status 400): \"too large\"",
            ),
            (r#"{"custom_id": "a", "response": null, "error": {"code": "batch_expired", "message": "expired"}}"#, "\"expired\""),
            (r#"{"custom_id": "a", "response": null, "error": null}"#, "\"response\" is null"),
            (r#"{"prompt": "q", "error": "overloaded"}"#, "\"overloaded\""),
            (r#"{"prompt": "q", "response": {"status_code": 500, "body": {}}}"#, "(status 500) without a message"),
            (r#"{"prompt": "q", "response": {"object": "error", "message": "no such model", "code": 404}}"#, "\"no such model\""),
            (
                r#"{"prompt": "q", "choices": [{"message": {"content": null, "refusal": "I cannot"}, "logprobs": null}]}"#,
                "\"I cannot\"",
            ),
        ] {
            let damage = parse(line).unwrap_err();
            assert_eq!(damage.kind, Kind::Refused, "{line}");
            assert!(damage.what.contains(told), "{damage}");
        }
    }

    #[test]
    fn an_echo_may_start_with_a_special_token_or_give_its_length() {
        let line = |tokens: &str, usage: &str| {
            format!(
                r#"{{"prompt": "to be", {usage} "choices": [{{"text": "to be or", "logprobs": {{"tokens": {tokens}, "token_logprobs":
                [null, -1.0, -1.0, -0.5], "top_logprobs": [null, {{}}, {{}}, {{" or": -0.5}}]}}}}]}}"#
            )
            .replace('\n', " ")
        };
        let usage = r#""usage": {"prompt_tokens": 3},"#;
        for line in [line(r#"["<s>", "to", " be", " or"]"#, ""), line(r#"["", "\ufffd", "e", " or"]"#, usage)] {
            let example = parse(&line).unwrap();
            assert_eq!(example.target, Some(Segment::Tokens(vec![Token::text(" or")])));
            assert_eq!(example.answers.unwrap().beside.target.as_deref(), Some(" or"));
        }
        assert_eq!(parse(&line(r#"["", "\ufffd", "e", " or"]"#, "")).unwrap_err().kind, Kind::Misaligned);
    }

    #[test]
    fn stream_chunks_and_filtered_answers_are_refused() {
        let logprobs = r#""logprobs": {"content": [{"token": "a", "logprob": -1.0}]}"#;
        for (choice, told) in [
            (format!(r#"{{"delta": {{"content": "a"}}, {logprobs}}}"#), "a piece of a streamed answer"),
            (
                format!(r#"{{"message": {{"content": "a"}}, "finish_reason": "content_filter", {logprobs}}}"#),
                "\"content_filter\"",
            ),
            (r#"{"message": {"content": ""}, "finish_reason": "content_filter", "logprobs": null}"#.into(), "\"content_filter\""),
        ] {
            let damage = parse(&format!(r#"{{"prompt": "q", "choices": [{choice}]}}"#)).unwrap_err();
            assert!(damage.kind == Kind::Refused && damage.what.contains(told), "{damage}");
        }
    }

    #[test]
    fn a_null_row_keeps_its_token_if_the_score_is_known() {
        let line = |own: &str| {
            format!(
                r#"{{"prompt": "q", "choices": [{{"logprobs": {{"tokens": ["a", "b"], "token_logprobs": [-1.0, {own}],
                "top_logprobs": [{{"a": -1.0}}, null]}}}}]}}"#
            )
            .replace('\n', " ")
        };
        let row = parse(&line("-0.5")).unwrap().answers.unwrap().rows.remove(1).unwrap();
        assert_eq!(row.iter().map(|entry| (entry.token.clone(), entry.score)).collect::<Vec<_>>(), [(Token::text("b"), -0.5)]);
        assert_eq!(parse(&line("null")).unwrap_err().kind, Kind::BadScore);
    }

    #[test]
    fn lists_of_different_length_are_misaligned() {
        let line = r#"{"prompt": "q", "choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [], "top_logprobs": [{}]}}]}"#;
        assert_eq!(parse(line).unwrap_err().kind, Kind::Misaligned);
        assert_eq!(parse(r#"{"prompt": "q", "choices": [{"text": "a", "logprobs": null}]}"#).unwrap_err().kind, Kind::MissingKey);
    }
}
