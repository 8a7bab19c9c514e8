//! The JSON schema of the experiment file, for editors: draft 7, which their TOML extensions support.

use std::ops::Bound;

use hydrometer_score::Score;
use serde_json::{Map, Value as Json, json};

use super::loss::known_names;
use super::value::{HELD_OUT, Numbers, SEEDS_MAX};
use super::{Key, MODEL_MAX, Objectives, Place, Shape, Value, keys_of};

/// Places whose tables others refer to.
const DEFINED: [Place; 20] = [
    Place::Base,
    Place::Method,
    Place::Axis,
    Place::Selector,
    Place::Smoke,
    Place::Teacher,
    Place::Adapt,
    Place::Eval,
    Place::Price,
    Place::Budget,
    Place::Data,
    Place::Model,
    Place::Sweep,
    Place::When,
    Place::Skip,
    Place::Fair,
    Place::Claim,
    Place::Task,
    Place::Decode,
    Place::Top,
];

/// The schema of the file.
pub fn schema() -> Json {
    let definitions: Map<String, Json> = DEFINED.into_iter().map(|place| (name(place), table(place))).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "hydrometer's experiment file",
        "allOf": [reference(Place::Top)],
        "definitions": definitions,
    })
}

fn name(place: Place) -> String {
    format!("{place:?}").to_lowercase()
}

fn reference(place: Place) -> Json {
    json!({ "$ref": format!("#/definitions/{}", name(place)) })
}

/// The table of `place`: its keys with their values, and no others.
fn table(place: Place) -> Json {
    let mut properties: Map<String, Json> = keys_of(place).map(|key| (key.name.to_string(), property(key, place))).collect();
    if [Place::Selector, Place::When, Place::Skip].contains(&place) {
        properties.extend(keys_of(Place::Selector).map(|key| (key.name.to_string(), property(key, Place::Selector))));
        properties.insert("method".into(), one_or_list(json!({ "type": "string" })));
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn property(key: &Key, place: Place) -> Json {
    let value = match place {
        Place::Axis => list(value(key)),
        Place::Selector => one_or_list(value(key)),
        // Also the name by which an API knows its model.
        Place::Teacher if key.name == "model" => json!({ "anyOf": [value(key), { "type": "string" }] }),
        _ => value(key),
    };
    let Json::Object(mut property) = value else { return value };
    property.insert("description".into(), description(key).into());
    let default = key.default.filter(|_| ![Place::Axis, Place::Selector].contains(&place));
    if let Some(default) = default.and_then(|text| text.parse().ok()) {
        property.insert("default".into(), to_json(&default));
    }
    Json::Object(property)
}

fn description(key: &Key) -> String {
    let objectives = match key.objectives {
        Objectives::All => String::new(),
        Objectives::Only(names) => format!(" Only for {}.", names.join(", ")),
        Objectives::AllBut(names) => format!(" Not for {}.", names.join(", ")),
    };
    format!("{}.{objectives}", key.doc)
}

fn value(key: &Key) -> Json {
    match &key.value {
        Value::Text => json!({ "type": "string" }),
        Value::Flag => json!({ "type": "boolean" }),
        Value::Number(range) => number(range),
        Value::Whole(range) => json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() }),
        Value::Tokens => json!({ "anyOf": [
            { "type": "number", "minimum": 1 },
            { "type": "string", "pattern": r"^\s*[0-9.]+[kKMGB]?\s*$" },
        ] }),
        Value::Choice(_) | Value::Format => json!({ "enum": key.names() }),
        Value::Objective => json!({ "enum": known_names() }),
        Value::Seeds => json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": SEEDS_MAX },
            { "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1, "uniqueItems": true },
        ] }),
        Value::HeldOutSplit => json!({ "enum": HELD_OUT }),
        Value::Tokenizer => json!({ "anyOf": [
            { "type": "string" },
            {
                "type": "object",
                "properties": { "bpe": { "type": "integer", "minimum": 257, "maximum": MODEL_MAX } },
                "additionalProperties": false,
            },
        ] }),
        Value::Texts => one_or_list(json!({ "type": "string", "minLength": 1 })),
        Value::Scores => list(json!({ "anyOf": [
            { "enum": Score::NAMED.map(Score::name) },
            { "type": "string", "pattern": "^pass@[1-9][0-9]*(-(exact-match|number-first|number-last))?$" },
        ] })),
        Value::Layers => list(json!({ "type": "integer", "minimum": 0 })),
        Value::Preset(place) => json!({ "anyOf": [{ "type": "string" }, reference(*place)] }),
        Value::Fields(place) | Value::Table(Shape::One, place) => json!({ "allOf": [reference(*place)] }),
        Value::Table(Shape::Named, place) => json!({ "type": "object", "additionalProperties": reference(*place) }),
        Value::Table(Shape::List, place) => json!({ "type": "array", "items": reference(*place) }),
        Value::Axes => json!({ "allOf": [reference(Place::Axis)] }),
        Value::Select => json!({ "allOf": [reference(Place::Selector)] }),
    }
}

fn list(item: Json) -> Json {
    json!({ "type": "array", "items": item, "minItems": 1 })
}

fn one_or_list(item: Json) -> Json {
    json!({ "anyOf": [item, list(item.clone())] })
}

fn number(range: &Numbers) -> Json {
    let mut number = json!({ "type": "number" });
    for (bound, included, excluded) in [(range.from, "minimum", "exclusiveMinimum"), (range.to, "maximum", "exclusiveMaximum")] {
        match bound {
            Bound::Included(at) => number[included] = at.into(),
            Bound::Excluded(at) => number[excluded] = at.into(),
            Bound::Unbounded => {}
        }
    }
    number
}

fn to_json(value: &toml_edit::Value) -> Json {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => text.value().as_str().into(),
        Toml::Integer(number) => (*number.value()).into(),
        Toml::Float(number) => (*number.value()).into(),
        Toml::Boolean(flag) => (*flag.value()).into(),
        Toml::Datetime(time) => time.value().to_string().into(),
        Toml::Array(array) => array.iter().map(to_json).collect(),
        Toml::InlineTable(table) => table.iter().map(|(key, value)| (key.to_string(), to_json(value))).collect(),
    }
}
