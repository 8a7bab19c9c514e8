//! Recognises JSON that is one value over several lines, or one list, where JSON lines are expected.

use serde::de::IgnoredAny;

use super::format::Format;
use super::json::Json;

/// What `text` (the beginning of a file, or all of it if `whole`) is, and the cure; `None` if it is not such a file. `objects`:
/// most of its lines are objects by themselves.
pub fn kind(text: &str, whole: bool, objects: bool) -> Option<(String, String)> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let list = text.starts_with('[');
    if !list && !text.starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let first = values.next()?;
    let end = values.byte_offset();
    let one_line = |end: usize| !text[..end].contains('\n');
    let is_file = match first {
        Ok(_) if one_line(end) => list && whole && text[end..].trim().is_empty(),
        Ok(_) => true,
        Err(error) if error.is_eof() && one_line(text.len()) => list,
        Err(error) if error.is_eof() => true,
        Err(error) if error.to_string().starts_with("recursion limit") => true,
        Err(_) => !objects && begins(text),
    };
    is_file.then(|| match list {
        true => ("this is one JSON list".to_string(), "write its objects one a line, e.g. with jq -c '.[]'".to_string()),
        false => {
            let query =
                key_of_examples(text).map_or(".".to_string(), |key| match key.chars().all(|c| c.is_alphanumeric() || c == '_') {
                    true => format!(".{key}[]"),
                    false => format!(".[{key:?}][]"),
                });
            (
                "this is a JSON object over several lines".to_string(),
                format!("write one object a line, e.g. with jq -c '{query}'"),
            )
        }
    })
}

/// Whether `text` begins like a list of objects, or like a list or object over several lines.
fn begins(text: &str) -> bool {
    let rest = text[1..].trim_start();
    match text.starts_with('[') {
        true => rest.starts_with('{'),
        false => text[1..].starts_with(['\n', '\r']) && rest.starts_with('"'),
    }
}

/// Whether `line` looks like one line of multi-line JSON: brackets, or a key with its value.
pub fn is_part(line: &str) -> bool {
    let brackets = line.chars().all(|c| "{}[],".contains(c));
    brackets
        || line
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'))
            .is_some_and(|(_, rest)| rest.trim_start().starts_with(':'))
}

/// The key of the first list, if it belongs to the outermost object and its first object is an example in some format.
pub fn key_of_examples(text: &str) -> Option<&str> {
    let (before, list) = text.split_once('[')?;
    let key = before.trim_end().strip_suffix(':')?.trim_end().strip_suffix('"')?;
    let (outer, key) = key.rsplit_once('"')?;
    let first = || serde_json::Deserializer::from_str(list).into_iter::<Json>().next()?.ok();
    (outer.matches('{').count() == 1
        && list.trim_start().starts_with('{')
        && key.len() <= 40
        && !key.contains(['\\', '\''])
        && Format::of(&first()?).is_some())
    .then_some(key)
}
