//! An axis of a sweep: the values of a key, or of several keys that change together.

use std::collections::BTreeSet;

use anyhow::Result;
use hydrometer_base::text::shown;
use hydrometer_base::user_error;
use toml_edit::Item;

use super::keys::{self, Place};
use super::source::{Setting, Source, SourceSpan};

/// The settings that one point of an axis gives a run, with their keys.
pub type Values = Vec<(String, Setting)>;

/// An axis as written.
#[derive(Clone, Debug)]
pub struct Axis {
    keys: Vec<(String, SourceSpan)>,
    /// Each point has one value per key.
    points: Vec<Vec<Setting>>,
}

impl Axis {
    /// The axes of `grid = { key = [values], ... }`: one per key.
    pub fn grid(source: &Source, item: &Item, within: &str) -> Result<Vec<Self>> {
        let axes = lists(source, item, within, "grid")?;
        axes.into_iter()
            .map(|(key, at, values)| {
                let axis = Self { keys: vec![(key, at)], points: values.into_iter().map(|value| vec![value]).collect() };
                axis.distinct()
            })
            .collect()
    }

    /// The axis of `zip = { key = [values], ... }`: its points take the first value of every list, the second, and so on.
    pub fn zip(source: &Source, item: &Item, within: &str) -> Result<Option<Self>> {
        let lists = lists(source, item, within, "zip")?;
        let Some((first, _, values)) = lists.first() else { return Ok(None) };
        let length = values.len();
        if let Some((key, at, values)) = lists.iter().find(|(.., values)| values.len() != length) {
            let (at, found) = (&at.0, values.len());
            return Err(user_error!(
                "{at}: {key} lists {found} values but {first} lists {length}; zip needs lists of equal length"
            ));
        }
        let points = (0..length).map(|index| lists.iter().map(|(.., values)| values[index].clone()).collect()).collect();
        let keys = lists.iter().map(|(key, at, _)| (key.clone(), at.clone())).collect();
        Self { keys, points }.distinct().map(Some)
    }

    pub fn keys(&self) -> &[(String, SourceSpan)] {
        &self.keys
    }

    /// The distinct points of the axis, restricted to the keys that apply to an arm. Empty if none applies.
    pub fn choices(&self, applies: impl Fn(&str) -> bool) -> Vec<Values> {
        let mut seen = BTreeSet::new();
        let choice = |point: &Vec<Setting>| -> Values {
            let pairs = self.keys.iter().zip(point).filter(|((key, _), _)| applies(key));
            pairs.map(|((key, _), value)| (key.clone(), value.clone())).collect()
        };
        self.points.iter().map(choice).filter(|values| !values.is_empty() && seen.insert(canonical(values))).collect()
    }

    /// An error if a point is listed twice.
    fn distinct(self) -> Result<Self> {
        let mut seen = BTreeSet::new();
        for point in &self.points {
            let read: Vec<String> = self.keys.iter().zip(point).map(|((key, _), value)| keys::canonical(key, value)).collect();
            if !seen.insert(read) {
                let names: Vec<&str> = self.keys.iter().map(|(key, _)| key.as_str()).collect();
                let values: Vec<String> = point.iter().map(|value| shown(&value.display())).collect();
                let (at, lists) = (&self.keys[0].1.0, if names.len() == 1 { "lists" } else { "list" });
                return Err(user_error!("{at}: {} {lists} {} twice", names.join(" and "), values.join(" with ")));
            }
        }
        Ok(self)
    }
}

/// `values` in canonical form: equal values give equal strings.
pub fn canonical(values: &[(String, Setting)]) -> Vec<String> {
    values.iter().map(|(key, value)| format!("{key}={}", keys::canonical(key, value))).collect()
}

fn lists(source: &Source, item: &Item, within: &str, what: &str) -> Result<Vec<(String, SourceSpan, Vec<Setting>)>> {
    let place = || source.place(item.span()).0;
    let table = item.as_table_like().ok_or_else(|| user_error!("{}: {what} must be a table {{ key = [values] }}", place()))?;
    let mut all = Vec::new();
    for (key, setting) in source.settings(table)? {
        let at = setting.at.clone();
        if keys::find(Place::Base, &key).is_none() {
            return Err(user_error!("{}: {}", at.0, keys::unknown_in(Place::Base, &key, &format!("{within}.{what}"))));
        }
        let Some(known) = keys::find(Place::Axis, &key) else {
            return Err(user_error!("{}: {key} cannot be swept in the {what}; set it in [base] or in a method", at.0));
        };
        let values = setting.value.as_array().filter(|array| !array.is_empty()).ok_or_else(|| {
            let (example, found) = (known.example, setting.found());
            user_error!("{}: {key} must be a list of values, e.g. {key} = {example}, not {found}", at.0)
        })?;
        let values: Vec<Setting> = values.iter().map(|value| Setting { value: value.clone(), at: at.clone() }).collect();
        for value in &values {
            known.check(value)?;
        }
        all.push((key, at, values));
    }
    Ok(all)
}
