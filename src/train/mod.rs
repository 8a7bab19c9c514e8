//! A training run from its recipe: steps, evaluations, checkpoints.

pub mod checkpoint;
mod gradient_check;
pub mod optimizer;
pub mod recipe;
pub mod run;
pub mod schedule;
