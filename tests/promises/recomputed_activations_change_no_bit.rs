//! Oracle: the same training with all activations stored. Losses and gradients are equal bit for bit.

use hydrometer::model::{Decoder, ForwardPass, hf};
use tch::{Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder, on_ranks_of};
use super::lab::Lab;

/// The hidden states and this rank's gradients of `Σ hidden · upstream`, accumulated over two passes as for two micro-batches.
fn pass(checkpoint: &str, (tp, sequence_parallel): (usize, bool), kind: Kind, recompute: bool) -> Vec<[Tensor; 2]> {
    on_ranks_of(tp, sequence_parallel, |mesh| {
        let checkpoint = hf::open(&folder(checkpoint)).unwrap();
        let weights = checkpoint.weights(kind, mesh).unwrap();
        let decoder = Decoder::new(&checkpoint.config, 16, &weights.leaves, mesh);
        let mut read = Tensor::new();
        for factor in [3, 5] {
            let tokens = (Tensor::arange(32, (Kind::Int64, mesh.device)) * factor).remainder(97).view([2, 16]);
            let pass = ForwardPass::forward(&decoder, &tokens, &mesh.tp, recompute).unwrap();
            let rows = pass.hidden.flatten(0, 1).slice(0, 3, None, 2);
            read = rows.detach().copy();
            let upstream = (Tensor::arange(rows.numel() as i64, (Kind::Float, mesh.device)) * 0.7).sin().view_as(&rows);
            pass.backward(&rows, &upstream.to_kind(kind)).unwrap();
            weights.collect_gradients();
        }
        weights.reduce_gradients(mesh).unwrap();
        [read, weights.gradient.copy()]
    })
}

#[test]
fn losses_and_gradients_of_every_family_stay_the_same_on_one_and_two_ranks() {
    for checkpoint in CHECKPOINTS {
        for (ranks, kind) in
            [((1, false), Kind::Float), ((2, false), Kind::Float), ((2, true), Kind::Float), ((1, false), Kind::BFloat16)]
        {
            let (kept, recomputed) = (pass(checkpoint, ranks, kind, false), pass(checkpoint, ranks, kind, true));
            assert!(kept.iter().all(|[_, gradient]| gradient.abs().max().double_value(&[]) > 0.0));
            assert!(kept == recomputed, "{checkpoint} on {ranks:?} in {kind:?}");
        }
    }
}

#[test]
fn a_whole_experiment_stays_the_same_on_one_and_two_ranks() {
    for tp in ["1", "2"] {
        let lab = Lab::on_all_cores();
        let arguments = ["run", "lab.toml", "--tp", tp, "--only", "soft-ce"];
        lab.ok(&[&arguments[..], &["--runs", "kept", "--results", "kept-results"]].concat());
        lab.ok(&[&arguments[..], &["--runs", "again", "--results", "again-results", "--recompute"]].concat());
        let kept = lab.numbers("kept");
        assert!(kept.len() > 100);
        assert_eq!(lab.numbers("again"), kept);
    }
}
