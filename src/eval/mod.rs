//! How good a model is on held-out text, whatever it was trained on.

pub mod fidelity;
pub mod perplexity;
pub mod windows;
