//! The description of a teacher cache that `teach` prints.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::units::quantity;
use hydrometer_data::line_error::Tally;
use hydrometer_data::tokens::TokenizedSplit;
use serde_json::{Value, json};

use super::data_flags::{counts, with};
use super::{Output, terminal};
use crate::teacher::cache::Cache;
use crate::teacher::inspect::{Inspection, inspect};
use crate::teacher::manifest::CacheManifest;
use crate::{note, say};

/// Prints what the cache in `folder` contains for a split, and the lines of the data that were left out.
pub fn describe(
    folder: &Path,
    title: &CacheManifest,
    (split, tally): (&TokenizedSplit, &Tally),
    context: usize,
    output: Output,
) -> Result<()> {
    if let Some(words) = tally.words() {
        note!("{words}");
    }
    let cache = Cache::open(folder, title)?;
    let mut found = Inspection { bytes: cache.bytes, ..Inspection::default() };
    inspect(&cache, split, context, &mut found)?;
    found.bytes_per_token = cache.bytes as f64 / cache.targets().max(1) as f64;
    show(&found, title, folder, counts(tally), output)
}

/// Prints `found`; JSON output also has the fields of `read`, which describe the data.
pub fn show(found: &Inspection, title: &CacheManifest, folder: &Path, read: Value, output: Output) -> Result<()> {
    if output == Output::Json {
        let mut value = with(serde_json::to_value(found)?, read);
        value["title"] = serde_json::to_value(title)?;
        value["cache"] = json!(folder);
        terminal::json(&value);
        return Ok(());
    }
    let Inspection { sequences, tokens, bytes, bytes_per_token, retained_mass, agreement } = found;
    say!("{}: {} of teacher {} over {} ids", folder.display(), title.kept.words(), title.teacher, title.vocab_size);
    say!("{tokens} tokens in {sequences} sequences, {}B: {bytes_per_token:.1} bytes per token", quantity(*bytes as f64));
    for (k, mass) in retained_mass {
        say!("retained mass of the top {k:>3}: {mass:.4}");
    }
    if let Some(agreement) = agreement {
        let percent = |share: f64| 100.0 * share;
        say!(
            "a second pass over {} tokens: top-1 ids {:.3}% equal, stored ids {:.3}% equal, log-probabilities within {:.1e}, lse within {:.1e}",
            agreement.tokens,
            percent(agreement.top_1),
            percent(agreement.ids),
            agreement.worst_logprob,
            agreement.worst_lse,
        );
        if title.kept.draws > 0 {
            say!("draws: {:.3}% equal", percent(agreement.draws));
        }
    }
    Ok(())
}
