//! The decoder: token embedding, blocks of attention and feed-forward with their norms, and a final norm. [`super::variant`]
//! describes how families differ.
//!
//! Written as one plain model. Tensor parallelism appears at two places per block (`enter` before its column-parallel products,
//! `leave` after its row-parallel one; Shoeybi et al. 2019) and is the identity on one rank. The output head is not here: it
//! belongs to the objective.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::activations::rows_per_forward;
use super::attention::Attention;
use super::cache::KvCache;
use super::config::ModelConfig;
use super::layers::{JoinedLinear, Linear, Norm, ParamMap, embedding, project};
use super::layout::{AttentionLayout, Tokens};
use super::region::TpRegion;
use super::rotary::Rotary;
use super::variant::{FeedForward, Positions};
use super::weights::Leaf;
use crate::dist::{Mesh, ProcessGroup, part};
use crate::kernels::step_attention::Kept;
use crate::kernels::{decode, elementwise};

/// The forward pass over a rank's parameters.
pub struct Decoder {
    embedding_ve: Leaf,
    head_ve: Tensor,
    head_index: usize,
    /// First vocabulary id of this rank's shard.
    pub vocab_start: i64,
    project_in: Option<Tensor>,
    /// `[T, d]`, only if positions are learned.
    positions_td: Option<Tensor>,
    rotary: Option<Rotary>,
    blocks: Vec<Block>,
    norm: Option<Norm>,
    project_out: Option<Tensor>,
    sequence_parallel: bool,
    widest_activation: usize,
    vocab_size: usize,
    /// The shape of a cache without its capacity: layers, G, D.
    cached: [i64; 3],
}

struct Block {
    attention: Attention,
    feed_forward: Mlp,
    attention_norm: Norm,
    feed_forward_norm: Norm,
    post_norm: bool,
}

struct Mlp {
    kind: FeedForward,
    /// Gates, in families that have them, and the layer's inner activations.
    inputs: JoinedLinear,
    down: Linear,
}

impl Decoder {
    /// Builds the decoder from `leaves`, in the order of the model's parameters, for sequences of up to `context` tokens.
    pub fn new(config: &ModelConfig, context: usize, leaves: &[Leaf], mesh: &Mesh) -> Self {
        let named = ParamMap::new(config, leaves);
        let eps = config.rms_norm_eps;
        let embedding_ve = named.get("model.embed_tokens.weight");
        let kind = embedding_ve.value.kind();
        let head = named.find("lm_head.weight").map(|head| head.value);
        let norm = |name: &str| named.norm(name, eps).unwrap_or_else(|| panic!("no norm {name}"));
        let blocks = (0..config.num_hidden_layers).map(|layer| {
            let at = |part: &str| format!("model.layers.{layer}.{part}");
            let inputs = match config.variant.feed_forward {
                FeedForward::SwiGlu => named.joined([&at("mlp.gate_proj"), &at("mlp.up_proj")]),
                _ => named.joined([&at("mlp.up_proj")]),
            };
            Block {
                attention: Attention::new(&named, &at("self_attn"), config.head_dim(), eps),
                feed_forward: Mlp { kind: config.variant.feed_forward, inputs, down: named.linear(&at("mlp.down_proj")) },
                attention_norm: norm(&at("input_layernorm")),
                feed_forward_norm: norm(&at("post_attention_layernorm")),
                post_norm: config.variant.post_norm,
            }
        });
        let (rotary, positions_td) = match config.variant.positions {
            Positions::Rotary => (Some(Rotary::new(context, config.head_dim(), config.rope_theta, kind, mesh.device)), None),
            Positions::Learned { count, offset } => {
                (None, Some(named.get("model.embed_positions.weight").value.narrow(0, offset as i64, count as i64)))
            }
        };
        Self {
            head_index: if head.is_some() { leaves.len() - 1 } else { 0 },
            head_ve: head.unwrap_or_else(|| embedding_ve.value.shallow_clone()),
            embedding_ve,
            vocab_start: part(config.vocab_size as i64, mesh.tp.rank, mesh.tp.size).0,
            project_in: named.find("model.project_in.weight").map(|weight| weight.value),
            positions_td,
            rotary,
            blocks: blocks.collect(),
            norm: named.norm("model.norm", eps),
            project_out: named.find("model.project_out.weight").map(|weight| weight.value),
            sequence_parallel: mesh.sequence_parallel,
            widest_activation: config.widest_activation(),
            vocab_size: config.vocab_size,
            cached: [
                config.num_hidden_layers as i64,
                (config.num_key_value_heads / mesh.tp.size).max(1) as i64,
                config.head_dim() as i64,
            ],
        }
    }

