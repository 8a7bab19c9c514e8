//! Causal self-attention with grouped queries, and rotary position embedding.

use anyhow::Result;
use tch::Tensor;

use super::layers::{JoinedLinear, Linear, Norm, ParamMap};
use super::layout::AttentionLayout;
use super::region::TpRegion;
use super::rotary::Rotary;
use crate::dist::ProcessGroup;
use crate::kernels::attention::{self, Heads};
use crate::kernels::step_attention::{self, Kept};

/// The attention of a block: this rank's heads.
pub struct Attention {
    /// Queries, keys and values.
    inputs: JoinedLinear,
    output: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    head_dim: i64,
}

impl Attention {
    /// Attention `name`, e.g. `model.layers.0.self_attn`.
    pub fn new(named: &ParamMap, name: &str, head_dim: usize, eps: f64) -> Self {
        let at = |part: &str| format!("{name}.{part}");
        let norm = |part: &str| named.norm(&at(part), eps);
        Self {
            inputs: named.joined([&at("q_proj"), &at("k_proj"), &at("v_proj")]),
            output: named.linear(&at("o_proj")),
            query_norm: norm("q_norm"),
            key_norm: norm("k_norm"),
            head_dim: head_dim as i64,
        }
    }

    /// The attention output for `x`; both are in the layout used between tensor-parallel regions.
    pub fn forward(&self, x: &Tensor, region: &TpRegion) -> Result<Tensor> {
        self.forward_with(x, region, |_, _| ())
    }

    /// [`Self::forward`] for one sequence, whose keys and values are kept in layer `layer` of a cache.
    pub fn read(&self, x: &Tensor, region: &TpRegion, cache: &mut Tensor, layer: usize) -> Result<Tensor> {
        self.forward_with(x, region, |heads, groups| {
            let [_, key, value] = parts(heads, groups);
            keep(&key.get(0), &value.get(0), region.layout().rotary.as_ref(), cache, layer);
        })
    }

    /// [`Self::forward`], which shows heads `[B, T, H + 2G, D]` (not yet rotated) and G to `see`.
    fn forward_with(&self, x: &Tensor, region: &TpRegion, see: impl FnOnce(&Tensor, i64)) -> Result<Tensor> {
        let x = region.enter(x)?;
        let (batch, length) = (x.size()[0], x.size()[1]);
        let groups = self.inputs.width(1) / self.head_dim;
        let heads = self.normed(self.inputs.forward(&x).view([batch, length, -1, self.head_dim]), groups);
        see(&heads, groups);
        let mixed = mix(&heads, groups, region.layout()).reshape([batch, length, -1]);
        Ok(self.output.finish(region.leave(&self.output.partial(&mixed))?))
    }

    /// `heads [B, T, H + 2G, D]` with its queries and keys normed, in families that do so.
    fn normed(&self, heads: Tensor, groups: i64) -> Tensor {
        let (Some(query_norm), Some(key_norm)) = (&self.query_norm, &self.key_norm) else { return heads };
        let [query, key, value] = parts(&heads, groups);
        Tensor::cat(&[query_norm.forward(&query), key_norm.forward(&key), value], 2)
    }

    /// The attention output for the next token `x [m, d]` of each of m sequences, each row by itself. Its keys and values are added
    /// to layer `layer` of the sequences' caches.
    pub fn step(
        &self,
        x: &Tensor,
        rotary: Option<&Rotary>,
        kept: &mut [Kept],
        layer: usize,
        tp: &ProcessGroup,
    ) -> Result<Tensor> {
        let (rows, groups) = (x.size()[0], self.inputs.width(1) / self.head_dim);
        let heads = self.normed(self.inputs.step(x).view([1, rows, -1, self.head_dim]), groups);
        let [query, key, value] = parts(&heads, groups).map(|part| part.get(0).contiguous());
        let mixed = append(&query, &key, &value, rotary, kept, layer).view([rows, -1]);
        self.output.step_over(&mixed, tp)
    }
}

/// Keeps the first keys and values `[T, G, D]` of a sequence.
fn keep(key: &Tensor, value: &Tensor, rotary: Option<&Rotary>, cache: &mut Tensor, layer: usize) {
    if step_attention::fit(key) {
        return step_attention::keep(key, value, rotary.map(|rotary| (&rotary.cos, &rotary.sin)), cache, layer);
    }
    let length = key.size()[0];
    let key = rotary.map_or_else(|| key.shallow_clone(), |rotary| rotary.first(length).rotate(key));
    for (which, x) in [(0, &key), (1, value)] {
        cache.get(layer as i64).get(which).narrow(1, 0, length).copy_(&x.transpose(0, 1));
    }
}

/// Adds the keys and values `[m, G, D]` of one token to each of m caches; what their queries `[m, H, D]` attend to, `[m, H, D]`.
fn append(query: &Tensor, key: &Tensor, value: &Tensor, rotary: Option<&Rotary>, kept: &mut [Kept], layer: usize) -> Tensor {
    if step_attention::fit(query) {
        let tables = rotary.map(|rotary| (&rotary.cos, &rotary.sin));
        return step_attention::attend(query, key, value, tables, kept, layer);
    }
    appended(query, key, value, rotary, kept, layer)
}

