//! `[teacher.NAME] endpoint = "..."`: a teacher behind an OpenAI-compatible API, which scores the text of the data.

use std::time::Duration;

use anyhow::Result;
use hydrometer_base::user_error;
use hydrometer_torch::objective::Objective;

use super::file::Table;
use super::keys::{self, Place, Settings};
use crate::teacher::endpoint::service::{Budget, Price, Service};
use crate::teacher::recipe::{EchoRows, EndpointRecipe, Sent};

/// Whether `own` describes a teacher behind an endpoint.
pub fn is_endpoint(own: &Table) -> bool {
    own.iter().any(|(key, _)| key == keys::ENDPOINT.name)
}

/// The recipe that identifies teacher `name`, and how requests are sent to it.
pub fn read(name: &str, own: &Table, revision: &str) -> Result<(EndpointRecipe, Service)> {
    let within = format!("[teacher.{name}], a teacher behind an API");
    if let Some((key, found)) = own.iter().find(|(key, _)| keys::find(Place::Endpoint, key).is_none()) {
        return Err(user_error!("{}: {}", found.at.0, keys::unknown_in(Place::Endpoint, key, &within)));
    }
    let own: Settings = own.iter().cloned().collect();
    let endpoint = own.get(&keys::ENDPOINT).expect("a teacher behind an endpoint");
    let mut service = Service::at(keys::ENDPOINT.text(endpoint)?).map_err(|why| user_error!("{}: {why}", endpoint.at.0))?;
    let model = own.text(&keys::MODEL)?.ok_or_else(|| {
        let at = &endpoint.at.0;
        user_error!("{at}: [teacher.{name}] lacks the name by which the server knows its model; add model")
    })?;
    let model = model.to_string();
    let sent = own.choice(&keys::SENT, Sent::named)?;
    let echo_rows = own.choice(&keys::ECHO_ROWS, EchoRows::named)?;
    service.key_env = own.text(&keys::KEY_ENV)?.map(str::to_string);
    service.concurrency = own.whole(&keys::CONCURRENCY)? as usize;
    service.retries = own.whole(&keys::RETRIES)? as u32;
    service.timeout = Duration::from_secs_f64(own.number(&keys::TIMEOUT)?);
    if own.get(&keys::PRICE).is_some() {
        let price = own.fields(&keys::PRICE)?;
        service.price = Some(Price { input: price.number(&keys::PRICE_INPUT)?, output: price.number(&keys::PRICE_OUTPUT)? });
    }
    if let Some(found) = own.get(&keys::BUDGET) {
        let fields = own.fields(&keys::BUDGET)?;
        let tokens = fields.get(&keys::BUDGET_TOKENS).map(|setting| keys::BUDGET_TOKENS.tokens(setting)).transpose()?;
        let cost = fields.get(&keys::BUDGET_COST).map(|setting| keys::BUDGET_COST.number(setting)).transpose()?;
        let budget = Budget { tokens, cost };
        if budget.cost.is_some() && service.price.is_none() {
            let at = &found.at.0;
            return Err(user_error!(
                "{at}: a cost needs a price; add price = {{ input = 0.15, output = 0.6 }}, per million tokens"
            ));
        }
        service.budget = budget;
    }
    let revision = revision.to_string();
    Ok((EndpointRecipe { model, sent, echo_rows, revision }, service))
}

/// Why an arm with `objective` cannot train on log-probabilities at temperature 1 without logits, as a clause.
pub fn unsupported_reason(objective: Objective) -> Option<&'static str> {
    match objective {
        Objective::LogitMse { centered: false, .. } => Some(
            "an endpoint gives log-probabilities, not logits; set centered = true, which makes them equivalent, or use soft-ce",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Service, read};
    use crate::experiment::keys;
    use crate::experiment::source::{Setting, SourceSpan};

    /// Oracle: the defaults of `hydrometer teach --endpoint`.
    #[test]
    fn endpoints_have_the_same_defaults_in_experiments_and_on_the_command_line() {
        let url = "http://localhost:8000/v1";
        let setting = |text: &str| Setting { value: text.into(), at: SourceSpan("here".into()) };
        let own = vec![(keys::ENDPOINT.name.into(), setting(url)), (keys::MODEL.name.into(), setting("m"))];
        let (_, found) = read("api", &own, "1").unwrap();
        let wanted = Service::at(url).unwrap();
        assert_eq!((found.concurrency, found.retries, found.timeout), (wanted.concurrency, wanted.retries, wanted.timeout));
        assert_eq!((found.key_env, found.price.is_some()), (wanted.key_env, wanted.price.is_some()));
    }
}
