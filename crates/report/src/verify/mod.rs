//! Whether committed results are what their frames say.

pub mod artefacts;
mod contradictions;
pub mod golden;
pub mod numerics;
