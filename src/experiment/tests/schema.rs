//! The JSON schema accepts what the program accepts. Oracle: the committed experiments, the manual's sample, and mistakes as in
//! `mistakes.rs`, read by a small validator of the keywords that the schema uses.

use serde_json::{Value, json};

use super::super::keys::schema::schema;
use super::expansion::DESIGN;

/// Why `found` does not fit `schema`, if it does not.
fn misfit(root: &Value, schema: &Value, found: &Value, at: &str) -> Option<String> {
    let fit = |schema: &Value, found: &Value, at: &str| misfit(root, schema, found, at);
    let words = schema.as_object().expect("a schema is an object");
    words.iter().find_map(|(word, wanted)| {
        let list = || wanted.as_array().expect("a list");
        let wrong = |wrong: bool| wrong.then(|| format!("{at}: {found} breaks {word} {wanted}"));
        match word.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" | "pattern" => None,
            "$ref" => {
                let pointer = wanted.as_str().expect("a pointer").trim_start_matches('#');
                fit(root.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}")), found, at)
            }
            "allOf" => list().iter().find_map(|schema| fit(schema, found, at)),
            "anyOf" => wrong(list().iter().all(|schema| fit(schema, found, at).is_some())),
            "enum" => wrong(!list().contains(found)),
            "type" => wrong(match wanted.as_str().expect("a type") {
                "object" => !found.is_object(),
                "array" => !found.is_array(),
                "string" => !found.is_string(),
                "boolean" => !found.is_boolean(),
                "integer" => !found.is_i64() && !found.is_u64(),
                "number" => !found.is_number(),
                other => panic!("type {other}"),
            }),
            "minimum" => wrong(found.as_f64() < wanted.as_f64()),
            "maximum" => wrong(found.as_f64() > wanted.as_f64()),
            "exclusiveMinimum" => wrong(found.as_f64() <= wanted.as_f64()),
            "exclusiveMaximum" => wrong(found.as_f64() >= wanted.as_f64()),
            "minLength" => wrong((found.as_str()?.len() as u64) < wanted.as_u64()?),
            "minItems" => wrong((found.as_array()?.len() as u64) < wanted.as_u64()?),
            "uniqueItems" => None,
            "items" => found.as_array()?.iter().find_map(|item| fit(wanted, item, at)),
            "properties" => {
                found.as_object()?.iter().find_map(|(key, value)| fit(wanted.get(key)?, value, &format!("{at}.{key}")))
            }
            "additionalProperties" => found.as_object()?.iter().find_map(|(key, value)| {
                let known = schema.get("properties").and_then(|properties| properties.get(key)).is_some();
                match (known, wanted) {
                    (true, _) => None,
                    (false, Value::Bool(false)) => Some(format!("{at}: no key {key}")),
                    (false, schema) => fit(schema, value, &format!("{at}.{key}")),
                }
            }),
            other => panic!("the schema uses {other}, which this validator does not know"),
        }
    })
}

fn parsed(text: &str) -> Value {
    fn json_of(item: &toml_edit::Item) -> Value {
        if let Some(table) = item.as_table_like() {
            return table.iter().map(|(key, item)| (key.to_string(), json_of(item))).collect();
        }
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| json_of(&toml_edit::Item::Table(table.clone()))).collect();
        }
        match item.as_value().expect("a value") {
            toml_edit::Value::String(text) => json!(text.value()),
            toml_edit::Value::Integer(number) => json!(number.value()),
            toml_edit::Value::Float(number) => json!(number.value()),
            toml_edit::Value::Boolean(flag) => json!(flag.value()),
            toml_edit::Value::Array(array) => array.iter().map(|value| json_of(&toml_edit::Item::Value(value.clone()))).collect(),
            other => panic!("{other}"),
        }
    }
    json_of(text.parse::<toml_edit::DocumentMut>().unwrap().as_item())
}

#[test]
fn valid_experiments_fit_the_schema() {
    let schema = schema();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).chain([DESIGN.into()]).collect();
    assert!(texts.len() > 3);
    for text in texts {
        assert_eq!(misfit(&schema, &schema, &parsed(&text), ""), None, "{text}");
    }
}

#[test]
fn mistakes_do_not_fit_the_schema() {
    let schema = schema();
    let mistakes = [
        "[base]\ntokns = 1",
        "[base]\ntokens = true",
        "[base]\nlr = 0",
        "[base]\ncontext = 7",
        "[base]\neval = { on = \"train\" }",
        "[method.a]\ntail = \"bukket\"",
        "[method.a]\nbeta = 1.0",
        "[teacher.a]\nconcurrency = 0",
        "[sweep]\ngrid = { lr = 1e-3 }",
        "[sweep]\ngrid = { seeds = [1] }",
        "[[sweep.skip]]\nseeds = 2",
        "[fair]\nmatch = \"token\"",
        "[smoke]\nteacher_token = 1",
        "[[claim]]\nlevel = 95",
        "[base]\nstudent = { hidden = 3 }",
        "[task.a]\nsample = 2",
        "[task.a]\nstop = \"\"",
        "[task.a]\nscore = [true]",
        "[task.a]\ndecode = { beams = 1 }",
    ];
    for mistake in mistakes {
        assert!(misfit(&schema, &schema, &parsed(mistake), "").is_some(), "{mistake}");
    }
}
