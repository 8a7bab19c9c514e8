//! Text that a decoder writes after a prompt.
//!
//! A sample is a function of weights, prompt, seed and sample index alone: the same ids and the same bits of their logprobs in any
//! batch, in any order and on any data-parallel rank.

mod beams;
mod decode;
mod finish;
mod generator;
mod random;
mod sampler;
mod text;

pub use finish::Finish;
pub use generator::{Beams, Generator, Written};
pub use sampler::{Listed, Sampling};
pub use text::continuation;
