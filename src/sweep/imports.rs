//! The `imports` frame: the outcome of every import of data and of recorded logprobs.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::run_id::{RunId, recipe_of};
use hydrometer_data::import::Import;
use hydrometer_data::recipe::DataFiles;
use hydrometer_record::frames::{IMPORTS, read_frame};
use hydrometer_record::imports::ImportRow;
use polars::prelude::DataFrame;

use super::job::{data_sets, recording_place};
use crate::experiment::Experiment;
use crate::teacher::imported;

/// The frame of all imports of `experiment` under `runs`. An import that is no longer there keeps the row that it has in
/// `results`.
pub fn frame(experiment: &Experiment, runs: &Path, results: &Path) -> Result<DataFrame> {
    let mut rows = Vec::new();
    for (data, recipe, files, splits) in data_sets(experiment, runs) {
        for split in splits {
            if let Some(import) = Import::read(&data.join(format!("{split}.import.json"))) {
                let hash = folder_hash(&data);
                let format = recipe.data.examples.as_ref().map_or(files.format, |examples| examples.format);
                rows.push(row(hash, "data", &split, format.name(), &files, &import));
            }
        }
    }
    for recording in &experiment.recordings {
        let cache = recording_place(runs, recording).folder;
        if let Some(import) = Import::read(&cache.join(imported::IMPORT)) {
            let format = recording.origin.format();
            rows.push(row(folder_hash(&cache), "teacher", &recording.name, format, &recording.files, &import));
        }
    }
    for earlier in earlier(results) {
        if !rows.iter().any(|row| (&row.import, &row.name) == (&earlier.import, &earlier.name)) {
            rows.push(earlier);
        }
    }
    Ok(ImportRow::frame(&rows)?)
}

/// The rows of the frame in `results`; empty if there is none or it cannot be read.
fn earlier(results: &Path) -> Vec<ImportRow> {
    read_frame(results, IMPORTS).and_then(|frame| ImportRow::rows(&frame)).unwrap_or_default()
}

/// The hash in the name of a data or cache folder.
fn folder_hash(folder: &Path) -> String {
    recipe_of(&RunId::of_folder(folder)).to_string()
}

fn row(import: String, role: &str, name: &str, format: &str, files: &DataFiles, found: &Import) -> ImportRow {
    let kinds = found.tally.bad.iter().map(|(kind, count)| format!("{kind} {count}"));
    ImportRow {
        import,
        role: role.into(),
        name: name.into(),
        format: format.into(),
        lines: found.tally.lines as i64,
        bad_lines: found.tally.bad_lines() as i64,
        bad_kinds: kinds.collect::<Vec<_>>().join(", "),
        examples: found.examples as i64,
        targets: found.targets as i64,
        rows: found.counts.rows as i64,
        k: (found.k > 0).then_some(found.k as i64),
        unmapped: found.unmapped_rate(),
        duplicate: found.duplicate_rate(),
        short_k: found.short_k_rate(),
        mismatched_context: found.mismatched_rate(),
        repeated: found.repeated as i64,
        requests: found.charged.map(|charged| charged.requests as i64),
        prompt_tokens: found.charged.map(|charged| charged.prompt_tokens as i64),
        completion_tokens: found.charged.map(|charged| charged.completion_tokens as i64),
        cost: found.charged.and_then(|charged| charged.cost),
        ends: files.ends.as_ref().map(|ends| ends.tokens.join(" ")),
    }
}
