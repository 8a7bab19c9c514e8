//! Oracle: `objective::reference`, plain f64. It is itself held to its formulas by finite differences.

use std::thread;

use hydrometer::dist::c10d::Store;
use hydrometer::dist::{Axis, Mesh};
use hydrometer::model::parallel::{part, shard};
use hydrometer::model::parameters::Shard;
use hydrometer::objective::head::{Head, Sums};
use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient, softmax};
use hydrometer::objective::targets::{Targets, TopK};
use hydrometer::objective::{Objective, Tail};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// A random problem: hidden states, weight, labels, and a teacher's top-k.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    v: usize,
    d: usize,
    k: usize,
    hidden: Vec<f32>,
    weight: Vec<f32>,
    labels: Vec<i64>,
    ids: Vec<i64>,
    teacher_logits: Vec<f32>,
    teacher_lse: Vec<f32>,
}

impl Case {
    fn new(seed: u64, n: usize, v: usize, d: usize, k: usize, peak: f64, temperature: f64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = move || rng.random_range(-1.0..1.0f64);
        let hidden = (0..n * d).map(|_| uniform() as f32).collect();
        let weight = (0..v * d).map(|_| (uniform() * peak) as f32).collect();
        let (mut ids, mut teacher_logits, mut teacher_lse, mut labels) = (vec![], vec![], vec![], vec![]);
        for _ in 0..n {
            let logits: Vec<f64> = (0..v).map(|_| uniform() * 4.0).collect();
            let mut order: Vec<usize> = (0..v).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            ids.extend(order[..k].iter().map(|&id| id as i64));
            teacher_logits.extend(order[..k].iter().map(|&id| logits[id] as f32));
            let warm: Vec<f64> = logits.iter().map(|z| z / temperature).collect();
            teacher_lse.push(log_sum_exp(&warm) as f32);
            labels.push(((uniform() * 0.5 + 0.5) * (v - 1) as f64) as i64);
        }
        Self { n, v, d, k, hidden, weight, labels, ids, teacher_logits, teacher_lse }
    }

    fn matrix(values: &[f32], columns: usize) -> Tensor {
        Tensor::from_slice(values).view([-1, columns as i64])
    }

    /// Mean loss and its gradients in hidden and weight, by the reference.
    fn expected(&self, objective: Objective, temperature: f64) -> (f64, Vec<f64>, Vec<f64>) {
        let (mut total, mut d_hidden, mut d_weight) = (0.0, vec![0.0; self.n * self.d], vec![0.0; self.v * self.d]);
        for n in 0..self.n {
            let h = &self.hidden[n * self.d..(n + 1) * self.d];
            let row = |v: usize| &self.weight[v * self.d..(v + 1) * self.d];
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let z: Vec<f64> = (0..self.v).map(|v| dot(h, row(v))).collect();
            let at = n * self.k..(n + 1) * self.k;
            let ids: Vec<usize> = self.ids[at.clone()].iter().map(|&id| id as usize).collect();
            let logits: Vec<f64> = self.teacher_logits[at].iter().map(|&z| f64::from(z)).collect();
            let logprobs: Vec<f64> = logits.iter().map(|z| z / temperature - f64::from(self.teacher_lse[n])).collect();
            let token = Token { label: self.labels[n] as usize, ids: &ids, logprobs: &logprobs, logits: &logits };
            let (loss, gradient) = loss_and_gradient(objective, &z, &token);
            total += loss / self.n as f64;
            for v in 0..self.v {
                let g = gradient[v] / self.n as f64;
                for i in 0..self.d {
                    d_hidden[n * self.d + i] += g * f64::from(row(v)[i]);
                    d_weight[v * self.d + i] += g * f64::from(h[i]);
                }
            }
        }
        (total, d_hidden, d_weight)
    }

