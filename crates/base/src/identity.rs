//! The identity of a recipe: a short hash of everything in it.

use serde::Serialize;

use crate::fs::sha256_hex;

/// The first 8 hex digits of the SHA-256 of `recipe` as JSON with sorted keys. The same on every machine.
pub fn identity(recipe: &impl Serialize) -> String {
    let value = serde_json::to_value(recipe).expect("recipes are plain data");
    // serde_json's maps are sorted unless its `preserve_order` feature is on; a test checks that it is off.
    sha256_hex(value.to_string().as_bytes())[..8].to_string()
}
