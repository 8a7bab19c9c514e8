//! A process group along one dimension of the mesh, and its collectives. With a single rank every operation is the identity.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::c10d::Group;

/// The ranks along one dimension of the mesh.
pub struct ProcessGroup {
    group: Option<Group>,
    pub rank: usize,
    pub size: usize,
}

impl ProcessGroup {
    /// A group of one rank.
    pub fn single() -> Self {
        Self { group: None, rank: 0, size: 1 }
    }

    pub(super) fn of(group: Group, rank: usize, size: usize) -> Self {
        Self { group: Some(group), rank, size }
    }

    /// Sums `tensor` over the ranks, in place.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| group.all_reduce_sum(tensor))
    }

    /// Sums numbers over the ranks, in f64.
    pub fn sum(&self, numbers: &mut [f64], device: Device) -> Result<()> {
        if let Some(group) = &self.group {
            let tensor = Tensor::from_slice(numbers).to_device(device);
            group.all_reduce_sum(&tensor)?;
            tensor.to_device(Device::Cpu).copy_data(numbers, numbers.len());
        }
        Ok(())
    }

    /// The `input [...]` of every rank, stacked to `[size, ...]`.
    pub fn all_gather(&self, input: &Tensor) -> Result<Tensor> {
        let Some(group) = &self.group else { return Ok(input.unsqueeze(0)) };
        let mut shape = vec![self.size as i64];
        shape.extend(input.size());
        let output = Tensor::empty(&shape, (input.kind(), input.device()));
        group.all_gather(&input.contiguous(), &output)?;
        Ok(output)
    }

    /// Waits until every rank of the group has arrived.
    pub fn barrier(&self, device: Device) -> Result<()> {
        self.all_reduce_sum(&Tensor::zeros([1], (Kind::Float, device)))
    }

    /// Enters a tensor-parallel region: identity forward, all-reduce of the gradient backward.
    pub fn copy_to(&self, input: &Tensor) -> Result<Tensor> {
        self.group.as_ref().map_or_else(|| Ok(input.shallow_clone()), |group| group.copy_to(input))
    }

    /// Leaves a tensor-parallel region: all-reduce forward, identity backward.
    pub fn reduce_from(&self, input: &Tensor) -> Result<Tensor> {
        self.group.as_ref().map_or_else(|| Ok(input.shallow_clone()), |group| group.reduce_from(input))
    }

    /// The rows of all ranks, each with the same number; see [`Group::gather_rows`].
    pub fn gather_rows(&self, input: &Tensor, partial_gradients: bool) -> Result<Tensor> {
        self.group.as_ref().map_or_else(|| Ok(input.shallow_clone()), |group| group.gather_rows(input, partial_gradients))
    }

    /// This rank's rows of the sum over the ranks; see [`Group::reduce_to_rows`].
    pub fn reduce_to_rows(&self, input: &Tensor) -> Result<Tensor> {
        self.group.as_ref().map_or_else(|| Ok(input.shallow_clone()), |group| group.reduce_to_rows(input))
    }
}
