//! Ranks that work together: a mesh of tensor-parallel × data-parallel processes over torch's own c10d.
//!
//! The room of the C++ shim, and with `objective/kernels` the only one where `unsafe` may stand.

pub mod c10d;
pub mod collective;
pub mod launch;
pub mod mesh;

pub use collective::Axis;
pub use mesh::Mesh;
