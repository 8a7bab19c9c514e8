//! The address of an endpoint and how to send requests to it; not part of any identity.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use hydrometer_base::user_error;

/// Default number of concurrent requests.
pub const CONCURRENCY: usize = 4;
/// Default number of retries of a request.
pub const RETRIES: u32 = 8;
/// Default timeout of a request.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// An endpoint, with limits on requests to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The address below which the API's paths are, e.g. `http://localhost:8000/v1`.
    pub url: String,
    /// The environment variable that holds the key; without it none is sent.
    pub key_env: Option<String>,
    pub concurrency: usize,
    pub retries: u32,
    pub timeout: Duration,
    pub price: Option<Price>,
    pub budget: Budget,
}

/// Price per million tokens, in the currency of the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

impl Price {
    /// The cost of this many tokens.
    pub fn of(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.input + completion_tokens as f64 * self.output) / 1e6
    }
}

/// The limit on what all runs may spend together; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Tokens of prompts and responses.
    pub tokens: Option<u64>,
    pub cost: Option<f64>,
}

impl Service {
    /// The endpoint at `url`, without a key and with default limits.
    ///
    /// # Errors
    /// A clause that says what is wrong with `url`.
    pub fn at(url: &str) -> Result<Self, String> {
        let url = url.trim().trim_end_matches('/');
        // Documentation often shows the full address of one of the API's paths.
        let url = url.strip_suffix("/completions").unwrap_or(url);
        let url = url.strip_suffix("/chat").unwrap_or(url).trim_end_matches('/');
        let after = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let host = after.unwrap_or_default().split('/').next().unwrap_or_default();
        if host.is_empty() {
            // The text may be a key or contain one, so it is not repeated.
            return Err("this is not the address of an API, e.g. \"http://localhost:8000/v1\"".into());
        }
        if host.contains('@') {
            return Err(
                "addresses are stored and shown, so they must not contain a password; name a variable with key_env".into()
            );
        }
        if url.contains(['?', '#']) {
            return Err(
                "addresses are stored and shown, and a query would be lost; remove it, and name a key's variable with key_env"
                    .into(),
            );
        }
        Ok(Self {
            url: url.to_string(),
            key_env: None,
            concurrency: CONCURRENCY,
            retries: RETRIES,
            timeout: TIMEOUT,
            price: None,
            budget: Budget::default(),
        })
    }

    /// The key, from the environment only.
    pub fn key(&self) -> Result<Option<Key>> {
        let Some(name) = &self.key_env else { return Ok(None) };
        if !is_name(name) {
            return Err(user_error!("key_env is the name of an environment variable, e.g. OPENAI_API_KEY, not the key itself"));
        }
        let key = std::env::var(name).ok().map(|key| key.trim().to_string()).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| user_error!("the environment variable {name}, named by key_env, is not set; export it"))?;
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(user_error!("the key in {name} has characters that are not allowed in an HTTP header"));
        }
        if self.url.starts_with("http://") && !self.is_local() {
            let url = &self.url;
            return Err(user_error!("the key in {name} would be sent unencrypted to {url}; use https, or leave key_env out"));
        }
        Ok(Some(Key(key)))
    }

    /// Whether requests stay on this machine.
    pub fn is_local(&self) -> bool {
        let host = self.url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
        let name =
            if host.starts_with('[') { host.split(']').next().unwrap_or(host) } else { host.split(':').next().unwrap_or(host) };
        name == "localhost" || name == "[::1" || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
    }
}

/// Whether `text` can be the name of an environment variable.
fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A secret, which is never written to a message, log or file.
#[derive(Clone, PartialEq)]
pub struct Key(String);

impl Key {
    /// The value of the authorization header, its only use.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key, which some servers repeat in error messages.
    pub fn hidden_in(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Key([key])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_forms_of_an_address_are_accepted_and_passwords_in_it_are_refused() {
        let url = |text: &str| Service::at(text).map(|service| service.url);
        assert_eq!(url("http://localhost:8000/v1/"), Ok("http://localhost:8000/v1".into()));
        assert_eq!(url("https://api.example.com/v1/chat/completions"), Ok("https://api.example.com/v1".into()));
        assert_eq!(url("https://api.example.com/v1/completions"), Ok("https://api.example.com/v1".into()));
        for wrong in ["", "localhost:8000", "http://", "https://me:secret@host/v1", "https://host/v1?key=1"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        for hidden in ["https://me:secret@host/v1", "https://host/v1?key=secret", "me:secret@host"] {
            assert!(!url(hidden).unwrap_err().contains("secret"), "{hidden}");
        }
    }

    #[test]
    fn a_key_comes_from_the_environment_and_is_never_shown_nor_sent_unencrypted() {
        let name = "HYDROMETER_TEST_KEY_OF_SERVICE";
        let with = |url: &str| Service { key_env: Some(name.into()), ..Service::at(url).unwrap() };
        assert!(with("http://localhost/v1").key().unwrap_err().to_string().contains(name));
        let key = Key("sk-123".into());
        assert_eq!(format!("{key:?} {}", key.hidden_in("bad key sk-123.")), "Key([key]) bad key [key].");
        let pasted = Service { key_env: Some("sk-123".into()), ..with("http://localhost/v1") };
        assert!(!pasted.key().unwrap_err().to_string().contains("sk-123"));
        for (url, local) in [
            ("http://127.0.0.1:80/v1", true),
            ("http://[::1]:80/v1", true),
            ("http://10.0.0.1/v1", false),
            ("http://127.evil.example/v1", false),
        ] {
            assert_eq!(Service::at(url).unwrap().is_local(), local, "{url}");
        }
    }
}
