//! Oracle: the same row with other tokens in one of its sequences. No bit of the other sequences' hidden states changes.

use hydrometer::dist::Mesh;
use hydrometer::model::{Decoder, Tokens, hf};
use tch::{Device, Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder};

/// The ends of sequences of 5, 7 and 4 tokens and of the padding.
const ENDS: [i64; 4] = [5, 12, 16, 19];

#[test]
fn changing_one_sequence_changes_no_bit_of_the_others_in_any_family() {
    let mesh = Mesh::single(Device::Cpu);
    let bounds: Vec<(i64, i64)> = [0].iter().chain(&ENDS).copied().zip(ENDS).collect();
    let mut starts: Vec<i64> = bounds.iter().flat_map(|&(start, end)| (start..end).map(move |_| start)).collect();
    (16..19).for_each(|column| starts[column] = column as i64);
    let starts_bt = Tensor::from_slice(&starts).unsqueeze(0);
    let ids_bt = (Tensor::arange(19, (Kind::Int64, mesh.device)) * 3).remainder(97).unsqueeze(0);
    for checkpoint in CHECKPOINTS {
        for kind in [Kind::Float, Kind::BFloat16] {
            let opened = hf::open(&folder(checkpoint)).unwrap();
            let decoder = opened.decoder(32, kind, &mesh).unwrap();
            let hidden = |ids_bt: &Tensor| {
                let _guard = tch::no_grad_guard();
                decoder.forward(Tokens { ids_bt, starts_bt: Some(&starts_bt) }, &mesh.tp).unwrap().squeeze_dim(0)
            };
            let before = hidden(&ids_bt);
            assert_eq!(before.isfinite().all().int64_value(&[]), 1, "{checkpoint} in {kind:?}");
            for &(start, end) in &bounds {
                let changed_bt = ids_bt.copy();
                let _ = changed_bt.narrow(1, start, end - start).fill_(11);
                let after = hidden(&changed_bt);
                for &(from, to) in &bounds {
                    let of = |hidden: &Tensor| hidden.narrow(0, from, to - from);
                    let same = of(&before) == of(&after);
                    assert_eq!(same, from != start, "{checkpoint} in {kind:?}: {from}..{to} after {start}..{end} changed");
                }
            }
        }
    }
}

/// Positions count from the start of the sequence, not of the row.
#[test]
fn a_sequence_gives_the_same_result_anywhere_in_its_row() {
    let mesh = Mesh::single(Device::Cpu);
    for checkpoint in CHECKPOINTS {
        let opened = hf::open(&folder(checkpoint)).unwrap();
        let decoder: Decoder = opened.decoder(32, Kind::Float, &mesh).unwrap();
        let alone_bt = (Tensor::arange(6, (Kind::Int64, mesh.device)) * 5).unsqueeze(0);
        let _guard = tch::no_grad_guard();
        let alone = decoder.forward(&alone_bt, &mesh.tp).unwrap().get(0);
        let thrice_bt = Tensor::cat(&[&alone_bt, &alone_bt, &alone_bt], 1);
        let starts_bt = Tensor::arange(18, (Kind::Int64, mesh.device)).floor_divide_scalar(6).unsqueeze(0) * 6;
        let thrice = decoder.forward(Tokens { ids_bt: &thrice_bt, starts_bt: Some(&starts_bt) }, &mesh.tp).unwrap().get(0);
        for found in thrice.split(6, 0) {
            let off = (&found - &alone).abs().max().double_value(&[]);
            assert!(off <= 1e-5 * alone.abs().max().double_value(&[]), "{checkpoint}: off by {off}");
        }
    }
}
