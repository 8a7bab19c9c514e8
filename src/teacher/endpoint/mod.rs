//! A teacher behind an OpenAI-compatible HTTP API: asked with patience, and never twice for what it has answered.
//!
//! [`question`] says what is asked, [`client`] carries one request and tells apart what may pass from what will not,
//! [`collect`] asks many at a time within a budget, and every answer stands in the [`ledger`], synced, before anything is made
//! of it. [`judge`] has the teacher judge the text of a split and brings its answers into the cache that every arm reads.

pub mod client;
pub mod collect;
mod meter;
pub mod prompt_scorer;
pub mod request;
pub mod response_log;
mod scoring_request;
pub mod service;
