//! Row kernels for the CPU: two walks over a chunk's logits instead of the ten that composed tensor operations take.

mod exp;
mod number;
mod rows;
mod vector;

pub use rows::{RowFactors, RowSums, fit, gradient, sums};
