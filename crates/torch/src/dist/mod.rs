//! Distributed training: a mesh of tensor-parallel × data-parallel processes over torch's own c10d.
//!
//! Holds the C++ shim. Only this module and `kernels` may use `unsafe`.

pub mod c10d;
pub mod collective;
pub mod exit;
pub mod launch;
pub mod memory;
pub mod mesh;

pub use collective::ProcessGroup;
pub use mesh::Mesh;

/// The rows of `total` that rank `rank` of `size` holds, as (start, length): near-equal parts, the first ones larger.
pub fn part(total: i64, rank: usize, size: usize) -> (i64, i64) {
    let (rank, size) = (rank as i64, size as i64);
    let (base, extra) = (total / size, total % size);
    (rank * base + rank.min(extra), base + i64::from(rank < extra))
}
