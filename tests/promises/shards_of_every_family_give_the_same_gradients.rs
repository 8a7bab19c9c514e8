//! Oracle: the same checkpoint on one rank. Every parameter's gradient and the global norm agree to a relative 1e-5 in f32, also with
//! replicated key and value heads and with sequence parallelism.

use hydrometer::dist::c10d;
use hydrometer::model::{Decoder, hf};
use tch::{Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder, on_ranks_of};

/// Names and full gradients of `Σ hidden · upstream` over a few tokens, and their norm, as each rank sees them.
fn gradients(checkpoint: &str, tp: usize, sequence_parallel: bool) -> Vec<(Vec<(String, Tensor)>, f64)> {
    on_ranks_of(tp, sequence_parallel, |mesh| {
        let checkpoint = hf::open(&folder(checkpoint)).unwrap();
        let weights = checkpoint.weights(Kind::Float, mesh).unwrap();
        let decoder = Decoder::new(&checkpoint.config, 16, &weights.leaves, mesh);
        // 30 tokens do not divide over four ranks.
        let tokens = (Tensor::arange(30, (Kind::Int64, mesh.device)) * 3).view([2, 15]);
        let hidden = decoder.forward(&tokens, &mesh.tp).unwrap();
        let upstream = (Tensor::arange(hidden.numel() as i64, (Kind::Float, mesh.device)) * 0.7).sin().view_as(&hidden);
        c10d::backward(&hidden, &upstream).unwrap();
        weights.collect_gradients();
        weights.reduce_gradients(mesh).unwrap();
        let full = |index: usize| weights.full(&weights.gradient, index, mesh).unwrap().copy();
        let named = weights.parameters.iter().enumerate().map(|(index, p)| (p.name.clone(), full(index))).collect();
        (named, weights.gradient_square_sum(mesh).unwrap().sqrt())
    })
}

#[test]
fn gradients_agree_on_two_and_four_tensor_parallel_ranks() {
    for checkpoint in CHECKPOINTS {
        let (expected, norm) = gradients(checkpoint, 1, false).remove(0);
        for (tp, sequence_parallel) in [(2, false), (4, false), (2, true), (4, true)] {
            for (found, found_norm) in gradients(checkpoint, tp, sequence_parallel) {
                assert!((found_norm - norm).abs() <= 1e-5 * norm, "{checkpoint} at tp {tp}: norm {found_norm}, not {norm}");
                for ((name, a), (_, b)) in expected.iter().zip(&found) {
                    let (off, scale) = ((a - b).norm().double_value(&[]), a.norm().double_value(&[]));
                    // A key's bias shifts all scores of a query equally, so its gradient is zero up to rounding.
                    let nothing = if name.ends_with("k_proj.bias") { 1e-5 * norm } else { 0.0 };
                    assert!(off <= 1e-5 * scale + nothing, "{checkpoint} at tp {tp}: {name} off by {off} of {scale}");
                }
            }
        }
    }
}
