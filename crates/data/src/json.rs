//! JSON as found in logs: the order of keys is kept, a key may occur twice, and Python's `NaN` and `Infinity` are accepted.

use std::fmt;

use hydrometer_base::text::quoted;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::line_error::{Kind, LineError};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// An integer that fits.
    Whole(i64),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    /// In the order of the file, with repetitions.
    Object(Vec<(String, Json)>),
}

/// Python's words for numbers that JSON cannot express, and the numbers that replace them while a line is parsed: the two largest
/// finite f64, which no measurement produces.
const WORDS: [(&str, &str); 2] = [("Infinity", "1.7976931348623157e308"), ("NaN", "1.7976931348623155e308")];
const INFINITE: f64 = f64::MAX;
const NOT_A_NUMBER: f64 = f64::MAX.next_down();

impl Json {
    /// Parses a line with any JSON value.
    pub fn value(line: &str) -> Result<Self, serde_json::Error> {
        match serde_json::from_str(line) {
            Err(error) if !error.is_eof() && (line.contains("Infinity") || line.contains("NaN")) => {
                serde_json::from_str(&pythonic(line))
            }
            other => other,
        }
    }

    /// Parses a line that must be an object.
    pub fn object(line: &str) -> Result<Self, LineError> {
        match Self::value(line) {
            Ok(object @ Json::Object(_)) => Ok(object),
            Ok(other) => {
                let what = format!("expected a JSON object, found {}: {}", other.kind(), quoted(line.trim()));
                Err(LineError::new(Kind::NotAnObject, what))
            }
            Err(error) if error.is_eof() => Err(LineError::new(Kind::Torn, "the JSON ends before it is complete")),
            Err(error) => {
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                // Columns count bytes, and may fall inside a character.
                let (column, mut at) = (error.column(), error.column().saturating_sub(1).min(line.len()));
                while !line.is_char_boundary(at) {
                    at -= 1;
                }
                let rest = if line[at..].is_empty() { String::new() } else { format!(", at {}", quoted(&line[at..])) };
                Err(LineError::new(Kind::NotJson, format!("not JSON: {message} at column {column}{rest}")))
            }
        }
    }

    /// The keys of an object, for a sentence.
    pub fn keys(&self) -> String {
        let Json::Object(fields) = self else { return String::new() };
        let mut names: Vec<String> = fields.iter().take(6).map(|(name, _)| quoted(name)).collect();
        if fields.len() > names.len() {
            names.push("…".to_string());
        }
        names.join(", ")
    }

