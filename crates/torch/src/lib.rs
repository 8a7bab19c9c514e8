//! Decoders sharded over process groups, and the objectives they are trained on, on libtorch.

pub mod dist;
pub mod model;
pub mod objective;
