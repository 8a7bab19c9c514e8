//! Causal self-attention with grouped queries, and rotary position embedding.

use anyhow::Result;
use tch::Tensor;

use super::layers::{Linear, Norm, ParamMap};
use super::layout::AttentionLayout;
use super::region::TpRegion;

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
    pub fn new(named: &ParamMap, name: &str, head_dim: usize, eps: f64) -> Self {
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

    /// The attention output for `x`; both are in the layout used between tensor-parallel regions.
    pub fn forward(&self, x: &Tensor, region: &TpRegion) -> Result<Tensor> {
        let AttentionLayout { rotary, mask_b1tt, .. } = region.layout();
        let x = region.enter(x)?;
        let (batch, length) = (x.size()[0], x.size()[1]);
        let heads = |x: Tensor| x.view([batch, length, -1, self.head_dim]);
        let placed = |x: Tensor, norm: &Option<Norm>| {
            let x = norm.as_ref().map_or_else(|| x.shallow_clone(), |norm| norm.forward(&x));
            rotary.as_ref().map_or_else(|| x.shallow_clone(), |rotary| rotary.rotate(&x)).transpose(1, 2)
        };
        let query = placed(heads(self.query.forward(&x)), &self.query_norm);
        let key = placed(heads(self.key.forward(&x)), &self.key_norm);
        let value = heads(self.value.forward(&x)).transpose(1, 2);
        let queries_per_key = query.size()[1] / key.size()[1];
        let mixed = match mask_b1tt {
            None => {
                let grouped = queries_per_key > 1;
                Tensor::scaled_dot_product_attention(&query, &key, &value, None::<Tensor>, 0.0, true, None::<f64>, grouped)
            }
            Some(mask_b1tt) => {
                // Under a mask, fused kernels do not support grouped queries, so each query gets a copy of its key and value.
                let each = |x: &Tensor| x.unsqueeze(2).expand([-1, -1, queries_per_key, -1, -1], false).flatten(1, 2);
                let (key, value) = (each(&key), each(&value));
                Tensor::scaled_dot_product_attention(&query, &key, &value, Some(mask_b1tt), 0.0, false, None::<f64>, false)
            }
        };
        let mixed = mixed.transpose(1, 2).reshape([batch, length, -1]);
        Ok(self.output.finish(region.leave(&self.output.partial(&mixed))?))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::Tokens;

    /// Kernel 0, the unfused one, would store the attention scores of all heads in every block.
    #[test]
    fn a_fused_kernel_is_used_with_the_mask_of_packed_rows() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let starts_bt = Tensor::zeros([2, 19], (Kind::Int64, Device::Cpu));
            let layout = AttentionLayout::new(Tokens { ids_bt: &starts_bt, starts_bt: Some(&starts_bt) }, None, kind);
            let heads = Tensor::ones([2, 4, 19, 6], (kind, Device::Cpu)).set_requires_grad(true);
            let mask = layout.mask_b1tt.as_ref();
            assert!(Tensor::internal_fused_sdp_choice(&heads, &heads, &heads, mask, 0.0, false, None::<f64>, false) > 0);
        }
    }
}
