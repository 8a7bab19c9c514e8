//! What a training run keeps in memory at its peak, by formula.

use crate::experiment::recipe::{Packing, Precision, TrainRecipe};
use crate::model::ModelConfig;
use crate::model::variant::FeedForward;

/// The program with libtorch and its threads, before there is a model. Measured on x86-64 without CUDA.
const PROGRAM_BYTES: f64 = 300e6;
/// Bytes of logits that the head lets exist at a time, at most (see [`crate::objective::head`]).
const LOGITS_BYTES: f64 = (192u64 << 20) as f64;
/// Tokens of a chunk of the head, at most.
const CHUNK_TOKENS: f64 = 4096.0;

/// Bytes that one rank of `recipe` takes at most, about: weights, gradients, moments, the activations of its share of a batch (all
/// are kept), and a chunk of logits.
pub fn peak_bytes(recipe: &TrainRecipe, tp: usize, dp: usize) -> u64 {
    let (tp, dp) = (tp as f64, dp as f64);
    let width = match recipe.precision {
        Precision::F32 => 4.0,
        Precision::Bf16 => 2.0,
    };
    // Master weights, their gradient and two moments in f32; autograd's own gradients; in bf16, a copy of the weights.
    let copy = if recipe.precision == Precision::Bf16 { width } else { 0.0 };
    let weights = recipe.model.parameter_count() as f64 / tp * (16.0 + width + copy);
    let tokens = (recipe.batch.min(recipe.tokens) as f64 / dp).ceil();
    // The way back holds a few gradients of the widest activations beside what is kept.
    let passing = 6.0 * recipe.model.intermediate_size as f64 / tp;
    let packed =
        if recipe.data.packing == Packing::Documents { packed_per_token(&recipe.model, recipe.data.context, tp) } else { 0.0 };
    let activations = tokens * width * (activations_per_token(&recipe.model, tp) + packed + passing);
    let vocabulary = recipe.model.vocab_size as f64 / tp;
    let chunk = (LOGITS_BYTES / width).min(CHUNK_TOKENS.min(tokens) * vocabulary).max(64.0 * vocabulary);
    // The logits, their product's workspace, and the walks over them.
    (PROGRAM_BYTES + weights + activations + 2.0 * chunk * width) as u64
}

/// Numbers that autograd keeps of a token: of each block its two sums with the residual and their norms, queries, keys and values
/// before and after rotation, what attention gives, and the feed-forward's inner activations.
fn activations_per_token(model: &ModelConfig, tp: f64) -> f64 {
    let (d, f) = (model.hidden_size as f64, model.intermediate_size as f64 / tp);
    let queries = (model.num_attention_heads * model.head_dim()) as f64 / tp;
    let keys = (model.num_key_value_heads * model.head_dim()) as f64 / tp;
    let inner = if model.variant.feed_forward == FeedForward::SwiGlu { 4.0 } else { 2.0 };
    let block = 4.0 * d + 6.0 * queries + 7.0 * keys + inner * f;
    model.num_hidden_layers as f64 * block + 4.0 * d
}

/// Numbers that a token takes more where sequences share rows: its line of the mask, and in each block the copies of keys and
/// values that grouped queries do without.
fn packed_per_token(model: &ModelConfig, context: usize, tp: f64) -> f64 {
    let copies = (model.num_attention_heads != model.num_key_value_heads) as usize * model.num_hidden_layers;
    context as f64 + 2.0 * (copies * model.num_attention_heads * model.head_dim()) as f64 / tp
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::experiment::{Options, load};

    /// Oracle: the high-water marks of two processes, as Linux told them (VmHWM; two threads, x86-64, no CUDA).
    #[test]
    fn the_estimate_is_near_what_was_measured() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/quickstart.toml");
        let experiment = load(&quickstart, &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
        let teacher = &experiment.teachers[0].recipe;
        let near = |recipe: &TrainRecipe, measured: f64| {
            let ratio = peak_bytes(recipe, 1, 1) as f64 / measured;
            assert!((0.85..1.2).contains(&ratio), "{ratio}");
        };
        near(teacher, 512e6);
        let mut large = teacher.clone();
        large.model = ModelConfig {
            vocab_size: 2000,
            hidden_size: 256,
            intermediate_size: 704,
            num_hidden_layers: 5,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            ..large.model
        };
        (large.batch, large.tokens, large.data.context) = (16_000, 32_000, 256);
        near(&large, 2908e6);
        assert!(peak_bytes(&large, 2, 1) < peak_bytes(&large, 1, 1) && peak_bytes(&large, 1, 2) < peak_bytes(&large, 2, 1));
    }
}
