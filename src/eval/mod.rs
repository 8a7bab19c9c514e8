//! Evaluation of a model on held-out text.

pub mod fidelity;
pub mod perplexity;
pub mod windows;
