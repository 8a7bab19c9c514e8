//! Evaluation of a model on held-out text.

pub mod fidelity;
pub mod perplexity;
pub mod task;
pub mod windows;
pub mod writing;
