//! Settings by name, of a run or of a table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::Result;
use hydrometer_base::user_error;

use super::{Key, Place, Value, all, keys_of, value};
use crate::experiment::source::{Setting, SourceSpan};

/// Settings by name; later ones override earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Settings(pub BTreeMap<String, Setting>);

impl FromIterator<(String, Setting)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, Setting)>>(settings: I) -> Self {
        Self(settings.into_iter().collect())
    }
}

/// Every parsed default by its text, which several keys may share.
static DEFAULTS: LazyLock<BTreeMap<&'static str, Setting>> = LazyLock::new(|| {
    let written = all().filter_map(|key| key.default);
    let read = |text: &'static str| {
        let value = text.parse().unwrap_or_else(|error| panic!("default {text}: {error}"));
        (text, Setting { value, at: SourceSpan("default".into()) })
    };
    written.map(read).collect()
});

impl Settings {
    pub fn overlay(&mut self, more: impl IntoIterator<Item = (String, Setting)>) {
        self.0.extend(more);
    }

    /// The setting of `key`, without its default.
    pub fn get(&self, key: &Key) -> Option<&Setting> {
        self.0.get(key.name)
    }

    pub fn required(&self, key: &Key, of: &SourceSpan) -> Result<&Setting> {
        self.get(key).ok_or_else(|| user_error!("{}: {} is missing; set it in [base]", of.0, key.name))
    }

    /// Where `key` was written, or `otherwise`.
    pub fn place<'a>(&'a self, key: &Key, otherwise: &'a SourceSpan) -> &'a SourceSpan {
        self.get(key).map_or(otherwise, |setting| &setting.at)
    }

    /// The setting of `key`, or its default. Panics if it has neither.
    pub fn or_default(&self, key: &Key) -> &Setting {
        self.get(key).unwrap_or_else(|| &DEFAULTS[key.default.unwrap_or_else(|| panic!("{} has no default", key.name))])
    }

    pub fn number(&self, key: &Key) -> Result<f64> {
        key.number(self.or_default(key))
    }

    pub fn whole(&self, key: &Key) -> Result<u64> {
        key.whole(self.or_default(key))
    }

    pub fn tokens(&self, key: &Key) -> Result<u64> {
        key.tokens(self.or_default(key))
    }

    pub fn flag(&self, key: &Key) -> Result<bool> {
        key.flag(self.or_default(key))
    }

    pub fn choice<T>(&self, key: &Key, named: impl Fn(&str) -> Option<T>) -> Result<T> {
        key.choice(self.or_default(key), named)
    }

    pub fn held_out_split(&self, key: &Key) -> Result<&str> {
        key.held_out_split(self.or_default(key))
    }

    pub fn seeds(&self, key: &Key) -> Result<Vec<u64>> {
        value::seeds(self.or_default(key))
    }

    /// The text of a key without a default, if it is set.
    pub fn text(&self, key: &Key) -> Result<Option<&str>> {
        self.get(key).map(|setting| key.text(setting)).transpose()
    }

    /// The table under `key`; empty if there is none.
    pub fn fields(&self, key: &Key) -> Result<Settings> {
        let Value::Fields(place) = key.value else { unreachable!("{} is no table", key.name) };
        let fields = self.get(key).map(|setting| key.fields(place, setting)).transpose()?;
        Ok(fields.into_iter().flatten().collect())
    }

    /// An error if a setting does not apply to `objective`.
    pub fn check_objective(&self, objective: &str) -> Result<()> {
        let stray = keys_of(Place::Base).filter(|key| !key.objectives.include(objective));
        match stray.filter_map(|key| Some((key, self.get(key)?))).next() {
            Some((key, setting)) => Err(user_error!("{} does not apply to {objective}; remove it", setting.subject(key.name))),
            None => Ok(()),
        }
    }
}
