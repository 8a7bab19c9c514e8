//! The decoder and its shards.

pub mod activations;
pub mod attention;
pub mod batch;
pub mod cache;
pub mod config;
mod cost;
pub mod decoder;
pub mod hf;
mod incremental;
mod layers;
pub mod layout;
pub mod parallel;
pub mod parameters;
pub mod pass;
pub mod precision;
mod region;
pub mod rotary;
pub mod variant;
pub mod weights;

pub use cache::KvCache;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use layout::Tokens;
pub use pass::ForwardPass;
pub use precision::Precision;
pub use variant::Variant;
pub use weights::Weights;
