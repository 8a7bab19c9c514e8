//! The text of generated ids.

use anyhow::Result;
use hydrometer_data::tokenizer;
use tokenizers::Tokenizer;

/// Number of prompt tokens that are decoded together with what follows them.
const BEFORE: usize = 8;

/// The text that `ids` add to a prompt, without special tokens. Some tokenizers drop the space before the first token of a text, so
/// the end of the prompt is decoded with it.
pub fn continuation(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32]) -> Result<String> {
    let before = &prompt[prompt.len().saturating_sub(BEFORE)..];
    let start = tokenizer::decode(tokenizer, before, true)?;
    let whole = tokenizer::decode(tokenizer, &[before, ids].concat(), true)?;
    match whole.strip_prefix(&start) {
        Some(rest) => Ok(rest.to_string()),
        // A character that the prompt begins and the ids complete.
        None => tokenizer::decode(tokenizer, ids, true),
    }
}

/// Where the first of `stops` begins in `text`.
pub fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter_map(|stop| text.find(stop.as_str())).min()
}