    /// The same by the chunked head on one rank.
    fn found(&self, objective: Objective, temperature: f64, kind: Kind, tp: &Axis) -> (Sums, Tensor, Tensor) {
        let weight = shard(&Self::matrix(&self.weight, self.d), Shard::Rows, tp).to_kind(kind);
        let gradient = weight.zeros_like().to_kind(Kind::Float);
        let k = self.k as i64;
        let lse = Tensor::from_slice(&self.teacher_lse).unsqueeze(1);
        let ids = Tensor::from_slice(&self.ids).view([-1, k]);
        let teacher = TopK::from_logits(ids, Self::matrix(&self.teacher_logits, self.k), &lse, temperature);
        let targets = Targets { labels_n: Tensor::from_slice(&self.labels), teacher: Some(teacher) };
        let head =
            Head { weight_vd: &weight, vocab_start: part(self.v as i64, tp.rank, tp.size).0, vocab_size: self.v as i64, tp };
        let hidden = Self::matrix(&self.hidden, self.d).to_kind(kind);
        let scale = 1.0 / self.n as f64;
        let (sums, d_hidden) = head.loss_and_gradients(objective, &hidden, &targets, scale, &gradient).unwrap();
        (sums, d_hidden.to_kind(Kind::Float), gradient)
    }
}

fn objectives(temperature: f64) -> Vec<Objective> {
    let mut all: Vec<Objective> = Tail::ALL.into_iter().map(|tail| Objective::SoftCe { tail, temperature }).collect();
    if temperature == 1.0 {
        all.push(Objective::HardCe);
        for (centered, mse_mean) in [(false, false), (true, false), (false, true), (true, true)] {
            all.push(Objective::LogitMse { centered, mse_mean });
        }
    }
    all
}

/// Largest difference relative to the largest expected magnitude.
fn difference(found: &Tensor, expected: &[f64]) -> f64 {
    let found = Vec::<f32>::try_from(found.flatten(0, -1)).unwrap();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (f, e)| m.max((f64::from(*f) - e).abs())) / largest
}

