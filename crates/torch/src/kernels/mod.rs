//! CPU kernels: two passes over a chunk of logits instead of the ten that composed tensor operations take, one where only
//! predictions are wanted, and products of bf16 matrices with f32 results.

pub mod attention;
mod autograd;
mod best;
pub mod elementwise;
mod exp;
pub mod linear;
pub mod matmul;
mod memory;
mod native;
mod pack;
pub mod products;
pub mod reductions;
mod rows;
mod selection;
mod shares;
mod simd;
mod transpose;
mod vector;
mod walk;

/// The maximum of a row without finite entries: finite, so that differences of it are.
pub const EMPTY_MAX: f64 = -1e30;

pub use best::{RowBest, best};
pub use rows::{RowFactors, RowSums, fit, gradient, sums};
pub use shares::RowShares;
