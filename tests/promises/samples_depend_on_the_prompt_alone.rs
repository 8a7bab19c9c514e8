//! A sample is a function of weights, prompt, seed and sample index. Oracle: each text written alone.

use hydrometer::dist::{Mesh, ProcessGroup};
use hydrometer::generate::{Beams, Generator, Sampling, Written};
use hydrometer::model::{Decoder, hf};
use tch::{Device, Kind, Tensor};

use super::fixtures::{CHECKPOINTS, folder, on_ranks};

const CONTEXT: usize = 40;

/// Prompts of different lengths, two of them the same.
fn prompts() -> Vec<Vec<u32>> {
    let one = |length: u32, step: u32| (0..length).map(|i| 1 + (i * step) % 96).collect();
    vec![one(1, 1), one(7, 5), one(23, 7), one(7, 5), one(12, 11), one(3, 40)]
}

fn decoder(checkpoint: &str, kind: Kind, mesh: &Mesh) -> Decoder {
    hf::open(&folder(checkpoint)).unwrap().decoder(CONTEXT, kind, mesh).unwrap()
}

fn generator<'a>(decoder: &'a Decoder, tp: &'a ProcessGroup, sampling: Sampling, batch: usize) -> Generator<'a> {
    Generator {
        decoder,
        tp,
        tokenizer: None,
        sampling,
        beams: None,
        ends: &[0, 3],
        stops: &[],
        max_new_tokens: 20,
        context: CONTEXT,
        seed: 5,
        batch,
    }
}

fn written(generator: &Generator, todo: &[(usize, usize)]) -> Vec<Written> {
    let mut all = Vec::new();
    let keep = |text| {
        all.push(text);
        Ok(())
    };
    generator.write(&prompts(), todo.iter().copied(), keep).unwrap();
    all.sort_by_key(|text| (text.prompt, text.sample));
    all
}

fn todo() -> Vec<(usize, usize)> {
    (0..6).flat_map(|prompt| (0..2).map(move |sample| (prompt, sample))).collect()
}

const SAMPLED: Sampling = Sampling { temperature: 0.7, top_k: None, top_p: None, listed: 3 };
const FILTERED: Sampling = Sampling { temperature: 1.3, top_k: Some(40), top_p: Some(0.9), listed: 0 };

#[test]
fn samples_are_the_same_bits_alone_and_in_any_batch_and_order() {
    for checkpoint in CHECKPOINTS {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mesh = Mesh::single(Device::Cpu);
            let decoder = decoder(checkpoint, kind, &mesh);
            for sampling in [Sampling::GREEDY, SAMPLED, FILTERED] {
                let alone: Vec<Written> =
                    todo().iter().flat_map(|one| written(&generator(&decoder, &mesh.tp, sampling, 1), &[*one])).collect();
                let mut reversed = todo();
                reversed.reverse();
                let mut shuffled = todo();
                shuffled.sort_by_key(|&(prompt, sample)| (prompt * 7 + sample * 5) % 11);
                for (batch, order) in [(1, todo()), (3, reversed), (5, shuffled), (64, todo())] {
                    let found = written(&generator(&decoder, &mesh.tp, sampling, batch), &order);
                    assert_eq!(found, alone, "{checkpoint} {kind:?} {sampling:?}, {batch} at a time");
                }
                // The same prompt gives the same text wherever it stands, and with temperature samples differ.
                assert_eq!(alone[2].ids, alone[6].ids, "{checkpoint}");
                let differ = alone.chunks(2).any(|pair| pair[0].ids != pair[1].ids);
                assert_eq!(differ, sampling.temperature > 0.0, "{checkpoint} {kind:?}");
                // A prompt of 23 tokens has room for 17 more.
                assert!(alone.iter().all(|text| text.ids.len() <= if text.prompt == 2 { 17 } else { 20 }));
            }
        }
    }
}

