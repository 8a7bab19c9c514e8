//! A training forward pass and its backward pass, with activations kept or recomputed.

use anyhow::Result;
use tch::{Tensor, no_grad};

use super::region::TpRegion;
use super::{Decoder, Tokens};
use crate::dist::{ProcessGroup, c10d};

/// The result of a forward pass over a batch, and what its backward pass needs.
pub struct ForwardPass<'a> {
    /// The input of the output head, `[B, T, e]`. Autograd accumulates its gradient here.
    pub hidden: Tensor,
    recomputed: Option<Recomputed<'a>>,
}

/// Activation recomputation (Chen et al. 2016, one segment per block): the forward pass keeps only the input of each segment, and
/// the backward pass, last segment first, runs each again from its input. The operations and their order within a segment are
/// those of a pass that keeps everything, and no parameter is in two segments, so the gradients are the same bit for bit.
struct Recomputed<'a> {
    decoder: &'a Decoder,
    region: TpRegion<'a>,
    inputs: Vec<Tensor>,
}

impl<'a> ForwardPass<'a> {
    /// Runs tokens `[B, T]` through `decoder`; with `recompute` autograd keeps no graph of the pass.
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
        // A separate leaf, even if the last segment is the identity.
        let hidden = hidden.detach().set_requires_grad(true);
        Ok(Self { hidden, recomputed: Some(Recomputed { decoder, region, inputs }) })
    }

    /// Runs autograd from `read`, which was computed from `hidden`, with incoming `gradient` (same shape), back to the
    /// parameters.
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
