//! Causal self-attention with grouped queries, and rotary positions.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::layers::{Linear, Named, Norm};
use super::region::Region;

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

/// The attention of a block: this rank's heads.
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    head_dim: i64,
}

impl Attention {
    /// Attention `name`, e.g. `model.layers.0.self_attn`.
    pub fn new(named: &Named, name: &str, head_dim: usize, eps: f64) -> Self {
        let linear = |part: &str| named.linear(&format!("{name}.{part}"));
        let norm = |part: &str| named.norm(&format!("{name}.{part}"), eps);
        Self {
            query: linear("q_proj"),
            key: linear("k_proj"),
            value: linear("v_proj"),
            output: linear("o_proj"),
            query_norm: norm("q_norm"),
            key_norm: norm("k_norm"),
            head_dim: head_dim as i64,
        }
    }

    /// What x attends to; both as they are held between tensor-parallel parts.
    pub fn forward(&self, x: &Tensor, rotary: Option<&Rotary>, region: &Region) -> Result<Tensor> {
        let x = region.enter(x)?;
        let (batch, length) = (x.size()[0], x.size()[1]);
        let heads = |x: Tensor| x.view([batch, length, -1, self.head_dim]);
        let placed = |x: Tensor, norm: &Option<Norm>| {
            let x = norm.as_ref().map_or_else(|| x.shallow_clone(), |norm| norm.forward(&x));
            rotary.map_or_else(|| x.shallow_clone(), |rotary| rotary.rotate(&x)).transpose(1, 2)
        };
        let query = placed(heads(self.query.forward(&x)), &self.query_norm);
        let key = placed(heads(self.key.forward(&x)), &self.key_norm);
        let value = heads(self.value.forward(&x)).transpose(1, 2);
        let grouped = query.size()[1] != key.size()[1];
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, None::<Tensor>, 0.0, true, None::<f64>, grouped);
        let mixed = mixed.transpose(1, 2).reshape([batch, length, -1]);
        Ok(self.output.finish(region.leave(&self.output.partial(&mixed))?))
    }
}
