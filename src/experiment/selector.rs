//! Tables that select runs: `{ method = "soft-ce", tokens = ["100k", "1M"] }` matches the runs that agree in every key; a list
//! matches any of its values.

use anyhow::Result;
use hydrometer_base::suggest::{unknown, unknown_key};
use hydrometer_base::text::shown;
use hydrometer_base::user_error;
use toml_edit::TableLike;

use super::keys::{self, Place};
use super::source::{Setting, Source, SourceSpan};

const METHOD: &str = "method";

/// A condition on the method and the settings of a run. An empty one matches every run.
#[derive(Clone, Debug)]
pub struct Selector {
    keys: Vec<(String, Vec<Setting>)>,
    pub at: SourceSpan,
}

impl Selector {
    /// Reads `table` without the keys in `others`, which have another meaning there. An error for an unknown key or a bad value.
    pub fn read(source: &Source, table: &dyn TableLike, at: SourceSpan, within: &str, others: &[&str]) -> Result<Self> {
        let mut keys = Vec::new();
        for (key, setting) in source.settings(table)?.into_iter().filter(|(key, _)| !others.contains(&key.as_str())) {
            let known = keys::find(Place::Selector, &key);
            if key != METHOD && known.is_none() {
                let known: Vec<&str> =
                    std::iter::once(METHOD).chain(others.iter().copied()).chain(keys::names(Place::Base)).collect();
                return Err(user_error!("{}: {}", setting.at.0, unknown_key(&key, within, &known)));
            }
            let values = match setting.value.as_array() {
                Some(array) => array.iter().map(|value| Setting { value: value.clone(), at: setting.at.clone() }).collect(),
                None => vec![setting],
            };
            for value in &values {
                match known {
                    None => drop(value.text(METHOD)?),
                    Some(known) => known.check(value)?,
                }
            }
            keys.push((key, values));
        }
        Ok(Self { keys, at })
    }

    /// The conjunction of both. If both have a key, that of `self` counts.
    pub fn and(&self, other: &Self) -> Self {
        let new = other.keys.iter().filter(|(key, _)| self.keys.iter().all(|(mine, _)| mine != key));
        Self { keys: self.keys.iter().chain(new).cloned().collect(), at: self.at.clone() }
    }

    /// An error if a method is not in `known`.
    pub fn check_methods(&self, known: &[&str]) -> Result<()> {
        for value in self.keys.iter().filter(|(key, _)| key == METHOD).flat_map(|(_, values)| values) {
            let name = value.text(METHOD)?;
            if !known.contains(&name) {
                return Err(user_error!("{}: {}", value.at.0, unknown(METHOD, name, known)));
            }
        }
        Ok(())
    }

    /// Whether a run of `method` matches, whose settings `value` returns. A key without a setting matches nothing.
    pub fn matches<'a>(&self, method: &str, value: impl Fn(&str) -> Option<&'a Setting>) -> bool {
        self.keys.iter().all(|(key, wanted)| match key.as_str() {
            METHOD => wanted.iter().any(|name| name.value.as_str() == Some(method)),
            _ => value(key).is_some_and(|found| {
                let found = keys::canonical(key, found);
                wanted.iter().any(|wanted| keys::canonical(key, wanted) == found)
            }),
        })
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        for (index, (key, values)) in self.keys.iter().enumerate() {
            let values: Vec<String> = values.iter().map(|value| shown(&value.display())).collect();
            write!(f, "{}{key} = {}", if index == 0 { "" } else { ", " }, values.join(" or "))?;
        }
        Ok(())
    }
}
