//! What is written down: a journal while a run lives, frames once it is over, and where it all came from.

pub mod checked;
pub mod export;
pub mod fingerprint;
pub mod frames;
pub mod imports;
pub mod journal;
mod number;
pub mod provenance;
pub mod run_status;
