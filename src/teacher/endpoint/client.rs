//! The HTTP client: sends one request and classifies its failures.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use hydrometer_data::json::Json;

use super::request::ApiRequest;
use super::service::{Key, Service};

/// Maximum size of a response in bytes.
const ANSWER_MAX: u64 = 256 << 20;
/// Longest pause that is waited for if the server asks for one.
const PATIENCE: Duration = Duration::from_secs(900);
/// Maximum number of characters shown of a server's message.
const SHOWN: usize = 200;

/// An HTTP client for one endpoint.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<Key>,
}

/// A server's response.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A JSON object on one line.
    pub response: String,
    pub usage: Usage,
}

impl Answer {
    /// If the server does not report usage: assumes the maximum that `question` may cost, so that budgets are not exceeded.
    pub fn charged_for(mut self, question: &ApiRequest) -> Self {
        if self.usage == Usage::default() {
            self.usage = Usage { prompt_tokens: question.prompt_tokens, completion_tokens: question.max_tokens };
        }
        self
    }
}

/// Tokens charged, as counted by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestError {
    /// Temporary: worth a retry, after `wait` if the server asks for it.
    Passing { why: String, wait: Option<Duration> },
    /// Permanent: the request or the key is wrong.
    Lasting(String),
}

impl Client {
    /// A client for `service`. Reads its key from the environment; an error if the key is missing or unusable.
    pub fn open(service: &Service) -> Result<Self> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The key is meant for the named server alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(service.timeout))
            .timeout_connect(Some(service.timeout.min(Duration::from_secs(20))))
            .max_idle_connections_per_host(service.concurrency)
            // Requests to this machine bypass any proxy.
            .proxy(if service.is_local() { None } else { ureq::Proxy::try_from_env() })
            .user_agent(concat!("hydrometer/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), url: service.url.clone(), key: service.key()? })
    }

    /// Sends `question` once.
    pub fn ask(&self, question: &ApiRequest) -> Result<Answer, RequestError> {
        let passing = |why: String| RequestError::Passing { why: self.shown(&why), wait: None };
        let body = question.body().to_string();
        let mut request = self.agent.post(format!("{}/{}", self.url, question.path)).content_type("application/json");
        // If a response was lost and the request is sent again, a server that supports this header charges only once.
        request = request.header("Idempotency-Key", format!("{}-{}", question.key(), question.k));
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.bearer());
        }
        let mut response = request.send(body.as_bytes()).map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl => RequestError::Lasting(self.shown(&error.to_string())),
            other => passing(other.to_string()),
        })?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
        let (wait, location) = (header("retry-after").and_then(|text| pause(&text, SystemTime::now())), header("location"));
        let text = response.body_mut().with_config().limit(ANSWER_MAX).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| passing(format!("the answer broke off: {error}")))?;
        match status {
            200..=299 => read(&self.key.as_ref().map_or(text.clone(), |key| key.hidden_in(&text))).map_err(|why| match why {
                RequestError::Passing { why, wait } => RequestError::Passing { why: self.shown(&why), wait },
                RequestError::Lasting(why) => RequestError::Lasting(self.shown(&why)),
            }),
            300..=399 => Err(RequestError::Lasting(
                self.shown(&format!("it sends to {}: name that address", location.unwrap_or_default())),
            )),
            408 | 409 | 425 | 429 | 500 | 502..=504 | 520..=599 if !out_of_quota(&text) => {
                let why = self.shown(&format!("{status}: {}", complaint(&text)));
                match wait {
                    Some(long) if long > PATIENCE => {
                        Err(RequestError::Lasting(format!("{why}; it asks to wait for {} s", long.as_secs())))
                    }
                    wait => Err(RequestError::Passing { why, wait }),
                }
            }
            _ => Err(RequestError::Lasting(self.shown(&format!("{status}: {}", complaint(&text))))),
        }
    }

    /// `text` made safe to show: short, on one line, and without the key.
    fn shown(&self, text: &str) -> String {
        let text = self.key.as_ref().map_or_else(|| text.to_string(), |key| key.hidden_in(text));
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{} …", &line[..at]),
            None => line,
        }
    }
}

/// Parses a successful response, which must have logprobs.
fn read(text: &str) -> Result<Answer, RequestError> {
    let passing = |why: String| RequestError::Passing { why, wait: None };
    let line: String = text.trim().chars().map(|c| if c == '\n' || c == '\r' { ' ' } else { c }).collect();
    let json = Json::object(&line).map_err(|damage| passing(format!("the answer is damaged: {damage}")))?;
    if json.has("error") {
        return Err(passing(complaint(&line)));
    }
    let choice = json.get("choices").and_then(|choices| choices.list("choices").ok()).and_then(|choices| choices.first());
    let Some(choice) = choice else { return Err(passing("the answer has no choices".into())) };
    if !choice.has("logprobs") {
        return Err(RequestError::Lasting(
            "its response has no log-probabilities, which a student needs; use a server that returns them".into(),
        ));
    }
    let count = |key: &str| json.get("usage").and_then(|usage| usage.get(key)).and_then(|count| count.id(key).ok()).unwrap_or(0);
    let usage = Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") };
    Ok(Answer { response: line, usage })
}

/// The error message in a server's JSON, or the whole text if it is not JSON.
fn complaint(text: &str) -> String {
    let json = Json::object(text).ok();
    let said = json.as_ref().and_then(|json| {
        let error = json.get("error").or(json.get("detail")).or(json.get("message"))?;
        error.get("message").unwrap_or(error).text("message").ok().map(str::to_string)
    });
    said.unwrap_or_else(|| text.to_string())
}

/// Whether what is reported as a rate limit will not go away by waiting.
fn out_of_quota(text: &str) -> bool {
    text.contains("insufficient_quota")
}

/// Parses `Retry-After`: seconds, or a date to wait for.
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)));
    }
    httpdate::parse_http_date(text.trim()).ok().map(|date| date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(pause("2", now), Some(Duration::from_secs(2)));
        assert_eq!(pause("0.25", now), Some(Duration::from_millis(250)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("soon", now), None);
    }

    #[test]
    fn errors_quote_the_servers_message() {
        assert_eq!(complaint(r#"{"error": {"message": "no such model", "code": 1}}"#), "no such model");
        assert_eq!(complaint(r#"{"detail": "busy"}"#), "busy");
        assert_eq!(complaint("<html>Bad gateway</html>"), "<html>Bad gateway</html>");
        let without = read(r#"{"choices": [{"text": "a", "logprobs": null}]}"#).unwrap_err();
        assert!(matches!(without, RequestError::Lasting(why) if why.contains("log-probabilities")));
        for broken in ["{\"choices\": [", "[]", "", "{\"choices\": []}", "{\"error\": {\"message\": \"overloaded\"}}"] {
            assert!(matches!(read(broken), Err(RequestError::Passing { .. })), "{broken}");
        }
    }

    #[test]
    fn a_multi_line_response_becomes_one_equivalent_line() {
        let answer =
            read("{\n \"choices\": [{\"logprobs\": {}}],\r\n \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 1}}\n")
                .unwrap();
        assert!(!answer.response.contains('\n'));
        assert_eq!(answer.usage, Usage { prompt_tokens: 7, completion_tokens: 1 });
    }
}
