//! Rotary positions.

use tch::{Device, Kind, Tensor};

/// Cosines and sines of rotary position embedding (Su et al. 2021) in the half-split layout of Llama: of all positions,
/// `[T, 1, head/2]`, or of those that the tokens of a pass have, `[T, 1, head/2]` or `[B, T, 1, head/2]`.
pub struct Rotary {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rotary {
    /// Tables `[context, 1, head_dim / 2]` of type `kind` for positions 0 to `context` − 1, with base `theta`.
    pub fn new(context: usize, head_dim: usize, theta: f64, kind: Kind, device: Device) -> Self {
        let exponents = Tensor::arange_start_step(0, head_dim as i64, 2, (Kind::Double, device)) / head_dim as f64;
        let frequencies = (exponents * -theta.ln()).exp();
        let angles = Tensor::arange(context as i64, (Kind::Double, device)).view([-1, 1, 1]) * frequencies;
        Self { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }

    /// The tables of the first `length` positions.
    pub fn first(&self, length: i64) -> Self {
        let first = |all: &Tensor| all.narrow(0, 0, length);
        Self { cos: first(&self.cos), sin: first(&self.sin) }
    }

    /// The tables of the positions `[B, T]` of a batch.
    pub fn at(&self, positions_bt: &Tensor) -> Self {
        let shape = [positions_bt.size(), self.cos.size()[1..].to_vec()].concat();
        let at = |all: &Tensor| all.index_select(0, &positions_bt.flatten(0, -1)).view(&shape[..]);
        Self { cos: at(&self.cos), sin: at(&self.sin) }
    }

    /// Rotates `heads [B, T, heads, head]`, whose positions these are.
    pub fn rotate(&self, heads: &Tensor) -> Tensor {
        let Self { cos, sin } = self;
        let halves = heads.chunk(2, -1);
        Tensor::cat(&[&halves[0] * cos - &halves[1] * sin, &halves[1] * cos + &halves[0] * sin], -1)
    }
}
