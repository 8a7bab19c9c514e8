//! Verifies committed results against their frames.

pub mod artefacts;
mod contradictions;
pub mod golden;
pub mod numerics;
pub mod task_contradictions;
