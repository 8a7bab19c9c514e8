//! A run from its recipe: steps, evaluations, checkpoints.

pub mod checkpoint;
pub mod optimizer;
pub mod recipe;
pub mod run;
pub mod schedule;
mod slope;
