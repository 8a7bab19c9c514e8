//! A forward pass in training and the way back through it, with activations kept or recomputed.

use anyhow::Result;
use tch::{Tensor, no_grad};

use super::region::TpRegion;
use super::{Decoder, Tokens};
use crate::dist::{ProcessGroup, c10d};

/// What a decoder made of a batch, and what the way back needs.
pub struct ForwardPass<'a> {
    /// What the output head reads, `[B, T, e]`. Autograd brings its gradient here.
    pub hidden: Tensor,
    recomputed: Option<Recomputed<'a>>,
}

/// Activation recomputation (Chen et al. 2016, with a segment a block): forward keeps the input of each segment alone; on the
/// way back, last first, each is run again from it. The operations are those of a pass that keeps everything, in the same
/// order within a segment, and no parameter is in two of them: the gradients are the same bit for bit.
struct Recomputed<'a> {
    decoder: &'a Decoder,
    region: TpRegion<'a>,
    inputs: Vec<Tensor>,
}

impl<'a> ForwardPass<'a> {
    /// Of tokens `[B, T]` through `decoder`; with `recompute` autograd keeps no graph of it.
    pub fn forward<'t>(
        decoder: &'a Decoder,
        tokens: impl Into<Tokens<'t>>,
        tp: &'a ProcessGroup,
        recompute: bool,
    ) -> Result<Self> {
        let tokens = tokens.into();
        if !recompute {
            return Ok(Self { hidden: decoder.forward(tokens, tp)?, recomputed: None });
        }
        let region = decoder.region(tokens, tp);
        let mut inputs = Vec::new();
        let mut hidden = tokens.ids_bt.shallow_clone();
        for segment in 0..decoder.segments() {
            let output = no_grad(|| decoder.segment(segment, &hidden, &region))?;
            inputs.push(std::mem::replace(&mut hidden, output));
        }
        // A leaf of its own, also where the last segment does nothing.
        let hidden = hidden.detach().set_requires_grad(true);
        Ok(Self { hidden, recomputed: Some(Recomputed { decoder, region, inputs }) })
    }

    /// Runs autograd from `read`, which was computed from `hidden`, with `gradient` (same shape) flowing in, back to the leaves.
    pub fn backward(self, read: &Tensor, gradient: &Tensor) -> Result<()> {
        c10d::backward(read, gradient)?;
        let Some(Recomputed { decoder, region, mut inputs }) = self.recomputed else { return Ok(()) };
        let mut gradient = self.hidden.grad();
        drop(self.hidden);
        while let Some(input) = inputs.pop() {
            let segment = inputs.len();
            // Token ids have no gradient.
            let input = input.detach().set_requires_grad(segment > 0);
            c10d::backward(&decoder.segment(segment, &input, &region)?, &gradient)?;
            gradient = input.grad();
        }
        Ok(())
    }
}
