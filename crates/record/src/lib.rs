//! What is written down: a journal while a run lives, frames once it is over, and where it all came from.

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
