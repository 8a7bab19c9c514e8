//! Records of an experiment: a journal of each run in progress, frames of the finished runs, and their provenance.

pub mod checked;
pub mod export;
pub mod fingerprint;
pub mod frames;
pub mod imports;
pub mod journal;
pub mod metric;
mod number;
pub mod provenance;
mod rows;
pub mod run_status;
pub mod steps;
