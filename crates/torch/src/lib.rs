//! Decoders sharded over process groups, and their training objectives, on libtorch.

pub mod dist;
pub mod generate;
mod kernels;
pub mod model;
pub mod objective;
