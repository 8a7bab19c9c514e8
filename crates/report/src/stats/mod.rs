//! What can be told from a handful of seeds and the documents they were measured on.

pub mod bootstrap;
#[cfg(test)]
mod coverage;
pub mod crossed;
pub mod holm;
pub mod interval;
pub mod paired;
pub mod pooled;
pub mod power;
pub mod superiority;
pub mod verdict;
