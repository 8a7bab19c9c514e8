//! `{"src", "tgt"}` and `{"prompt", "completion"}`: the loss is on the target alone.

use crate::damage::Damage;
use crate::example::{Example, Piece};
use crate::json::Json;

pub fn parse(json: &Json, source: &str, target: &str, example: &mut Example) -> Result<(), Damage> {
    let text = |key: &str| json.need(key)?.text(key).map(|text| Piece::Text(text.trim_end_matches(' ').to_string()));
    example.source = Some(text(source)?);
    example.target = Some(text(target)?);
    Ok(())
}
