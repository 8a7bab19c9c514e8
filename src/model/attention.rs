//! Causal self-attention with grouped queries and rotary positions.

use tch::{Device, Kind, Tensor};

/// Cosines and sines of rotary position embedding (Su et al. 2021) in the half-split layout of Llama, each `[T, head/2]`.
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    pub fn new(context: usize, head_dim: usize, theta: f64, kind: Kind, device: Device) -> Self {
        let exponents = Tensor::arange_start_step(0, head_dim as i64, 2, (Kind::Double, device)) / head_dim as f64;
        let frequencies = (exponents * -theta.ln()).exp();
        let angles = Tensor::arange(context as i64, (Kind::Double, device)).unsqueeze(1) * frequencies.unsqueeze(0);
        Self { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }

    /// Rotates `heads [B, T, heads, head]` by their positions.
    fn rotate(&self, heads: &Tensor) -> Tensor {
        let length = heads.size()[1];
        let cos = self.cos.narrow(0, 0, length).unsqueeze(1);
        let sin = self.sin.narrow(0, 0, length).unsqueeze(1);
        let halves = heads.chunk(2, -1);
        Tensor::cat(&[&halves[0] * &cos - &halves[1] * &sin, &halves[1] * &cos + &halves[0] * &sin], -1)
    }
}

/// Attention of queries `[B, T, heads·head]` over keys and values `[B, T, kv_heads·head]`; returns `[B, T, heads·head]`.
pub fn causal_attention(query: &Tensor, key: &Tensor, value: &Tensor, head_dim: i64, rotary: &Rotary) -> Tensor {
    let (batch, length) = (query.size()[0], query.size()[1]);
    let heads = |x: &Tensor| x.view([batch, length, -1, head_dim]);
    let query = rotary.rotate(&heads(query)).transpose(1, 2);
    let key = rotary.rotate(&heads(key)).transpose(1, 2);
    let value = heads(value).transpose(1, 2);
    let grouped = query.size()[1] != key.size()[1];
    let output = Tensor::scaled_dot_product_attention(&query, &key, &value, None::<Tensor>, 0.0, true, None::<f64>, grouped);
    output.transpose(1, 2).reshape([batch, length, -1])
}
