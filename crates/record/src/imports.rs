//! The frame of an experiment's imports: what became of the lines of its data and of its recorded teachers.

use polars::prelude::*;

use super::rows::frame_rows;

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
