//! A request to an endpoint, and the key under which its response is found again.

use hydrometer_base::fs::sha256_hex;
use serde_json::{Map, Value, json};

/// A request to be answered once.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiRequest {
    /// A name for people.
    pub id: String,
    /// Path below the endpoint's address.
    pub path: &'static str,
    /// The body of the request, without the number of ids.
    asked: Map<String, Value>,
    /// Number of ids wanted per token.
    pub k: usize,
    /// Number of prompt tokens, by the student's tokenizer or estimated.
    pub prompt_tokens: u64,
    /// Maximum number of generated tokens.
    pub max_tokens: u64,
}

/// How text is generated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    pub max_tokens: u64,
    pub temperature: f64,
    pub seed: Option<u64>,
}

impl ApiRequest {
    /// Has `model` score `prompt`, a text or a list of token ids: `echo` with logprobs. One token is generated and ignored,
    /// because some servers take 0 to mean no limit.
    pub fn score(id: String, model: &str, prompt: Value, prompt_tokens: u64, k: usize) -> Self {
        let asked = json!({ "model": model, "prompt": prompt, "echo": true, "max_tokens": 1, "temperature": 0 });
        Self::new(id, "completions", asked, k, prompt_tokens, 1)
    }

    /// Has `model` continue `prompt`, a text or a list of token ids.
    pub fn complete(id: String, model: &str, prompt: Value, prompt_tokens: u64, k: usize, how: Generation) -> Self {
        let asked = json!({ "model": model, "prompt": prompt });
        Self::new(id, "completions", generated(asked, how), k, prompt_tokens, how.max_tokens)
    }

    /// Has `model` answer `prompt` as a user message, after a system message if there is one.
    pub fn chat(
        id: String,
        model: &str,
        system: Option<&str>,
        prompt: &str,
        prompt_tokens: u64,
        k: usize,
        how: Generation,
    ) -> Self {
        let system = system.map(|content| json!({ "role": "system", "content": content }));
        let messages: Vec<Value> = system.into_iter().chain([json!({ "role": "user", "content": prompt })]).collect();
        let asked = json!({ "model": model, "messages": messages });
        Self::new(id, "chat/completions", generated(asked, how), k, prompt_tokens, how.max_tokens)
    }

    fn new(id: String, path: &'static str, asked: Value, k: usize, prompt_tokens: u64, max_tokens: u64) -> Self {
        let Value::Object(asked) = asked else { unreachable!("a request is an object") };
        Self { id, path, asked, k, prompt_tokens, max_tokens }
    }

    /// The body of the request.
    pub fn body(&self) -> Value {
        let mut body = self.asked.clone();
        if self.path.starts_with("chat") {
            body.extend([("logprobs".into(), json!(true)), ("top_logprobs".into(), json!(self.k))]);
        } else {
            body.insert("logprobs".into(), json!(self.k));
        }
        Value::Object(body)
    }

    /// The key of the request. It does not depend on the number of ids: a response with more ids is as good.
    pub fn key(&self) -> String {
        sha256_hex(format!("{} {}", self.path, Value::Object(self.asked.clone())).as_bytes())[..32].to_string()
    }

    /// Maximum number of tokens charged.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.max_tokens
    }
}

fn generated(mut asked: Value, how: Generation) -> Value {
    asked["max_tokens"] = json!(how.max_tokens);
    asked["temperature"] = json!(how.temperature);
    if let Some(seed) = how.seed {
        asked["seed"] = json!(seed);
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_key_ignores_the_number_of_ids_but_nothing_else() {
        let ask = |prompt: &str, k| ApiRequest::score("1".into(), "m", json!(prompt), 3, k);
        assert_eq!(ask("a", 5).key(), ask("a", 20).key());
        assert_ne!(ask("a", 5).key(), ask("b", 5).key());
        let how = Generation { max_tokens: 5, temperature: 1.0, seed: None };
        let complete = ApiRequest::complete("1".into(), "m", json!("a"), 3, 5, how);
        assert_ne!(complete.key(), ask("a", 5).key());
        assert_ne!(complete.key(), ApiRequest::chat("1".into(), "m", None, "a", 3, 5, how).key());
        assert_eq!(complete.body()["logprobs"], 5);
    }
}
