//! `{"src", "tgt"}` and `{"prompt", "completion"}`: only the target is learned.

use crate::example::{Example, Segment};
use crate::json::Json;
use crate::line_error::LineError;

pub fn parse(json: &Json, source: &str, target: &str, example: &mut Example) -> Result<(), LineError> {
    let text = |key: &str| json.need(key)?.text(key).map(|text| Segment::Text(text.trim_end_matches(' ').to_string()));
    example.source = Some(text(source)?);
    example.target = Some(text(target)?);
    Ok(())
}
