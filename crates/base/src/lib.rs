//! The foundation of all crates: errors, files, text, units, hashes and the version of the arithmetic.

pub mod backoff;
mod choice;
mod cores;
mod error;
pub mod fs;
pub mod guard;
pub mod identity;
pub mod mean;
pub mod numerics;
pub mod run_id;
pub mod shortage;
pub mod suggest;
pub mod text;
pub mod units;

pub use cores::cores;
pub use error::UserError;
