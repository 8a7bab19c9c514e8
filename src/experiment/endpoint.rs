//! `[teacher.NAME] endpoint = "..."`: a teacher behind an OpenAI-compatible API, which judges the text of the data.

use std::time::Duration;

use anyhow::Result;
use hydrometer_base::suggest::{unknown, unknown_key};
use hydrometer_base::user_error;
use hydrometer_torch::objective::Objective;

use super::file::Table;
use super::source::Setting;
use crate::teacher::endpoint::service::{Budget, Price, Service};
use crate::teacher::recipe::{EchoRows, EndpointRecipe, Sent};

/// Keys of a teacher behind an endpoint.
pub const ENDPOINT_KEYS: [&str; 10] =
    ["endpoint", "model", "sent", "echo_rows", "key_env", "concurrency", "retries", "timeout", "price", "budget"];
/// Longest wait for an answer, in seconds.
const TIMEOUT_MAX: f64 = 86_400.0;

/// Whether `own` describes a teacher behind an endpoint.
pub fn is_endpoint(own: &Table) -> bool {
    own.iter().any(|(key, _)| key == "endpoint")
}

/// What teacher `name` is known by, and how it is asked.
pub fn read(name: &str, own: &Table, revision: &str) -> Result<(EndpointRecipe, Service)> {
    let within = format!("[teacher.{name}], which is asked at an endpoint");
    if let Some((key, found)) = own.iter().find(|(key, _)| !ENDPOINT_KEYS.contains(&key.as_str())) {
        return Err(user_error!("{}: {}", found.at.0, unknown_key(key, &within, &ENDPOINT_KEYS)));
    }
    let setting = |key: &str| -> Option<&Setting> { own.iter().find(|(known, _)| known == key).map(|(_, found)| found) };
    let endpoint = setting("endpoint").expect("a teacher behind an endpoint");
    let mut service = Service::at(endpoint.text("endpoint")?).map_err(|why| user_error!("{}: {why}", endpoint.at.0))?;
    let model = setting("model").ok_or_else(|| {
        let at = &endpoint.at.0;
        user_error!("{at}: [teacher.{name}] lacks the model's name, by which the server and its answers know it; add model")
    })?;
    let model = model.text("model")?.to_string();
    let sent = setting("sent").map_or(Ok(Sent::Text), |found| {
        let name = found.text("sent")?;
        Sent::named(name).ok_or_else(|| user_error!("{}: {}", found.at.0, unknown("sent", name, Sent::NAMES)))
    })?;
    let echo_rows = setting("echo_rows").map_or(Ok(EchoRows::Own), |found| {
        let name = found.text("echo_rows")?;
        EchoRows::named(name).ok_or_else(|| user_error!("{}: {}", found.at.0, unknown("echo_rows", name, EchoRows::NAMES)))
    })?;
    service.key_env = setting("key_env").map(|found| found.text("key_env").map(str::to_string)).transpose()?;
    if let Some(found) = setting("concurrency") {
        service.concurrency = found.whole("concurrency", 1..=256)? as usize;
    }
    if let Some(found) = setting("retries") {
        service.retries = found.whole("retries", 0..=100)? as u32;
    }
    if let Some(found) = setting("timeout") {
        let seconds = found.number("timeout", "a number of seconds above 0", |s| s > 0.0 && s <= TIMEOUT_MAX)?;
        service.timeout = Duration::from_secs_f64(seconds);
    }
    if let Some(found) = setting("price") {
        let mut price = Price::default();
        for (field, found) in found.fields("price")? {
            match field.as_str() {
                "input" => price.input = found.amount("price.input")?,
                "output" => price.output = found.amount("price.output")?,
                _ => return Err(user_error!("{}: {}", found.at.0, unknown_key(&field, "price", &["input", "output"]))),
            }
        }
        service.price = Some(price);
    }
    if let Some(found) = setting("budget") {
        let mut budget = Budget::default();
        for (field, found) in found.fields("budget")? {
            match field.as_str() {
                "tokens" => budget.tokens = Some(found.tokens("budget.tokens")?),
                "cost" => budget.cost = Some(found.amount("budget.cost")?),
                _ => return Err(user_error!("{}: {}", found.at.0, unknown_key(&field, "budget", &["tokens", "cost"]))),
            }
        }
        if budget.cost.is_some() && service.price.is_none() {
            let at = &found.at.0;
            return Err(user_error!(
                "{at}: a cost follows from a price; add price = {{ input = 0.15, output = 0.6 }}, a million tokens"
            ));
        }
        service.budget = budget;
    }
    let revision = revision.to_string();
    Ok((EndpointRecipe { model, sent, echo_rows, revision }, service))
}

/// Why an arm with `objective` cannot be taught by log-probabilities at temperature 1 without logits, as a clause.
pub fn unsupported_reason(objective: Objective) -> Option<&'static str> {
    match objective {
        Objective::LogitMse { centered: false, .. } => Some(
            "an endpoint gives log-probabilities, not logits; set centered = true, which makes them the same, or use soft-ce",
        ),
        _ => None,
    }
}
