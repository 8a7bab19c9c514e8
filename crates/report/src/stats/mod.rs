//! Statistics for a handful of seeds that were measured on the same documents.

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
