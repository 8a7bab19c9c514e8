//! A teacher behind an OpenAI-compatible HTTP API, with retries, and without paying twice for the same response.
//!
//! [`request`] defines a request, [`client`] sends one and tells temporary from permanent failures, and [`collect`] sends many at
//! a time within a budget. Every response is synced to the [`response_log`] before it is used. [`score_split`] has the teacher
//! score the text of a split and writes the logprobs to the teacher cache that every arm reads.

pub mod client;
pub mod collect;
mod meter;
pub mod prompt_scorer;
pub mod request;
pub mod response_log;
mod score_split;
mod scoring_request;
pub mod service;
