//! What a split is scored with: a model behind an endpoint.

use hydrometer_data::recipe::ExampleRecipe;
use hydrometer_data::tokens::TokenizedSplit;
use tokenizers::Tokenizer;

use super::super::manifest::CacheManifest;
use super::service::Service;
use crate::teacher::recipe::EndpointRecipe;

/// Scores a split with a teacher behind an endpoint.
pub struct PromptScorer<'a> {
    /// The teacher's name.
    pub name: &'a str,
    pub recipe: &'a EndpointRecipe,
    pub service: &'a Service,
    pub tokenizer: &'a Tokenizer,
    /// The recipe of examples, if the split consists of examples.
    pub examples: Option<&'a ExampleRecipe>,
    pub split: &'a TokenizedSplit,
    pub context: usize,
    /// The manifest of the cache.
    pub title: &'a CacheManifest,
}
