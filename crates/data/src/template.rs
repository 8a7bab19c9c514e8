//! Templates of prompts: Jinja as in Hugging Face's chat templates.

use std::path::Path;

use anyhow::{Result, anyhow};
use hydrometer_base::guard::read_file;
use hydrometer_base::text::quoted;
use hydrometer_base::user_error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Value as JsonValue;

use super::json::Json;
use super::special::{SpecialTokenFiles, text_of};

/// Name under which an environment keeps its only template.
const NAME: &str = "prompt";
/// Where transformers looks for a chat template, before `tokenizer_config.json`.
const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Roles of special tokens that templates may name.
const ROLES: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// A template that was parsed.
pub struct Template {
    environment: Environment<'static>,
    /// The file it is from, for messages.
    from: String,
    /// Special tokens by role.
    tokens: Vec<(&'static str, String)>,
}

impl Template {
    /// The template in the file at `path`. A field that a prompt lacks is an error.
    pub fn of_file(path: &Path) -> Result<Self> {
        let bytes = read_file(path).map_err(|error| user_error!("{}: {error}", path.display()))?;
        let source = String::from_utf8(bytes).map_err(|_| user_error!("{}: the template is not UTF-8", path.display()))?;
        Self::parse(source, path.display().to_string(), UndefinedBehavior::SemiStrict, Vec::new())
    }

    /// The chat template of the checkpoint in `folder`, if it has one.
    pub fn chat(folder: &Path) -> Result<Option<Self>> {
        let files = SpecialTokenFiles::of(folder)?;
        let named = |role: &'static str| {
            let maps = [&files.tokenizer_config, &files.special_tokens_map];
            let token = maps.into_iter().find_map(|map| text_of(map.get(role)?))?;
            Some((role, token.to_string()))
        };
        let tokens: Vec<_> = ROLES.into_iter().filter_map(named).collect();
        let path = folder.join(CHAT_TEMPLATE);
        let found = if path.exists() {
            let bytes = read_file(&path).map_err(|error| user_error!("{}: {error}", path.display()))?;
            let source = String::from_utf8(bytes).map_err(|_| user_error!("{}: the template is not UTF-8", path.display()))?;
            Some((source, path))
        } else {
            let path = folder.join("tokenizer_config.json");
            files.tokenizer_config.get("chat_template").and_then(default_of).map(|source| (source.to_string(), path))
        };
        let parsed =
            found.map(|(source, path)| Self::parse(source, path.display().to_string(), UndefinedBehavior::Lenient, tokens));
        parsed.transpose()
    }

    fn parse(source: String, from: String, undefined: UndefinedBehavior, tokens: Vec<(&'static str, String)>) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets them.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| anyhow!("{error}"))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(undefined);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |_: String| -> Result<Value, minijinja::Error> {
            let why = "it asks for the date (strftime_now), and the prompts would differ from day to day";
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| user_error!("{}; correct the template", told(&from, &error)))?;
        Ok(Self { environment, from, tokens })
    }

    /// The prompt that the template makes of the `fields` of a line, an object. The error is a clause without a full stop.
    pub fn render(&self, fields: &Json) -> Result<String, String> {
        let mut all: Vec<(&str, Value)> = vec![("add_generation_prompt", Value::from(true))];
        all.extend(self.tokens.iter().map(|(role, token)| (*role, Value::from(token.as_str()))));
        if let Json::Object(fields) = fields {
            all.extend(fields.iter().map(|(name, value)| (name.as_str(), value_of(value))));
        }
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(Value::from_pairs(all)));
        rendered.map_err(|error| format!("the template fails: {}", told(&self.from, &error)))
    }
}

/// A template, or of a list of them the one named `default`.
fn default_of(value: &JsonValue) -> Option<&str> {
    match value {
        JsonValue::Array(several) => several.iter().find(|one| one["name"] == "default")?["template"].as_str(),
        other => other.as_str(),
    }
}

/// `file:line: what is wrong`
fn told(from: &str, error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let what =
        if error.kind() == ErrorKind::UndefinedError { format!("it uses a field that is not there ({what})") } else { what };
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = if what.chars().count() > 300 { quoted(&what) } else { what };
    format!("{from}{line}: {shown}")
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Whole(value) => Value::from(*value),
        Json::Number(value) => Value::from(*value),
        Json::Text(value) => Value::from(value.as_str()),
        Json::List(values) => Value::from(values.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), value_of(value)))),
    }
}

/// JSON as Python's `json.dumps(x, ensure_ascii=False, indent=indent)` writes it.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut out = String::new();
    write_json(value, indent, 0, &mut out)?;
    Ok(Value::from(out))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), minijinja::Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::String => out.push_str(&JsonValue::from(value.as_str().unwrap_or_default()).to_string()),
        ValueKind::Map => {
            out.push('{');
            let keys: Vec<Value> = value.try_iter()?.collect();
            for (index, key) in keys.iter().enumerate() {
                out.push_str(if index > 0 { separator } else { "" });
                line(depth + 1, out);
                out.push_str(&format!("{}: ", JsonValue::from(key.to_string())));
                write_json(&value.get_item(key)?, indent, depth + 1, out)?;
            }
            if !keys.is_empty() {
                line(depth, out);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let items: Vec<Value> = value.try_iter()?.collect();
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { separator } else { "" });
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out)?;
            }
            if !items.is_empty() {
                line(depth, out);
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, fields: &str) -> Result<String, String> {
        let template =
            Template::parse(source.into(), "t.jinja".into(), UndefinedBehavior::SemiStrict, vec![("bos_token", "<s>".into())]);
        template.unwrap().render(&Json::object(fields).unwrap())
    }

    /// Oracle: Jinja2 3.1 with the settings of transformers' `apply_chat_template`, by hand.
    #[test]
    fn templates_give_what_jinja2_gives() {
        for (source, fields, wanted) in [
            ("{{ bos_token }}Q: {{ q }}\nA:", r#"{"q": "1+1?"}"#, "<s>Q: 1+1?\nA:"),
            ("  {% if q %}\n{{ q.strip() | upper }}\n  {% endif %}\n!", r#"{"q": " a "}"#, "A\n!"),
            (
                "{% for m in messages %}{{ m['role'] }}:{{ m.content }};{% endfor %}",
                r#"{"messages": [{"role": "u", "content": "<é>"}]}"#,
                "u:<é>;",
            ),
            ("{{ x | tojson }}", r#"{"x": {"b": [1, 2.5, null], "a": "é\"<"}}"#, r#"{"b": [1, 2.5, null], "a": "é\"<"}"#),
            ("{{ x | tojson(indent=2) }}", r#"{"x": {"b": [1], "a": {}}}"#, "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}"),
            ("{% for i in x %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", r#"{"x": [1, 2, 3]}"#, "13"),
        ] {
            assert_eq!(render(source, fields).unwrap(), wanted, "{source}");
        }
    }

    #[test]
    fn a_template_that_fails_says_where_and_why() {
        let fails = |source: &str| render(source, "{}").unwrap_err();
        assert_eq!(fails("a\n{{ raise_exception('no roles') }}"), "the template fails: t.jinja:2: no roles");
        assert!(fails("{{ question }}").starts_with("the template fails: t.jinja:1: it uses a field that is not there"));
        assert!(fails("{{ strftime_now('%d') }}").contains("would differ from day to day"));
        let wrong = Template::parse("{% if %}".into(), "t.jinja".into(), UndefinedBehavior::Lenient, Vec::new());
        assert!(wrong.err().unwrap().to_string().starts_with("t.jinja:1: "));
    }
}