    /// Number of ids of the whole vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn device(&self) -> Device {
        self.head_ve.device()
    }

    /// A cache with room for `capacity` tokens.
    pub(super) fn empty_cache(&self, capacity: usize) -> KvCache {
        let [layers, groups, dim] = self.cached;
        KvCache::new(Tensor::empty([layers, 2, groups, capacity as i64, dim], (self.head_ve.kind(), self.device())))
    }

    /// The forward pass over one sequence `[1, T]`, whose keys and values are kept in `cache`.
    pub(super) fn read(&self, ids_1t: &Tensor, cache: &mut KvCache, tp: &ProcessGroup) -> Result<Tensor> {
        let region = self.region(ids_1t.into(), tp);
        let mut hidden = self.begin(ids_1t, &region)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.around(
                &hidden,
                |x| block.attention.read(x, &region, cache.numbers_mut(), layer),
                |x| block.feed_forward.forward(x, &region),
            )?;
        }
        cache.set_length(ids_1t.size()[1] as usize);
        self.finish(&hidden, &region)
    }

    /// The forward pass over the next token of each of several sequences, `[m, 1]`: `[m, e]`.
    pub(super) fn step(&self, ids_m1: &Tensor, caches: &mut [&mut KvCache], tp: &ProcessGroup) -> Result<Tensor> {
        let region = TpRegion::new(ids_m1.into(), AttentionLayout::new(ids_m1.into(), None), tp, false);
        let mut hidden = self.embed(ids_m1, &region)?.squeeze_dim(1);
        if let Some(weight) = &self.project_in {
            hidden = project(&hidden, weight);
        }
        if let Some(positions_td) = &self.positions_td {
            let at: Vec<i64> = caches.iter().map(|cache| cache.len() as i64).collect();
            let at = Tensor::from_slice(&at).to_device(self.device());
            hidden += Tensor::embedding(positions_td, &at, -1, false, false);
        }
        let mut kept: Vec<Kept> = caches.iter_mut().map(|cache| cache.kept()).collect();
        for (layer, block) in self.blocks.iter().enumerate() {
            hidden = block.around(
                &hidden,
                |x| block.attention.step(x, self.rotary.as_ref(), &mut kept, layer, tp),
                |x| block.feed_forward.step(x, tp),
            )?;
        }
        let hidden = self.norm.as_ref().map_or_else(|| hidden.shallow_clone(), |norm| norm.forward(&hidden));
        Ok(match &self.project_out {
            Some(weight) => project(&hidden, weight),
            None => hidden,
        })
    }

    /// Rows of `width` tokens that a forward pass without gradients takes at a time, with `kept` numbers per token beside its
    /// activations.
    pub fn rows_per_forward(&self, width: usize, kept: usize) -> usize {
        rows_per_forward(width, self.widest_activation.max(kept))
    }

    /// The output weight `[v, e]` of this rank's vocabulary shard; the embedding if they are tied.
    pub fn head_weight(&self) -> &Tensor {
        &self.head_ve
    }

    /// Index of the output weight among the model's parameters.
    pub fn head_index(&self) -> usize {
        self.head_index
    }

    /// The input of the output head, `[B, T, e]`, for tokens `[B, T]`: ids alone, or ids with the starts of their sequences. e
    /// equals d unless the model has an output projection, as OPT-350m has.
    pub fn forward<'t>(&self, tokens: impl Into<Tokens<'t>>, tp: &ProcessGroup) -> Result<Tensor> {
        let tokens = tokens.into();
        let region = self.region(tokens, tp);
        (0..self.segments()).try_fold(tokens.ids_bt.shallow_clone(), |input, segment| self.segment(segment, &input, &region))
    }

    /// The tensor-parallel region for a pass over `tokens`.
    pub(super) fn region<'a>(&self, tokens: Tokens, tp: &'a ProcessGroup) -> TpRegion<'a> {
        let layout = AttentionLayout::new(tokens, self.rotary.as_ref());
        TpRegion::new(tokens, layout, tp, self.sequence_parallel)
    }

    /// Number of consecutive segments of the forward pass: the embedding, each block, and the part after the last block.
    pub(super) fn segments(&self) -> usize {
        self.blocks.len() + 2
    }

    /// The output of segment `index`. `input` is the output of the segment before it; for the first, token ids `[B, T]`.
    pub(super) fn segment(&self, index: usize, input: &Tensor, region: &TpRegion) -> Result<Tensor> {
        match index.checked_sub(1).map(|layer| self.blocks.get(layer)) {
            None => self.begin(input, region),
            Some(Some(block)) => block.forward(input, region),
            Some(None) => self.finish(input, region),
        }
    }

    /// The first block's input for token ids `[B, T]`.
    fn begin(&self, tokens_bt: &Tensor, region: &TpRegion) -> Result<Tensor> {
        let mut hidden = self.embed(tokens_bt, region)?;
        if let Some(weight) = &self.project_in {
            hidden = hidden.linear(weight, None::<Tensor>);
        }
        if let Some(positions_td) = &self.positions_td {
            let (batch, length) = region.size();
            let positions_btd = match &region.layout().positions_bt {
                None => positions_td.narrow(0, 0, length).expand([batch, -1, -1], false),
                Some(positions_bt) => Tensor::embedding(positions_td, positions_bt, -1, false, false),
            };
            hidden = &hidden + region.own(&positions_btd);
        }
        Ok(hidden)
    }

    /// The input of the output head, from the last block's output.
    fn finish(&self, hidden: &Tensor, region: &TpRegion) -> Result<Tensor> {
        let hidden = self.norm.as_ref().map_or_else(|| hidden.shallow_clone(), |norm| norm.forward(hidden));
        region.gather(&match &self.project_out {
            Some(weight) => hidden.linear(weight, None::<Tensor>),
            None => hidden,
        })
    }

    /// Logits `[B, T, v]` of this rank's vocabulary shard, f32. Meant for a few tokens: objective and evaluation never
    /// materialise all logits.
    pub fn logits(&self, tokens_bt: &Tensor, tp: &ProcessGroup) -> Result<Tensor> {
        Ok(self.forward(tokens_bt, tp)?.matmul(&self.head_ve.tr()).to_kind(Kind::Float))
    }

    /// Vocab-parallel lookup: each rank looks up the ids that it holds, and the sum over the ranks has every row once.
    fn embed(&self, tokens_bt: &Tensor, region: &TpRegion) -> Result<Tensor> {
        if region.tp().size == 1 {
            return Ok(embedding(&self.embedding_ve, tokens_bt));
        }
        let rows = self.embedding_ve.value.size()[0];
        let local = tokens_bt - self.vocab_start;
        let outside = local.lt(0).logical_or(&local.ge(rows));
        let found = embedding(&self.embedding_ve, &local.masked_fill(&outside, 0));
        region.leave(&found.masked_fill(&outside.unsqueeze(-1), 0.0))
    }
}

