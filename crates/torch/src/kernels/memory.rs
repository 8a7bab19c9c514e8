//! The numbers of tensors on the CPU as slices, whole or in parts that several threads write.

use std::slice;

use tch::{Device, Tensor};

use super::native::Element;

/// The numbers of a contiguous tensor on the CPU.
pub fn numbers<E: Element>(x: &Tensor) -> &[E] {
    assert!(x.kind() == E::KIND && x.is_contiguous() && x.device() == Device::Cpu);
    // SAFETY: checked above; the slice lives as long as the borrowed tensor, whose memory nothing writes meanwhile.
    unsafe { slice::from_raw_parts(x.data_ptr().cast(), x.numel()) }
}

/// The memory of a tensor or slice, which several threads write, each its own part.
pub struct Parts<E>(*mut E, usize);

// SAFETY: see `Parts::get`.
unsafe impl<E: Send> Sync for Parts<E> {}

impl<E: Copy> Parts<E> {
    /// Of a contiguous tensor on the CPU, which outlives this.
    pub fn of(x: &mut Tensor) -> Self
    where
        E: Element,
    {
        assert!(x.kind() == E::KIND && x.is_contiguous() && x.device() == Device::Cpu);
        Self(x.data_ptr().cast(), x.numel())
    }

    /// Of a slice, which outlives this and which nobody reads meanwhile.
    pub fn slice(x: &mut [E]) -> Self {
        Self(x.as_mut_ptr(), x.len())
    }

    /// Where the numbers from `first` on are, and how many they are.
    pub fn rest(&self, first: usize) -> (*mut E, usize) {
        assert!(first <= self.1);
        (self.0.wrapping_add(first), self.1 - first)
    }

    /// # Safety
    /// The memory still exists, and nobody else has any of this part at the same time.
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap, as the caller promises")]
    pub unsafe fn get(&self, first: usize, count: usize) -> &mut [E] {
        assert!(first + count <= self.1);
        // SAFETY: within the memory; not shared, as the caller promises.
        unsafe { slice::from_raw_parts_mut(self.0.add(first), count) }
    }
}
