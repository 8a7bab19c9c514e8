//! The prompt of a response: token ids, a text or messages, beside the response or under `request`.

use hydrometer_base::text::quoted;

use super::Keys;
use crate::example::{Segment, Token};
use crate::json::Json;
use crate::line_error::{Kind, LineError};

/// The response within a line.
pub fn response(json: &Json) -> &Json {
    let outer = json.get("response").unwrap_or(json);
    outer.get("body").unwrap_or(outer)
}

/// The prompt of a response.
pub struct Prompt {
    pub piece: Segment,
    /// The text, if the line has it as one string.
    pub text: Option<String>,
}

impl Prompt {
    fn text(text: String) -> Self {
        Self { piece: Segment::Text(text.clone()), text: Some(text) }
    }

    /// The text given beside the ids.
    pub fn beside(&self) -> Option<String> {
        self.text.clone().filter(|_| matches!(self.piece, Segment::Tokens(_)))
    }
}

/// The error for a response without its prompt.
pub fn missing() -> LineError {
    let what = "the prompt that this answers is not there; put the request's \"prompt\" or \"messages\" beside the response, or the \
                request under \"request\" (the output of a batch does not repeat it: join it by custom_id); if there was none, \
                say so: \"prompt\": \"\"";
    LineError::new(Kind::MissingKey, what)
}

/// The prompt of a line whose answer is the text `answer`, as far as it is known. Ids that a server has read are more reliable
/// than a text.
pub fn of(json: &Json, keys: &Keys, answer: Option<&str>) -> Result<Option<Prompt>, LineError> {
    if let Some(key) = &keys.source {
        let found = json.get(key).or(request(json).get(key)).map_or_else(|| json.need(key), Ok)?;
        return Ok(Some(Prompt::text(found.text(key)?.to_string())));
    }
    match ids(json)? {
        Some(tokens) => Ok(Some(Prompt { piece: Segment::Tokens(tokens), text: beside(json)? })),
        None => prompt_or_messages(json, answer),
    }
}

/// The text beside ids, if it is a string.
fn beside(json: &Json) -> Result<Option<String>, LineError> {
    match request(json).get("prompt").or(json.get("prompt")) {
        Some(Json::Text(text)) => Ok(Some(text.clone())),
        _ => Ok(None),
    }
}

/// `prompt_token_ids` of the line, the response or its first choice.
pub fn ids(json: &Json) -> Result<Option<Vec<Token>>, LineError> {
    const KEY: &str = "prompt_token_ids";
    let response = response(json);
    let choice = response.get("choices").and_then(|choices| choices.list("choices").ok()?.first());
    let found = json.get(KEY).or_else(|| response.get(KEY)).or_else(|| choice?.get(KEY));
    found.map(|ids| tokens(ids.list(KEY)?, KEY)).transpose()
}

/// `prompt`, `source`, `src` or `messages`. Messages are joined by line breaks, without roles. If a log appends the answer itself
/// to the conversation, it is left out.
fn prompt_or_messages(json: &Json, answer: Option<&str>) -> Result<Option<Prompt>, LineError> {
    let request = request(json);
    for key in ["prompt", "source", "src"] {
        if let Some(found) = request.get(key).or(json.get(key)) {
            return prompt(found, key).map(Some);
        }
    }
    let Some(messages) = request.get("messages").or(json.get("messages")) else { return Ok(None) };
    let mut messages = messages.list("messages")?;
    if let ([.., _, last], Some(answer)) = (messages, answer.map(str::trim).filter(|answer| !answer.is_empty()))
        && last.get("role") == Some(&Json::Text("assistant".into()))
        && content(last).is_ok_and(|content| content.trim() == answer)
    {
        messages = &messages[..messages.len() - 1];
    }
    let texts = messages
        .iter()
        .enumerate()
        .map(|(index, message)| content(message).map_err(|damage| damage.of(format!("message {}", index + 1))));
    Ok(Some(Prompt::text(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))))
}

