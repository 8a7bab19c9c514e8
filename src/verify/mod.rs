//! Whether committed results are what their frames say.

pub mod artefacts;
pub mod numerics;
