//! The frame of an experiment's imports: how the lines of its data and of its recorded teachers were read.

use polars::prelude::*;

use super::rows::frame_rows;

frame_rows! {
    /// A split of the data, or a teacher's recorded logprobs, as imported.
    ImportRow {
        /// The hash of the recipe of the data or the recording, which distinguishes imports of the same name.
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
        /// Rows of logprobs, one per token.
        rows: i64,
        k: Option<i64>,
        unmapped: Option<f64>,
        duplicate: Option<f64>,
        short_k: Option<f64>,
        mismatched_context: Option<f64>,
        repeated: i64,
        /// Requests that an endpoint has answered; the next columns are what it charged for.
        requests: Option<i64>,
        prompt_tokens: Option<i64>,
        completion_tokens: Option<i64>,
        cost: Option<f64>,
        /// For examples: the tokens that end a text, beginning with the one that is appended.
        ends: Option<String>,
    }
}
