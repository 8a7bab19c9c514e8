//! What can be told from a handful of seeds.

pub mod interval;
