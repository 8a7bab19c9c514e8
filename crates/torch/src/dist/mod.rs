//! Ranks that work together: a mesh of tensor-parallel × data-parallel processes over torch's own c10d.
//!
//! The room of the C++ shim, and with `objective/kernels` the only one where `unsafe` may stand.

pub mod c10d;
pub mod collective;
pub mod exit;
pub mod launch;
pub mod mesh;

pub use collective::Axis;
pub use mesh::Mesh;

/// The rows that rank `rank` of `size` holds of `total`: near-equal parts, the first ones larger.
pub fn part(total: i64, rank: usize, size: usize) -> (i64, i64) {
    let (rank, size) = (rank as i64, size as i64);
    let (base, extra) = (total / size, total % size);
    (rank * base + rank.min(extra), base + i64::from(rank < extra))
}
