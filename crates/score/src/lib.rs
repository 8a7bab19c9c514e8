//! Scores of generated text: exact match, numbers, pass@k, ROUGE, diversity and truncation. Pure functions of texts; `docs/scores.md`
//! defines each of them.

mod answer;
mod distinct;
mod number;
mod pass;
mod porter;
mod rouge;
mod score;

pub use answer::Criterion;
pub use distinct::distinct;
pub use number::{Number, numbers};
pub use pass::pass_at_k;
pub use rouge::{Overlap, Rouge};
pub use score::{Sample, Score, Unscored};
