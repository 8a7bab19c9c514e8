//! The frame of an experiment's imports: what became of the lines of its data and of its recorded teachers.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use polars::prelude::*;
use polars_io::SerReader;
use polars_io::prelude::{ParquetCompression, ParquetReader, ParquetWriter};

use super::frames::frame_rows;
use super::store::replace_file;
use crate::data::import::Import;
use crate::experiment::{DataFiles, Experiment};
use crate::sweep::job::{data_sets, recording_place};
use crate::teacher::imported;

/// The file's name.
pub const FILE: &str = "imports.parquet";

frame_rows! {
    /// A split of the data, or a teacher's recorded answers, as imported.
    ImportRow {
        /// The hash of the data's or the recording's recipe: what tells two imports of one name apart.
        import: String,
        /// `data` or `teacher`.
        role: String,
        /// The split, or the teacher.
        name: String,
        format: String,
        lines: i64,
        /// Lines left out.
        bad_lines: i64,
        /// `kind count`, with commas between them.
        bad_kinds: String,
        examples: i64,
        targets: i64,
        /// Rows of answers, one a token.
        rows: i64,
        k: Option<i64>,
        unmapped: Option<f64>,
        duplicate: Option<f64>,
        short_k: Option<f64>,
        mismatched_context: Option<f64>,
        repeated: i64,
        /// Of an endpoint: requests that it has answered, and what it charged for.
        requests: Option<i64>,
        prompt_tokens: Option<i64>,
        completion_tokens: Option<i64>,
        cost: Option<f64>,
        /// Of examples: the tokens that end a text, the one that is appended first.
        ends: Option<String>,
    }
}

/// Writes the frame of what `experiment` has imported under `runs` into `folder`; its path.
pub fn write(experiment: &Experiment, runs: &Path, folder: &Path) -> Result<PathBuf> {
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
    let path = folder.join(FILE);
    // What is not under the runs any more keeps its row.
    for earlier in earlier(&path) {
        if !rows.iter().any(|row| (&row.import, &row.name) == (&earlier.import, &earlier.name)) {
            rows.push(earlier);
        }
    }
    let mut frame = ImportRow::frame(&rows)?;
    replace_file(&path, |file: &mut File| {
        ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None)).finish(&mut frame)?;
        Ok(())
    })?;
    Ok(path)
}

/// The rows of the frame at `path`; none where there is none that can be read.
fn earlier(path: &Path) -> Vec<ImportRow> {
    let frame = File::open(path).ok().and_then(|file| ParquetReader::new(file).finish().ok());
    frame.and_then(|frame| ImportRow::rows(&frame).ok()).unwrap_or_default()
}

/// What a folder's name ends in.
fn folder_hash(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().rsplit('-').next().unwrap_or_default().to_string()
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

#[cfg(test)]
mod tests {
    use super::super::frames::documented;
    use super::*;

    #[test]
    fn every_column_is_documented_with_its_type_and_in_its_place() {
        let frame = ImportRow::frame(&[]).unwrap();
        let columns = frame.columns().iter().map(|column| (column.name().to_string(), column.dtype().to_string()));
        assert_eq!(documented("imports"), columns.collect::<Vec<_>>(), "docs/frames.md, imports.parquet");
    }
}
