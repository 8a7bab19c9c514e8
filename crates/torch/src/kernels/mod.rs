//! CPU kernels, where ATen takes several passes over memory or a slow path: attention, norms and gates, matrix products, sums over
//! buffers, and passes over rows of logits. `autograd` makes them operations of autograd's graph; `native` wraps libtorch's threads and
//! oneDNN's products; `simd` compiles loops for each instruction set.

pub mod attention;
mod autograd;
mod best;
mod blocks;
pub mod decode;
pub mod dense;
mod double;
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
pub mod step_attention;
mod transpose;
mod vector;
mod walk;

/// The maximum of a row without finite entries: finite, so that differences of it are.
pub const EMPTY_MAX: f64 = -1e30;

pub use best::{RowBest, best};
pub use blocks::LogitParts;
pub use rows::{RowFactors, RowSums, fit, gradient, sums};
pub use shares::RowShares;
