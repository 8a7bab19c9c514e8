//! What a recipe is known by: a short hash of all that it says.

use serde::Serialize;

use crate::fs::sha256_hex;

/// The first 8 hex digits of the SHA-256 of `recipe` as JSON with sorted keys: equal on every machine.
pub fn identity(recipe: &impl Serialize) -> String {
    let value = serde_json::to_value(recipe).expect("recipes are plain data");
    // serde_json's maps are sorted unless its `preserve_order` feature is on, which a test watches.
    sha256_hex(value.to_string().as_bytes())[..8].to_string()
}
