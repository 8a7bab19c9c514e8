//! Teachers: their logprobs are computed, imported or requested once, and shared by every arm.

pub mod block;
pub mod build_cache;
pub mod cache;
mod draws;
pub mod endpoint;
pub mod export;
pub mod imported;
pub mod inspect;
pub mod manifest;
mod pack;
pub mod recipe;
pub mod recorded;
pub mod recording;
pub mod source;
pub mod target_spec;
