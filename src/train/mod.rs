//! A training run from its recipe: steps, evaluations, checkpoints.

pub mod checkpoint;
mod gradient_check;
pub mod optimizer;
pub mod passes;
mod read_ahead;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod update;