impl Block {
    fn forward(&self, hidden: &Tensor, region: &TpRegion) -> Result<Tensor> {
        self.around(hidden, |x| self.attention.forward(x, region), |x| self.feed_forward.forward(x, region))
    }

    /// The residual sums and norms around the two parts of the block.
    fn around(
        &self,
        hidden: &Tensor,
        attention: impl FnOnce(&Tensor) -> Result<Tensor>,
        feed_forward: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.post_norm {
            let hidden = self.attention_norm.forward(&(hidden + attention(hidden)?));
            return Ok(self.feed_forward_norm.forward(&(&hidden + feed_forward(&hidden)?)));
        }
        let [hidden, normal] = self.attention_norm.of_sum(hidden, None);
        let [hidden, normal] = self.feed_forward_norm.of_sum(&hidden, Some(&attention(&normal)?));
        Ok(&hidden + feed_forward(&normal)?)
    }
}

impl Mlp {
    fn forward(&self, x: &Tensor, region: &TpRegion) -> Result<Tensor> {
        let x = region.enter(x)?;
        let active = self.activate(&self.inputs.forward(&x));
        Ok(self.down.finish(region.leave(&self.down.partial(&active))?))
    }

    /// The output for `x [m, d]`, each row by itself.
    fn step(&self, x: &Tensor, tp: &ProcessGroup) -> Result<Tensor> {
        let inputs = self.inputs.step(x);
        let active = match self.kind {
            // ATen's depends on a number's place.
            FeedForward::Gelu if decode::fit(x) => decode::gelu(&inputs, false),
            FeedForward::GeluTanh if decode::fit(x) => decode::gelu(&inputs, true),
            _ => self.activate(&inputs),
        };
        self.down.step_over(&active, tp)
    }

    /// The activation of the layer's inputs.
    fn activate(&self, inputs: &Tensor) -> Tensor {
        match self.kind {
            FeedForward::SwiGlu if elementwise::fit(&[inputs]) => elementwise::swiglu(inputs),
            FeedForward::SwiGlu => {
                let halves = inputs.chunk(2, -1);
                halves[0].silu() * &halves[1]
            }
            FeedForward::Gelu => inputs.gelu("none"),
            FeedForward::GeluTanh => inputs.gelu("tanh"),
            FeedForward::Relu => inputs.relu(),
        }
    }
}
