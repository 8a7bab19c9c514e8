//! The number format of forward and backward passes.

use hydrometer_base::choice;

choice! {
    /// Number format of weights and activations in forward and backward; master weights and optimizer state are always f32.
    Precision {
        F32 = "f32",
        Bf16 = "bf16",
    }
}

impl Precision {
    /// The matching tensor type.
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::F32 => tch::Kind::Float,
            Self::Bf16 => tch::Kind::BFloat16,
        }
    }

    /// Bytes per number.
    pub fn bytes(self) -> usize {
        self.kind().elt_size_in_bytes()
    }
}