fn request(json: &Json) -> &Json {
    json.get("request").map_or(json, |request| request.get("body").unwrap_or(request))
}

/// A text, or ids. A request may have several prompts, but a line answers one.
fn prompt(found: &Json, key: &str) -> Result<Prompt, LineError> {
    match found {
        Json::List(list) => match &list[..] {
            [Json::Text(text)] => Ok(Prompt::text(text.clone())),
            [Json::List(ids)] => Ok(Prompt { piece: Segment::Tokens(tokens(ids, key)?), text: None }),
            [Json::Text(_) | Json::List(_), ..] => {
                let what = format!("{key:?} has {} prompts, and a line answers one", list.len());
                Err(LineError::new(Kind::WrongType, what))
            }
            ids => Ok(Prompt { piece: Segment::Tokens(tokens(ids, key)?), text: None }),
        },
        other => other.text(key).map(|text| Prompt::text(text.to_string())),
    }
}

fn tokens(ids: &[Json], key: &str) -> Result<Vec<Token>, LineError> {
    ids.iter().map(|id| id.id(key).map(Token::id)).collect()
}

/// The content of a message, if all of it is text.
fn content(message: &Json) -> Result<String, LineError> {
    let other = |what: &str| {
        LineError::new(Kind::WrongType, format!("{what}, which is no text; give the text that was read as \"prompt\""))
    };
    if message.get("tool_calls").is_some_and(|calls| *calls != Json::List(Vec::new())) || message.has("function_call") {
        return Err(other("it calls tools"));
    }
    match message.need("content")? {
        Json::List(parts) => {
            let text = |part: &Json| match (part.get("type"), part.get("text")) {
                (_, Some(text)) => text.text("text").map(str::to_string),
                (Some(Json::Text(kind)), None) => Err(other(&format!("it has a part of type {}", quoted(kind)))),
                _ => part.text("content").map(str::to_string),
            };
            Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.concat())
        }
        content => content.text("content").map(str::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Segment>, LineError> {
        of(&Json::object(line).unwrap(), &Keys::default(), Some("The mill")).map(|prompt| prompt.map(|prompt| prompt.piece))
    }

    #[test]
    fn a_prompt_is_ids_a_text_or_messages() {
        let text = |text: &str| Ok(Some(Segment::Text(text.into())));
        let ids = |ids: &[u64]| Ok(Some(Segment::Tokens(ids.iter().map(|&id| Token::id(id)).collect())));
        for (line, wanted) in [
            (r#"{"prompt": "q"}"#, text("q")),
            (r#"{"prompt": ["q"]}"#, text("q")),
            (r#"{"prompt": ""}"#, text("")),
            (r#"{"prompt": [3, 4]}"#, ids(&[3, 4])),
            (r#"{"prompt": [[3, 4]]}"#, ids(&[3, 4])),
            (r#"{"prompt": "q", "response": {"body": {"choices": [{"prompt_token_ids": [3]}]}}}"#, ids(&[3])),
            (
                r#"{"request": {"body": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}}}"#,
                text("ab"),
            ),
            (r#"{"choices": []}"#, Ok(None)),
            // The conversation already includes the answer; a message that begins differently precedes it.
            (r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The mill"}]}"#, text("q")),
            (r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The"}]}"#, text("q\nThe")),
        ] {
            assert_eq!(read(line), wanted, "{line}");
        }
    }

    #[test]
    fn prompts_that_are_not_text_are_refused_with_the_reason() {
        for (line, told) in [
            (
                r#"{"messages": [{"content": "a"}, {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
                "message 2: it has a part of type \"image_url\"",
            ),
            (r#"{"messages": [{"content": null, "tool_calls": [{"id": "1"}]}]}"#, "message 1: it calls tools"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 1: expected a JSON object with a \"content\""),
            (r#"{"prompt": ["a", "b"]}"#, "\"prompt\" has 2 prompts"),
        ] {
            let damage = read(line).unwrap_err();
            assert!(damage.what.starts_with(told), "{damage}");
        }
    }
}