fn hold(case: &Case, temperature: f64, tp: usize) {
    for objective in objectives(temperature) {
        let (loss, d_hidden, d_weight) = case.expected(objective, temperature);
        let store = Store::in_process();
        let results: Vec<(Sums, Tensor, Tensor)> = thread::scope(|scope| {
            let ranks: Vec<_> = (0..tp)
                .map(|rank| {
                    let store = store.clone();
                    scope.spawn(move || {
                        let mesh = Mesh::join(&store, rank, tp, 1, Device::Cpu).unwrap();
                        case.found(objective, temperature, Kind::Float, &mesh.tp)
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let weights: Vec<&Tensor> = results.iter().map(|(_, _, weight)| weight).collect();
        let whole = Tensor::cat(&weights, 0);
        for (sums, hidden, _) in &results {
            let value = sums.loss / case.n as f64;
            assert!((value - loss).abs() <= 1e-5 * loss.abs().max(1.0), "{objective:?} tp {tp}: loss {value}, expected {loss}");
            let gap = difference(hidden, &d_hidden);
            assert!(gap < 1e-4, "{objective:?} tp {tp}: hidden gradient off by {gap}");
        }
        let gap = difference(&whole, &d_weight);
        assert!(gap < 1e-4, "{objective:?} tp {tp}: weight gradient off by {gap}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, rng_seed: RngSeed::Fixed(736), ..ProptestConfig::default() })]

    #[test]
    fn value_and_gradients_on_one_shard(
        seed in 0u64..1_000_000, n in 1usize..40, v in 5usize..90, d in 1usize..12, k in 1usize..5,
        peak in prop_oneof![Just(0.01), Just(1.0), Just(8.0)], temperature in prop_oneof![Just(1.0), Just(0.5), Just(3.0)],
    ) {
        hold(&Case::new(seed, n, v, d, k, peak, temperature), temperature, 1);
    }
}

#[test]
fn value_and_gradients_on_two_and_four_shards() {
    for tp in [2, 4] {
        for (seed, temperature) in [(1, 1.0), (2, 2.0)] {
            hold(&Case::new(seed, 33, 61, 7, 5, 2.0, temperature), temperature, tp);
        }
    }
}

#[test]
fn more_tokens_than_a_chunk() {
    hold(&Case::new(3, 1200, 19, 3, 4, 1.0, 1.0), 1.0, 1);
}

#[test]
fn bf16_inputs_stay_close() {
    let case = Case::new(4, 64, 48, 8, 6, 1.0, 1.0);
    for objective in objectives(1.0) {
        let (loss, d_hidden, d_weight) = case.expected(objective, 1.0);
        let (sums, hidden, weight) = case.found(objective, 1.0, Kind::BFloat16, &Axis::single());
        assert!((sums.loss / 64.0 - loss).abs() < 2e-2 * loss.abs().max(1.0), "{objective:?}");
        assert!(difference(&hidden, &d_hidden) < 2e-2, "{objective:?}");
        assert!(difference(&weight, &d_weight) < 2e-2, "{objective:?}");
    }
}

/// The reference's gradient is the gradient of its loss, for every objective but the seed's.
#[test]
fn finite_differences_hold_the_reference() {
    let z = [0.3, -1.2, 2.0, 0.7, -0.4, 1.1];
    let (ids, logits) = ([2usize, 5, 0], [1.9, 0.8, 0.1]);
    for temperature in [1.0, 0.5, 2.0] {
        let teacher: Vec<f64> = [0.1, -0.9, 1.9, -0.2, -1.0, 0.8].iter().map(|z| z / temperature).collect();
        let logprobs: Vec<f64> = ids.iter().map(|&id| teacher[id] - log_sum_exp(&teacher)).collect();
        let token = Token { label: 3, ids: &ids, logprobs: &logprobs, logits: &logits };
        for objective in objectives(temperature) {
            let (_, gradient) = loss_and_gradient(objective, &z, &token);
            let mut worst = 0.0f64;
            for i in 0..z.len() {
                let loss_at = |step: f64| {
                    let mut moved = z;
                    moved[i] += step;
                    loss_and_gradient(objective, &moved, &token).0
                };
                worst = worst.max(((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5 - gradient[i]).abs());
            }
            if matches!(objective, Objective::SoftCe { tail: Tail::Metaseq, .. }) {
                assert!(worst > 1e-2, "the seed's gradient is not that of its loss, yet differs by {worst} only");
            } else {
                assert!(worst < 1e-8, "{objective:?} at temperature {temperature}: off by {worst}");
            }
        }
    }
}

/// Where descent along the seed's gradient ends: p = w + (1 − M)/V, the missing mass spread over all ids.
#[test]
fn the_seeds_gradient_vanishes_at_w_plus_an_even_share_of_the_rest() {
    let weights: [f64; 3] = [0.5, 0.2, 0.1];
    let (v, mass): (usize, f64) = (8, weights.iter().sum());
    let p: Vec<f64> = (0..v).map(|i| weights.get(i).copied().unwrap_or(0.0) + (1.0 - mass) / v as f64).collect();
    let z: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    assert!(softmax(&z).iter().zip(&p).all(|(a, b)| (a - b).abs() < 1e-12));
    let logprobs = weights.map(f64::ln);
    let token = Token { label: 0, ids: &[0, 1, 2], logprobs: &logprobs, logits: &logprobs };
    let seed = Objective::SoftCe { tail: Tail::Metaseq, temperature: 1.0 };
    let (_, gradient) = loss_and_gradient(seed, &z, &token);
    // What is left is the same for every id: it moves the logits together (drift), not the probabilities.
    assert!(gradient.iter().all(|g| (g - (1.0 - mass) / v as f64).abs() < 1e-12), "{gradient:?}");
}
