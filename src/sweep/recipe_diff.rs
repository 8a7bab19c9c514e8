//! Compares recipes field by field, to show why two runs are different runs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::{folders_in, read_if_there};
use serde::Serialize;
use serde_json::Value;

/// A field whose values differ; `None` on a side that does not have the field.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// As a path in the recipe: `optimizer.lr`, `teacher.trained.tokens`.
    pub field: String,
    pub mine: Option<Value>,
    pub theirs: Option<Value>,
}

/// The recipes of the training runs under `runs`, by run id. They are read as untyped JSON, so that those of older versions can
/// be compared too.
pub fn recipes(runs: &Path) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    // Links are skipped: they are aliases of other runs.
    for (name, folder) in folders_in(runs, false)? {
        let path = folder.join("job.json");
        let Some(text) = read_if_there(&path)? else { continue };
        match serde_json::from_slice::<Value>(&text) {
            Ok(mut job) => drop(job.pointer_mut("/work/train/recipe").map(Value::take).map(|recipe| all.insert(name, recipe))),
            Err(error) => tracing::warn!("{} is damaged and ignored: {error}", path.display()),
        }
    }
    Ok(all)
}

/// The stored run other than `run` that differs from `recipe` in the fewest fields; of several, the first by name.
pub fn nearest<'a>(run: &str, recipe: &Value, stored: &'a BTreeMap<String, Value>) -> Option<(&'a str, Vec<Difference>)> {
    let others = stored.iter().filter(|(name, _)| name.as_str() != run);
    others.map(|(name, theirs)| (name.as_str(), differences(recipe, theirs))).min_by_key(|(_, found)| found.len())
}

/// The fields in which two recipes differ, in order of their paths.
pub fn differences(mine: &Value, theirs: &Value) -> Vec<Difference> {
    let (mut left, mut right) = (BTreeMap::new(), BTreeMap::new());
    flatten(mine, String::new(), &mut left);
    flatten(theirs, String::new(), &mut right);
    let fields: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    fields
        .into_iter()
        .filter(|field| left.get(*field) != right.get(*field))
        .map(|field| Difference {
            field: field.clone(),
            mine: left.get(field).map(|value| (*value).clone()),
            theirs: right.get(field).map(|value| (*value).clone()),
        })
        .collect()
}

fn flatten<'a>(value: &'a Value, path: String, into: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(inner, path, into);
            }
        }
        // If only one side has a teacher, its fields are listed, not the null of the other side.
        Value::Null => {}
        _ => drop(into.insert(path, value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_nearest_run_differs_in_the_fewest_fields() {
        let mine = json!({ "tokens": 100, "optimizer": { "lr": 0.1, "clip": 1.0 }, "teacher": null });
        let near = json!({ "tokens": 100, "optimizer": { "lr": 0.2, "clip": 1.0 } });
        let far = json!({ "tokens": 200, "optimizer": { "lr": 0.2, "clip": 1.0 }, "teacher": { "top_k": 20 } });
        let stored =
            BTreeMap::from([("far".to_string(), far.clone()), ("mine".to_string(), mine.clone()), ("near".to_string(), near)]);
        let (run, found) = nearest("mine", &mine, &stored).unwrap();
        let lr = Difference { field: "optimizer.lr".into(), mine: Some(json!(0.1)), theirs: Some(json!(0.2)) };
        assert_eq!((run, found), ("near", vec![lr]));
        let fields: Vec<String> = differences(&mine, &far).into_iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["optimizer.lr", "teacher.top_k", "tokens"]);
        assert!(nearest("mine", &mine, &BTreeMap::from([("mine".to_string(), mine.clone())])).is_none());
    }
}
