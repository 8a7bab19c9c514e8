//! Where an endpoint is and how it may be asked; no part of any identity.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use hydrometer_base::user_error;

/// Requests at a time, where nothing else is asked for.
pub const CONCURRENCY: usize = 4;
/// Tries of a request after the first.
pub const RETRIES: u32 = 8;
/// Longest wait for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// An endpoint and the manners to ask it with.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What `/completions` is put after, e.g. `http://localhost:8000/v1`.
    pub url: String,
    /// The environment variable that holds the key; without it none is sent.
    pub key_env: Option<String>,
    pub concurrency: usize,
    pub retries: u32,
    pub timeout: Duration,
    pub price: Option<Price>,
    pub budget: Budget,
}

/// Per million tokens, in whatever currency the budget is in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

impl Price {
    pub fn of(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.input + completion_tokens as f64 * self.output) / 1e6
    }
}

/// What may be spent in all, by every run that has asked; nothing bounds it where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Of prompts and answers.
    pub tokens: Option<u64>,
    pub cost: Option<f64>,
}

impl Service {
    /// The endpoint at `url`, without a key, asked in the usual manner.
    ///
    /// # Errors
    /// Says as a clause what is wrong with `url`.
    pub fn at(url: &str) -> Result<Self, String> {
        let url = url.trim().trim_end_matches('/');
        // What documentation shows is the whole address of one of its paths.
        let url = url.strip_suffix("/completions").unwrap_or(url);
        let url = url.strip_suffix("/chat").unwrap_or(url).trim_end_matches('/');
        let after = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let host = after.unwrap_or_default().split('/').next().unwrap_or_default();
        if host.is_empty() {
            // It may be a key or hold one: it is not repeated.
            return Err("this is no address of an API, e.g. \"http://localhost:8000/v1\"".into());
        }
        if host.contains('@') {
            return Err("an address is stored and shown, so no password may stand in it; name a variable with key_env".into());
        }
        if url.contains(['?', '#']) {
            return Err("an address is stored and shown, and its query would be lost; leave it out, and name a key's variable with key_env".into());
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

    /// The key, from the environment and from nowhere else.
    pub fn key(&self) -> Result<Option<Key>> {
        let Some(name) = &self.key_env else { return Ok(None) };
        if !is_name(name) {
            return Err(user_error!("key_env is the name of an environment variable, e.g. OPENAI_API_KEY, not the key itself"));
        }
        let key = std::env::var(name).ok().map(|key| key.trim().to_string()).filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| user_error!("the environment has no {name}, in which key_env says the key is; export it"))?;
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(user_error!("the key in {name} has characters that no request can carry"));
        }
        if self.url.starts_with("http://") && !self.is_local() {
            let url = &self.url;
            return Err(user_error!("the key in {name} would travel in the open to {url}; use https, or leave key_env out"));
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

/// Whether `text` can be the name of a variable.
fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A secret: it is in no message, log or file.
#[derive(Clone, PartialEq)]
pub struct Key(String);

impl Key {
    /// For the header of a request alone.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the key, which some servers repeat in what they complain of.
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
    fn an_address_is_taken_as_people_paste_it_and_never_with_a_password() {
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
    fn a_key_comes_from_the_environment_and_is_never_shown_nor_sent_in_the_open() {
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
