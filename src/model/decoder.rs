//! A Llama-style decoder: token embedding, blocks of attention and SwiGLU under RMSNorm, a final norm.
//!
//! Written as one plain model. Tensor parallelism enters at two places a block (`copy_to` before its column-parallel
//! products, `reduce_from` after its row-parallel one; Shoeybi et al. 2019) and is the identity on one rank. The output head
//! is not here: it belongs to the objective.

use anyhow::Result;
use tch::Tensor;

use super::attention::{Rotary, causal_attention};
use super::config::ModelConfig;
use super::parallel::part;
use super::weights::Weights;
use crate::dist::{Axis, Mesh};

/// The forward pass over the leaves of some [`Weights`].
pub struct Decoder {
    embedding_vd: Tensor,
    /// First vocabulary id of this rank's shard.
    pub vocab_start: i64,
    blocks: Vec<Block>,
    norm: Tensor,
    rotary: Rotary,
    eps: f64,
    head_dim: i64,
}

struct Block {
    input_norm: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    post_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Decoder {
    pub fn new(config: &ModelConfig, context: usize, weights: &Weights, mesh: &Mesh) -> Self {
        let mut leaves = weights.leaves.iter().map(Tensor::shallow_clone);
        let mut next = || leaves.next().expect("a leaf for every parameter");
        let embedding_vd = next();
        let kind = embedding_vd.kind();
        let blocks = (0..config.num_hidden_layers)
            .map(|_| Block {
                input_norm: next(),
                query: next(),
                key: next(),
                value: next(),
                output: next(),
                post_norm: next(),
                gate: next(),
                up: next(),
                down: next(),
            })
            .collect();
        Self {
            embedding_vd,
            vocab_start: part(config.vocab_size as i64, mesh.tp.rank, mesh.tp.size).0,
            blocks,
            norm: next(),
            rotary: Rotary::new(context, config.head_dim(), config.rope_theta, kind, mesh.device),
            eps: config.rms_norm_eps,
            head_dim: config.head_dim() as i64,
        }
    }

    /// The output weight `[v, d]` of this rank's vocabulary shard, tied to the embedding.
    pub fn head_weight(&self) -> &Tensor {
        &self.embedding_vd
    }

    /// Hidden states `[B, T, d]` after the final norm, of token ids `[B, T]` (i64).
    pub fn forward(&self, tokens_bt: &Tensor, tp: &Axis) -> Result<Tensor> {
        let mut hidden = self.embed(tokens_bt, tp)?;
        for block in &self.blocks {
            hidden = &hidden + block.attend(&self.norm(&hidden, &block.input_norm), self, tp)?;
            hidden = &hidden + block.feed_forward(&self.norm(&hidden, &block.post_norm), tp)?;
        }
        Ok(self.norm(&hidden, &self.norm))
    }

    /// Vocab-parallel lookup: each rank looks up what it holds, the sum has every row once.
    fn embed(&self, tokens_bt: &Tensor, tp: &Axis) -> Result<Tensor> {
        if tp.size == 1 {
            return Ok(Tensor::embedding(&self.embedding_vd, tokens_bt, -1, false, false));
        }
        let rows = self.embedding_vd.size()[0];
        let local = tokens_bt - self.vocab_start;
        let outside = local.lt(0).logical_or(&local.ge(rows));
        let found = Tensor::embedding(&self.embedding_vd, &local.masked_fill(&outside, 0), -1, false, false);
        tp.reduce_from(&found.masked_fill(&outside.unsqueeze(-1), 0.0))
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm(weight.size(), Some(weight), self.eps)
    }
}

impl Block {
    fn attend(&self, x: &Tensor, model: &Decoder, tp: &Axis) -> Result<Tensor> {
        let x = tp.copy_to(x)?;
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|weight| linear(&x, weight));
        let mixed = causal_attention(&query, &key, &value, model.head_dim, &model.rotary);
        tp.reduce_from(&linear(&mixed, &self.output))
    }

    fn feed_forward(&self, x: &Tensor, tp: &Axis) -> Result<Tensor> {
        let x = tp.copy_to(x)?;
        tp.reduce_from(&linear(&(linear(&x, &self.gate).silu() * linear(&x, &self.up)), &self.down))
    }
}

fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear(weight, None::<Tensor>)
}
