//! Who learns: one plain decoder, and its shards.

pub mod attention;
pub mod config;
pub mod decoder;
pub mod parallel;
pub mod weights;

pub use config::ModelConfig;
pub use decoder::Decoder;
pub use weights::Weights;
