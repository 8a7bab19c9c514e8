//! One request, and what its failure means.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use hydrometer_data::json::Json;

use super::request::ApiRequest;
use super::service::{Key, Service};

/// Bytes of an answer, at most.
const ANSWER_MAX: u64 = 256 << 20;
/// A longer pause than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(900);
/// Characters that are shown of what a server says.
const SHOWN: usize = 200;

pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<Key>,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// A JSON object on one line.
    pub response: String,
    pub usage: Usage,
}

impl Answer {
    /// With the most that `question` may cost, where the server does not say what it charges for: a budget must see it.
    pub fn charged_for(mut self, question: &ApiRequest) -> Self {
        if self.usage == Usage::default() {
            self.usage = Usage { prompt_tokens: question.prompt_tokens, completion_tokens: question.max_tokens };
        }
        self
    }
}

/// Tokens that were charged, as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestError {
    /// May pass: worth another try, after `wait` where the server says so.
    Passing { why: String, wait: Option<Duration> },
    /// Will not: the request or the key is wrong.
    Lasting(String),
}

impl Client {
    pub fn open(service: &Service) -> Result<Self> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A key is for the server that was named, and for no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(service.timeout))
            .timeout_connect(Some(service.timeout.min(Duration::from_secs(20))))
            .max_idle_connections_per_host(service.concurrency)
            // What stays on this machine goes through nobody's hands.
            .proxy(if service.is_local() { None } else { ureq::Proxy::try_from_env() })
            .user_agent(concat!("hydrometer/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), url: service.url.clone(), key: service.key()? })
    }

    /// Asks once.
    pub fn ask(&self, question: &ApiRequest) -> Result<Answer, RequestError> {
        let passing = |why: String| RequestError::Passing { why: self.shown(&why), wait: None };
        let body = question.body().to_string();
        let mut request = self.agent.post(format!("{}/{}", self.url, question.path)).content_type("application/json");
        // Of a request that is sent again, its answer lost on the way, a server that minds this charges once.
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

    /// `text` as it may be shown: short, on a line, and without the key.
    fn shown(&self, text: &str) -> String {
        let text = self.key.as_ref().map_or_else(|| text.to_string(), |key| key.hidden_in(text));
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{} …", &line[..at]),
            None => line,
        }
    }
}

/// An answer with log-probabilities, of a request that succeeded.
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
            "it answers without log-probabilities, which teach; ask its owner for a server that has them".into(),
        ));
    }
    let count = |key: &str| json.get("usage").and_then(|usage| usage.get(key)).and_then(|count| count.id(key).ok()).unwrap_or(0);
    let usage = Usage { prompt_tokens: count("prompt_tokens"), completion_tokens: count("completion_tokens") };
    Ok(Answer { response: line, usage })
}

/// What a server complains of: the message within its JSON, or all of what is none.
fn complaint(text: &str) -> String {
    let json = Json::object(text).ok();
    let said = json.as_ref().and_then(|json| {
        let error = json.get("error").or(json.get("detail")).or(json.get("message"))?;
        error.get("message").unwrap_or(error).text("message").ok().map(str::to_string)
    });
    said.unwrap_or_else(|| text.to_string())
}

/// Whether what is called a rate limit will not pass by waiting.
fn out_of_quota(text: &str) -> bool {
    text.contains("insufficient_quota")
}

/// `Retry-After`: seconds, or the date to wait for.
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
    fn a_pause_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(pause("2", now), Some(Duration::from_secs(2)));
        assert_eq!(pause("0.25", now), Some(Duration::from_millis(250)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("soon", now), None);
    }

    #[test]
    fn what_a_server_says_is_told_in_its_words() {
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
    fn an_answer_of_several_lines_becomes_one_and_says_the_same() {
        let answer =
            read("{\n \"choices\": [{\"logprobs\": {}}],\r\n \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 1}}\n")
                .unwrap();
        assert!(!answer.response.contains('\n'));
        assert_eq!(answer.usage, Usage { prompt_tokens: 7, completion_tokens: 1 });
    }
}
