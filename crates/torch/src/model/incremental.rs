//! Incremental forward passes: the keys and values of earlier tokens are kept, so that a new token is computed alone.
//!
//! What is computed for a sequence does not depend on the sequences beside it, bit for bit: a prompt is read alone, and the
//! operations of a step treat each row by itself.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::cache::KvCache;
use super::decoder::Decoder;
use super::layers::gather_logits;
use crate::dist::ProcessGroup;

impl Decoder {
    /// Reads a prompt `ids`. Returns the input of the output head at its last token, `[1, e]`, and a cache with room for
    /// `capacity` tokens.
    pub fn prefill(&self, ids: &[u32], capacity: usize, tp: &ProcessGroup) -> Result<(Tensor, KvCache)> {
        let _guard = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids_1t = Tensor::from_slice(&ids).unsqueeze(0).to_device(self.device());
        let mut cache = self.empty_cache(capacity.max(ids.len()));
        let hidden_1te = self.read(&ids_1t, &mut cache, tp)?;
        Ok((hidden_1te.select(1, ids.len() as i64 - 1), cache))
    }

    /// Appends one token to each of several sequences, and returns the inputs of the output head, `[m, e]`.
    pub fn extend(&self, ids: &[u32], caches: &mut [&mut KvCache], tp: &ProcessGroup) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids_m1 = Tensor::from_slice(&ids).unsqueeze(1).to_device(self.device());
        let hidden_me = self.step(&ids_m1, caches, tp)?;
        caches.iter_mut().for_each(|cache| cache.set_length(cache.len() + 1));
        Ok(hidden_me)
    }

    /// The logits of the whole vocabulary, f32 `[m, V]` on the CPU of every rank, for `hidden_me`.
    pub fn next_logits(&self, hidden_me: &Tensor, tp: &ProcessGroup) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let logits = gather_logits(hidden_me, self.head_weight(), self.vocab_size(), tp)?;
        Ok(logits.to_device(Device::Cpu).to_kind(Kind::Float).contiguous())
    }
}
