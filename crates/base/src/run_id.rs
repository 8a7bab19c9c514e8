//! The id of a run, which is the name of its folder: what people call it, a dash, and the hash of its recipe.

use std::fmt;
use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fs::file_name;
use crate::identity::identity;

/// Hex digits of the hash.
const HASH_DIGITS: usize = 8;

/// The id of a run, or of what else has a folder under the runs: `soft-ce-top_k20-s1-0123abcd`. What comes before the hash may be
/// renamed; the hash is what the run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The id of the run that is called `name` and does `recipe`.
    pub fn new(name: &str, recipe: &impl Serialize) -> Self {
        Self::hashed(name, &identity(recipe))
    }

    /// The same where the hash is known.
    pub fn hashed(name: &str, hash: &str) -> Self {
        Self(file_name(&format!("{name}-{hash}")))
    }

    /// The id of the run in `folder`.
    pub fn of_folder(folder: &Path) -> Self {
        Self(folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash of its recipe; `None` for a name that ends in none.
    pub fn hash(&self) -> Option<&str> {
        hash_of(&self.0)
    }
}

/// The hash at the end of a run's id.
pub fn hash_of(run: &str) -> Option<&str> {
    let (_, hash) = run.rsplit_once('-')?;
    (hash.len() == HASH_DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
}

/// What a run is, whatever it is called: its hash, or its whole name where that ends in none.
pub fn recipe_of(run: &str) -> &str {
    hash_of(run).unwrap_or(run)
}

impl Deref for RunId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for RunId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<String> for RunId {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the recipe's hash. One name is too long for a folder.
    #[test]
    fn an_id_ends_in_the_hash_of_its_recipe_under_any_name() {
        let hash = identity(&"recipe");
        for name in ["soft-ce-s1", "a/b", &"x".repeat(1000)] {
            let id = RunId::new(name, &"recipe");
            assert_eq!((id.hash(), recipe_of(&id)), (Some(hash.as_str()), hash.as_str()));
            assert_eq!(serde_json::to_value(&id).unwrap(), id.as_str());
        }
        for other in ["lost", "a-0123abc", "a-0123abcg", "0123abcd"] {
            assert_eq!((hash_of(other), recipe_of(other)), (None, other));
        }
    }
}
