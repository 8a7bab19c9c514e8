//! What every room stands on: errors, files, text, units, hashes, the terminal and the version of the arithmetic.

mod choice;
mod cores;
mod error;
pub mod fs;
pub mod guard;
pub mod identity;
pub mod numerics;
pub mod shortage;
pub mod suggest;
pub mod terminal;
pub mod text;
pub mod units;

pub use cores::cores;
pub use error::UserError;