/// Oracle: one at a time on the same ranks; rounding alone distinguishes them from one rank.
#[test]
fn tensor_parallel_ranks_write_the_same_text_in_any_batch() {
    for checkpoint in CHECKPOINTS {
        let found = on_ranks(2, |mesh| {
            let decoder = decoder(checkpoint, Kind::Float, mesh);
            let of = |batch| written(&generator(&decoder, &mesh.tp, SAMPLED, batch), &todo());
            (of(1), of(5))
        });
        assert_eq!(found[0].0, found[0].1, "{checkpoint}");
        assert_eq!(found[0], found[1], "{checkpoint}: the ranks agree");
        let mesh = Mesh::single(Device::Cpu);
        let decoder = decoder(checkpoint, Kind::Float, &mesh);
        let one = written(&generator(&decoder, &mesh.tp, SAMPLED, 5), &todo());
        for (one, two) in one.iter().zip(&found[0].0) {
            assert_eq!(one.ids, two.ids, "{checkpoint}");
            assert!(one.logprobs.iter().zip(&two.logprobs).all(|(a, b)| (a - b).abs() < 1e-4), "{checkpoint}");
        }
    }
}

/// Oracle: the forward pass over the whole sequence.
#[test]
fn incremental_logits_equal_those_of_the_whole_sequence() {
    for checkpoint in CHECKPOINTS {
        for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 4e-2)] {
            let mesh = Mesh::single(Device::Cpu);
            let decoder = decoder(checkpoint, kind, &mesh);
            let ids: Vec<u32> = (0..30).map(|i| (i * 17 + 3) % 97).collect();
            let ids_1t = Tensor::from_slice(&ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()).unsqueeze(0);
            let whole = tch::no_grad(|| decoder.logits(&ids_1t, &mesh.tp)).unwrap().squeeze_dim(0);
            let (mut hidden, mut cache) = decoder.prefill(&ids[..11], 30, &mesh.tp).unwrap();
            for at in 10..30 {
                let found = decoder.next_logits(&hidden, &mesh.tp).unwrap().squeeze_dim(0);
                let expected = whole.get(at as i64);
                let scale = expected.abs().max().double_value(&[]);
                let worst = (found - expected).abs().max().double_value(&[]);
                assert!(worst <= tolerance * scale, "{checkpoint} {kind:?}: position {at} off by {worst} of {scale}");
                if at + 1 < 30 {
                    hidden = decoder.extend(&ids[at + 1..at + 2], &mut [&mut cache], &mesh.tp).unwrap();
                }
            }
            assert_eq!(cache.len(), 30);
        }
    }
}

/// Oracle: all texts of two tokens or with an end token, scored by forward passes over the whole sequence. With so many beams
/// nothing is dropped.
#[test]
fn beams_that_hold_every_text_find_the_best_one() {
    let ends = [0u32, 3];
    for checkpoint in ["llama", "gpt2", "opt-norm-after"] {
        let mesh = Mesh::single(Device::Cpu);
        let decoder = decoder(checkpoint, Kind::Float, &mesh);
        for (index, prompt) in prompts().iter().enumerate().take(2) {
            let beams = Some(Beams { count: 97, length_penalty: 1.0 });
            let generator = Generator { beams, max_new_tokens: 2, ..generator(&decoder, &mesh.tp, Sampling::GREEDY, 1) };
            let found = written(&generator, &[(index, 0)]).remove(0);
            let logprobs = |ids: &[u32]| -> Vec<f64> {
                let ids: Vec<i64> = prompt.iter().chain(ids).map(|&id| i64::from(id)).collect();
                let logits = tch::no_grad(|| decoder.logits(&Tensor::from_slice(&ids).unsqueeze(0), &mesh.tp)).unwrap();
                Vec::try_from(logits.get(0).get(ids.len() as i64 - 1).to_kind(Kind::Double).log_softmax(-1, None)).unwrap()
            };
            let first = logprobs(&[]);
            let mut best = (f64::NEG_INFINITY, Vec::new());
            for (a, &score) in (0u32..).zip(&first) {
                if ends.contains(&a) {
                    best = if score > best.0 { (score, vec![a]) } else { best };
                    continue;
                }
                for (b, &next) in (0u32..).zip(&logprobs(&[a])) {
                    let score = (score + next) / 2.0;
                    best = if score > best.0 { (score, vec![a, b]) } else { best };
                }
            }
            assert_eq!(found.ids, best.1, "{checkpoint} {prompt:?}");
            let mean = found.logprobs.iter().sum::<f64>() / found.ids.len() as f64;
            assert!((mean - best.0).abs() < 1e-5, "{checkpoint}: {mean} {}", best.0);
        }
    }
}