/// [`append`] by operations of ATen, for devices that our kernel does not run on.
fn appended(query: &Tensor, key: &Tensor, value: &Tensor, rotary: Option<&Rotary>, kept: &mut [Kept], layer: usize) -> Tensor {
    let rows = kept.iter_mut().enumerate().map(|(row, kept)| {
        let at = Tensor::from_slice(&[kept.length as i64]).to_device(query.device());
        let own = |x: &Tensor| x.narrow(0, row as i64, 1);
        let turned = |x: &Tensor| rotary.map_or_else(|| own(x), |rotary| rotary.at(&at).rotate(&own(x)));
        let length = kept.length as i64 + 1;
        let layer = kept.numbers.get(layer as i64);
        layer.select(2, length - 1).copy_(&Tensor::cat(&[turned(key), own(value)], 0));
        let whole = layer.narrow(2, 0, length);
        let grouped = query.size()[1] > key.size()[1];
        Tensor::scaled_dot_product_attention(
            &turned(query).transpose(0, 1).unsqueeze(0),
            &whole.get(0).unsqueeze(0),
            &whole.get(1).unsqueeze(0),
            None::<Tensor>,
            0.0,
            false,
            None::<f64>,
            grouped,
        )
        .squeeze_dim(2)
    });
    Tensor::cat(&rows.collect::<Vec<_>>(), 0)
}

/// Queries, keys and values of `heads [B, T, H + 2G, D]`.
fn parts(heads: &Tensor, groups: i64) -> [Tensor; 3] {
    let queries = heads.size()[2] - 2 * groups;
    heads.split_with_sizes([queries, groups, groups], 2).try_into().expect("three parts")
}

/// Mixes the G values by the attention of H queries to G keys, all in `heads [B, T, H + 2G, D]`: `[B, T, H, D]`.
fn mix(heads: &Tensor, groups: i64, layout: &AttentionLayout) -> Tensor {
    let rotary = layout.rotary.as_ref().map(|Rotary { cos, sin }| (cos, sin));
    let heads = Heads { all: heads, groups, rotary, starts: layout.starts_bt.as_ref() };
    if attention::fit(&heads) { attention::attend(&heads) } else { composed(&heads, layout) }
}

/// [`mix`] by operations of ATen, for devices that our kernel does not run on.
fn composed(heads: &Heads, layout: &AttentionLayout) -> Tensor {
    let [query, key, value] = parts(heads.all, heads.groups);
    let placed = |x: &Tensor| layout.rotary.as_ref().map_or_else(|| x.shallow_clone(), |rotary| rotary.rotate(x)).transpose(1, 2);
    let (query, key, value) = (placed(&query), placed(&key), value.transpose(1, 2));
    let queries_per_key = query.size()[1] / key.size()[1];
    let mixed = match layout.mask_b1tt(query.kind()) {
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
    mixed.transpose(1, 2)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::Tokens;

    /// Kernel 0, the unfused one, would store the attention scores of all heads in every block.
    #[test]
    fn atens_fused_kernels_accept_the_mask_of_packed_rows() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let starts_bt = Tensor::zeros([2, 19], (Kind::Int64, Device::Cpu));
            let layout = AttentionLayout::new(Tokens { ids_bt: &starts_bt, starts_bt: Some(&starts_bt) }, None);
            let heads = Tensor::ones([2, 4, 19, 6], (kind, Device::Cpu)).set_requires_grad(true);
            let mask = layout.mask_b1tt(kind);
            assert!(Tensor::internal_fused_sdp_choice(&heads, &heads, &heads, mask, 0.0, false, None::<f64>, false) > 0);
        }
    }

    /// Oracle: ATen's attention, one sequence at a time.
    #[test]
    fn steps_of_our_kernel_and_of_aten_agree() {
        for dim in [6, 64, 80] {
            let rotary = Rotary::new(80, dim, 1e4, Kind::Float, Device::Cpu);
            let normal = |heads: i64| Tensor::randn([2, heads, dim as i64], (Kind::Float, Device::Cpu));
            let filled = Tensor::randn([3, 2, 2, 80, dim as i64], (Kind::Float, Device::Cpu));
            for rotary in [None, Some(&rotary)] {
                let (query, key, value) = (normal(4), normal(2), normal(2));
                let step = |ours: bool| {
                    let (mut a, mut b) = (filled.copy(), filled.copy());
                    let mut kept = [Kept { numbers: &mut a, length: 0 }, Kept { numbers: &mut b, length: 71 }];
                    let of = if ours { append } else { appended };
                    let out = of(&query, &key, &value, rotary, &mut kept, 1);
                    (out, Tensor::stack(&[a, b], 0))
                };
                let ((ours, kept), (aten, expected)) = (step(true), step(false));
                assert!((ours - aten).abs().max().double_value(&[]) < 2e-6);
                assert!((kept - expected).abs().max().double_value(&[]) < 1e-6);
            }
        }
    }

    /// Oracle: ATen's attention.
    #[test]
    fn our_kernel_and_aten_agree() {
        let all = Tensor::randn([2, 70, 4 + 2 * 2, 8], (Kind::Float, Device::Cpu));
        let ids_bt = Tensor::zeros([2, 70], (Kind::Int64, Device::Cpu));
        let starts_bt = Tensor::from_slice(&[vec![0i64; 30], vec![30; 40], vec![0; 64], vec![64; 6]].concat()).view([2, 70]);
        let rotary = Rotary::new(70, 8, 1e4, Kind::Float, Device::Cpu);
        for starts_bt in [None, Some(&starts_bt)] {
            for rotary in [None, Some(&rotary)] {
                let layout = AttentionLayout::new(Tokens { ids_bt: &ids_bt, starts_bt }, rotary);
                let rotary = layout.rotary.as_ref().map(|Rotary { cos, sin }| (cos, sin));
                let heads = Heads { all: &all, groups: 2, rotary, starts: starts_bt };
                let off = (attention::attend(&heads) - composed(&heads, &layout)).abs().max().double_value(&[]);
                assert!(off < 2e-6, "{off}");
            }
        }
    }
}
