//! Running what an experiment means: jobs in order of need, each a group of processes of its own.

pub mod estimate;
pub mod job;
pub mod kin;
pub mod local;
pub mod memory;
pub mod progress;
pub mod schedule;
pub mod state;
pub mod worker;