    /// The last value of `key`, as in other parsers; `None` if it is null or missing.
    pub fn get(&self, key: &str) -> Option<&Json> {
        let Json::Object(fields) = self else { return None };
        fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| **value != Json::Null)
    }

    /// The last value of `key`, even if it is null.
    pub fn given(&self, key: &str) -> Option<&Json> {
        let Json::Object(fields) = self else { return None };
        fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`, which is required.
    pub fn need(&self, key: &str) -> Result<&Json, LineError> {
        self.get(key).ok_or_else(|| {
            let found = match self {
                Json::Object(fields) if fields.iter().any(|(name, _)| name == key) => "it is null here".to_string(),
                Json::Object(fields) if fields.is_empty() => "this one is empty".to_string(),
                _ => format!("this one has {}", self.keys()),
            };
            LineError::new(Kind::MissingKey, format!("expected a JSON object with a {key:?}; {found}"))
        })
    }

    pub fn text(&self, key: &str) -> Result<&str, LineError> {
        match self {
            Json::Text(text) => Ok(text),
            other => Err(wrong(key, "a string", other)),
        }
    }

    pub fn list(&self, key: &str) -> Result<&[Json], LineError> {
        match self {
            Json::List(list) => Ok(list),
            other => Err(wrong(key, "a list", other)),
        }
    }

    pub fn fields(&self, key: &str) -> Result<&[(String, Json)], LineError> {
        match self {
            Json::Object(fields) => Ok(fields),
            other => Err(wrong(key, "an object", other)),
        }
    }

    /// A number; −∞ and ∞ are allowed.
    pub fn number(&self, key: &str) -> Result<f64, LineError> {
        match self {
            Json::Whole(n) => Ok(*n as f64),
            Json::Number(x) if x.is_nan() => Err(LineError::new(Kind::BadScore, format!("{key} is not a number (NaN)"))),
            Json::Number(x) => Ok(*x),
            other => Err(wrong(key, "a number", other)),
        }
    }

    /// A token id.
    pub fn id(&self, key: &str) -> Result<u64, LineError> {
        match self {
            Json::Whole(n) if *n >= 0 => Ok(*n as u64),
            other => Err(wrong(key, "a whole number of at least 0", other)),
        }
    }

    /// The type of the value, for a sentence.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Whole(_) | Json::Number(_) => "a number",
            Json::Text(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

fn wrong(key: &str, wanted: &str, found: &Json) -> LineError {
    let value = match found {
        Json::Bool(value) => format!(": {value}"),
        Json::Whole(value) => format!(": {value}"),
        Json::Number(value) => format!(": {value:e}"),
        Json::Text(value) => format!(": {}", quoted(value)),
        Json::Null | Json::List(_) | Json::Object(_) => String::new(),
    };
    LineError::new(Kind::WrongType, format!("{} must be {wanted}, not {}{value}", quoted(key), found.kind()))
}

/// `line` with `Infinity` and `NaN` outside of strings replaced as in [`WORDS`]; a sign before them stays.
fn pythonic(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 32);
    let (mut rest, mut quoted) = (line, false);
    'next: while let Some(c) = rest.chars().next() {
        if !quoted {
            for (word, number) in WORDS {
                if let Some(after) = rest.strip_prefix(word) {
                    out += number;
                    rest = after;
                    continue 'next;
                }
            }
        }
        let mut length = c.len_utf8();
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out += &rest[..length];
        rest = &rest[length..];
    }
    out
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Whole(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(i64::try_from(value).map_or(Json::Number(value as f64), Json::Whole))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Number(match value.abs() {
                    INFINITE => f64::INFINITY.copysign(value),
                    NOT_A_NUMBER => f64::NAN,
                    _ => value,
                }))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = values.next_element()? {
                    list.push(value);
                }
                Ok(Json::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    fields.push(entry);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_order_duplicate_keys_and_pythons_nan_and_infinity_are_kept() {
        let line = r#"{"b": {"x": 1, "a": -Infinity, "x": 2.5}, "t": "NaN \"-Infinity\"", "n": [NaN, null, Infinity]}"#;
        let json = Json::object(line).unwrap();
        let Json::Object(inner) = json.need("b").unwrap() else { panic!() };
        assert_eq!(inner[0], ("x".into(), Json::Whole(1)));
        assert_eq!(inner[1], ("a".into(), Json::Number(f64::NEG_INFINITY)));
        assert_eq!(inner[2], ("x".into(), Json::Number(2.5)));
        assert_eq!(json.need("t").unwrap().text("t"), Ok("NaN \"-Infinity\""));
        // A string that looks like the stand-in for NaN remains a string.
        let forged = Json::object(r#"{"t": "\u0001NaN", "n": NaN}"#).unwrap();
        assert_eq!(forged.need("t").unwrap().text("t"), Ok("\u{1}NaN"));
        let list = json.need("n").unwrap().list("n").unwrap();
        assert_eq!(list[0].number("n").unwrap_err().kind, Kind::BadScore);
        assert_eq!(list[2].number("n"), Ok(f64::INFINITY));
    }

    #[test]
    fn every_kind_of_damage_is_classified() {
        let cases = [
            (r#"{"a": 1"#, Kind::Torn),
            (r#"{"a": "unfini"#, Kind::Torn),
            (r#"{"a": 1}}"#, Kind::NotJson),
            (r#"{'a': 1}"#, Kind::NotJson),
            (r#"{"a": Infinit}"#, Kind::NotJson),
            (r#"["a"]"#, Kind::NotAnObject),
            ("7", Kind::NotAnObject),
            (r#"{"a": "\ud800"}"#, Kind::NotJson),
        ];
        for (line, kind) in cases {
            assert_eq!(Json::object(line).unwrap_err().kind, kind, "{line}");
        }
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        assert_eq!(Json::object(&deep).unwrap_err().kind, Kind::NotJson, "nesting is limited");
    }
}
