//! Runs the jobs of an experiment in the order of their dependencies, each in its own group of processes. Leases divide the jobs
//! among all sessions of `run` that use the same folder.

pub mod alias;
pub mod build_frames;
pub mod ending;
pub mod estimate;
pub mod holder;
pub mod imports;
pub mod job;
pub mod lease;
pub mod local;
pub mod machine;
pub mod memory;
mod prepare;
pub mod progress;
pub mod provenance;
pub mod recipe_diff;
mod requeue;
pub mod schedule;
pub mod session;
pub mod state;
#[cfg(test)]
mod tests;
pub mod worker;
