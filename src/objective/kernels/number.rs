//! Number formats that the kernels read and write; they compute in f32.

/// A stored logit.
pub trait Number: Copy + Send + Sync {
    fn load(self) -> f32;
    fn store(value: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }
}

/// The bits of a bfloat16: the upper half of an f32's.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Number for Bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// Rounds to nearest, ties to even; NaN stays NaN.
    #[inline(always)]
    fn store(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        Self(if value.is_nan() { 0x7fc0 } else { rounded as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::{Bf16, Number};

    #[test]
    fn rounds_as_the_half_crate_does() {
        for bits in (0..u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            let (found, expected) = (Bf16::store(value).load(), half::bf16::from_f32(value).to_f32());
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{value}: {found}, not {expected}");
        }
    }
}
