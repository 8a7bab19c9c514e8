//! Oracle: `objective::reference` in plain f64, which `the_reference_matches_its_formulas` checks by finite differences.

use std::thread;

use hydrometer::dist::c10d::Store;
use hydrometer::dist::part;
use hydrometer::dist::{Mesh, ProcessGroup};
use hydrometer::model::parallel::shard;
use hydrometer::model::parameters::Shard;
use hydrometer::objective::head::Head;
use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient, softmax};
use hydrometer::objective::targets::{Ids, Targets, Teacher};
use hydrometer::objective::{Estimator, Loss, Objective, Tail};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// Which ids the teacher of a [`Case`] lists.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Listing {
    /// The k most likely ids, with their mass scaled to this value.
    Top(f64),
    /// The same, with some ids listed twice and some with weight 0.
    Untidy,
    /// The label alone, drawn from the student.
    Drawn,
    /// All ids, with their log-probabilities.
    All,
    /// The same in double precision, which the CPU's kernels for dense targets do not take.
    AllDouble,
    /// All ids, with logits alone, in this format.
    AllLogits(Kind),
}

/// A random problem of N tokens over V ids.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    v: usize,
    /// `[N, V]`
    z: Vec<f32>,
    labels: Vec<i64>,
    /// `[N, k]`
    ids: Vec<i64>,
    logprobs: Vec<f32>,
    /// The same before they are rounded.
    exact_logprobs: Vec<f64>,
    logits: Vec<f32>,
    listing: Listing,
}

impl Case {
    /// Logits within ± `peak`, all shifted by the same offset of up to ten times that.
    fn new(seed: u64, n: usize, v: usize, k: usize, peak: f64, temperature: f64, listing: Listing) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = move || rng.random_range(-1.0..1.0f64);
        let (mut z, mut labels, mut ids, mut logprobs, mut logits) = (vec![], vec![], vec![], vec![], vec![]);
        let mut exact_logprobs = vec![];
        for _ in 0..n {
            let shift = uniform() * 10.0 * peak.min(1e3);
            z.extend((0..v).map(|_| (uniform() * peak + shift) as f32));
            let at = uniform() * 0.5 + 0.5;
            labels.push(match listing {
                Listing::Drawn => {
                    let u: Vec<f64> = z[z.len() - v..].iter().map(|&z| f64::from(z) / temperature).collect();
                    let mut left = at;
                    let drawn = softmax(&u).into_iter().position(|p| {
                        left -= p;
                        left < 0.0
                    });
                    drawn.unwrap_or(0) as i64
                }
                _ => (at * (v - 1) as f64) as i64,
            });
            // With few digits, so that every format has them exactly.
            let teacher: Vec<f64> = (0..v).map(|_| (uniform() * 128.0).round() / 32.0).collect();
            let warm: Vec<f64> = teacher.iter().map(|z| z / temperature).collect();
            let mut order: Vec<usize> = (0..v).collect();
            order.sort_by(|&a, &b| teacher[b].total_cmp(&teacher[a]));
            match listing {
                Listing::All | Listing::AllDouble | Listing::AllLogits(_) => order.sort_unstable(),
                Listing::Top(_) | Listing::Untidy => order.truncate(k),
                Listing::Drawn => order = vec![labels[labels.len() - 1] as usize],
            }
            let scale = if let Listing::Top(part) = listing { part.ln() } else { 0.0 };
            let (first, mut row) = (logprobs.len(), order.clone());
            let exact: Vec<f64> = order.iter().map(|&id| warm[id] - log_sum_exp(&warm) + scale).collect();
            logprobs.extend(exact.iter().map(|&logprob| logprob as f32));
            exact_logprobs.extend(exact);
            logits.extend(order.iter().map(|&id| teacher[id] as f32));
            if listing == Listing::Untidy && k >= 3 {
                row[k - 1] = row[0];
                logprobs[first + k - 2] = f32::NEG_INFINITY;
                logits[first + k - 2] = f32::NEG_INFINITY;
            }
            ids.extend(row.iter().map(|&id| id as i64));
        }
        Self { n, v, z, labels, ids, logprobs, exact_logprobs, logits, listing }
    }

    fn k(&self) -> usize {
        self.ids.len() / self.n
    }

    /// The reference's value and gradient in z, per token.
    fn expected(&self, loss: &Loss) -> (Vec<f64>, Vec<f64>) {
        let (mut values, mut gradients) = (vec![], vec![]);
        for n in 0..self.n {
            let z: Vec<f64> = self.z[n * self.v..(n + 1) * self.v].iter().map(|&z| f64::from(z)).collect();
            let at = n * self.k()..(n + 1) * self.k();
            let ids: Vec<usize> = self.ids[at.clone()].iter().map(|&id| id as usize).collect();
            let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            let logprobs = match self.listing {
                Listing::AllLogits(_) => self.exact_logprobs[at.clone()].to_vec(),
                _ => wide(&self.logprobs[at.clone()]),
            };
            let logits = wide(&self.logits[at]);
            let token = Token { label: self.labels[n] as usize, ids: &ids, logprobs: &logprobs, logits: &logits };
            let (value, gradient) = loss_and_gradient(loss, &z, &token);
            values.push(value);
            gradients.extend(gradient);
        }
        (values, gradients)
    }

    fn targets(&self, tp: &ProcessGroup) -> Targets {
        let matrix = |values: &[f32]| Tensor::from_slice(values).view([self.n as i64, -1]);
        let (logprobs, logits) = (matrix(&self.logprobs), matrix(&self.logits));
        let (start, width) = part(self.v as i64, tp.rank, tp.size);
        let mine = |t: Tensor, kind: Kind| Some(t.narrow(1, start, width).to_kind(kind));
        let all = |logprobs_nk, logits_nk| Teacher { ids: Ids::All, logprobs_nk, logits_nk };
        let teacher = match self.listing {
            Listing::All => all(mine(logprobs, Kind::Float), mine(logits, Kind::Float)),
            Listing::AllDouble => all(mine(logprobs, Kind::Double), mine(logits, Kind::Double)),
            Listing::AllLogits(kind) => all(None, mine(logits, kind)),
            Listing::Top(_) | Listing::Untidy | Listing::Drawn => {
                Teacher::listed(Tensor::from_slice(&self.ids).view([self.n as i64, -1]), Some(logprobs), Some(logits))
            }
        };
        Targets { labels_n: Tensor::from_slice(&self.labels), teacher: Some(teacher) }
    }

    /// The head's value per token, and this shard's part of the gradient in z.
    fn found(&self, loss: &Loss, tp: &ProcessGroup) -> (Tensor, Tensor) {
        let (start, width) = part(self.v as i64, tp.rank, tp.size);
        let z_nv = Tensor::from_slice(&self.z).view([self.n as i64, -1]).narrow(1, start, width);
        let head = Head { weight_vd: &z_nv, vocab_start: start, vocab_size: self.v as i64, tp };
        let (measured, gradient) = head.loss_and_logit_gradient(loss, &z_nv, &self.targets(tp), 1.0).unwrap();
        (measured.loss_n(), gradient)
    }
}

/// Every objective, with and without a hard term, at `temperature`.
pub fn losses(temperature: f64) -> Vec<Loss> {
    let mut all: Vec<Objective> = Tail::ALL.into_iter().map(|tail| Objective::SoftCe { tail, temperature }).collect();
    for tail in Tail::ALL {
        for skew in [0.0, 0.1, 0.9] {
            all.push(Objective::KlForward { tail, temperature, skew });
            all.push(Objective::KlReverse { tail, temperature, skew });
        }
    }
    all.retain(|objective| objective.undefined().is_none());
    all.push(Objective::Jsd { beta: 0.5, temperature });
    all.push(Objective::Jsd { beta: 0.1, temperature });
    all.push(Objective::LogprobMse { mse_mean: false, temperature });
    if temperature == 1.0 {
        all.extend([0.0, 0.1, 0.9].map(|label_smoothing| Objective::HardCe { label_smoothing }));
        for (centered, mse_mean) in [(false, false), (true, false), (false, true), (true, true)] {
            all.push(Objective::LogitMse { centered, mse_mean });
        }
    }
    mixed(&all)
}

/// Every estimate from drawn ids, with and without a hard term, at `temperature`.
pub fn estimates(temperature: f64) -> Vec<Loss> {
    mixed(&Estimator::ALL.map(|estimator| Objective::SampledKl { estimator, temperature }))
}

fn mixed(all: &[Objective]) -> Vec<Loss> {
    let temperature_squared = |objective: Objective| objective.temperature().is_some_and(|temperature| temperature != 1.0);
    let plain = all.iter().map(|&objective| Loss::from(objective));
    let mixed = all.iter().map(|&objective| Loss { objective, lambda: 0.3, temperature_squared: temperature_squared(objective) });
    plain.chain(mixed).collect()
}

/// Largest absolute difference, relative to the largest expected entry or `least`, whichever is larger.
fn difference(found: &Tensor, expected: &[f64], least: f64) -> f64 {
    let found = Vec::<f64>::try_from(found.to_kind(Kind::Double).flatten(0, -1)).unwrap();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(least, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (f, e)| if (f - e).abs() <= m { m } else { (f - e).abs() }) / largest
}

fn hold(case: &Case, temperature: f64, tp: usize) {
    // KL(student ‖ teacher) is infinite if the teacher lists an id with weight 0.
    let finite =
        |loss: &Loss| case.listing != Listing::Untidy || !matches!(loss.objective, Objective::KlReverse { skew: 0.0, .. });
    let all = if case.listing == Listing::Drawn { estimates(temperature) } else { losses(temperature) };
    let losses: Vec<Loss> = all.into_iter().filter(finite).collect();
    let store = Store::in_process();
    let ranks: Vec<Vec<(Tensor, Tensor)>> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..tp)
            .map(|rank| {
                let (store, losses) = (store.clone(), &losses);
                scope.spawn(move || {
                    let mesh = Mesh::join(&store, rank, tp, 1, Device::Cpu).unwrap();
                    losses.iter().map(|loss| case.found(loss, &mesh.tp)).collect()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for (index, loss) in losses.iter().enumerate() {
        let (values, gradients) = case.expected(loss);
        for rank in &ranks {
            let gap = difference(&rank[index].0, &values, 1.0);
            assert!(gap < 1e-6, "{loss:?} tp {tp} {:?}: value off by {gap}", case.listing);
        }
        let parts: Vec<&Tensor> = ranks.iter().map(|rank| &rank[index].1).collect();
        // If the student is certain to within 1e-9, even f64 has its gradient to only a few digits.
        let gap = difference(&Tensor::cat(&parts, 1), &gradients, 1e-9);
        assert!(gap < 1e-5, "{loss:?} tp {tp} {:?}: gradient off by {gap}", case.listing);
    }
}

fn listings() -> impl Strategy<Value = Listing> {
    // Weights that sum to (almost) one, and to more than one by rounding.
    prop_oneof![
        3 => Just(Listing::Top(1.0)), 1 => Just(Listing::Top(0.01)), 1 => Just(Listing::Untidy), 1 => Just(Listing::Drawn), 1 => Just(Listing::All),
        1 => Just(Listing::AllDouble), 1 => Just(Listing::AllLogits(Kind::Float)), 1 => Just(Listing::AllLogits(Kind::BFloat16))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 260, rng_seed: RngSeed::Fixed(736), ..ProptestConfig::default() })]

    #[test]
    fn value_and_gradient_agree_on_one_shard(
        seed in 0u64..1_000_000, n in 1usize..40, v in 5usize..90, k in 1usize..6,
        peak in prop_oneof![Just(0.01), Just(1.0), Just(8.0), Just(1e2), Just(1e4)],
        temperature in prop_oneof![Just(1.0), Just(0.5), Just(3.0)], listing in listings(),
    ) {
        hold(&Case::new(seed, n, v, k.min(v - 1), peak, temperature, listing), temperature, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, rng_seed: RngSeed::Fixed(736), ..ProptestConfig::default() })]

    #[test]
    fn value_and_gradient_agree_on_two_and_four_shards(
        seed in 0u64..1_000_000, n in 1usize..40, v in 5usize..90, k in 1usize..6,
        peak in prop_oneof![Just(1.0), Just(1e2), Just(1e4)],
        temperature in prop_oneof![Just(1.0), Just(2.0)], listing in listings(), tp in prop_oneof![Just(2usize), Just(4)],
    ) {
        hold(&Case::new(seed, n, v, k.min(v - 1), peak, temperature, listing), temperature, tp);
    }
}

#[test]
fn several_chunks_of_tokens_agree() {
    hold(&Case::new(6, 5000, 19, 4, 1.0, 1.0, Listing::All), 1.0, 1);
    hold(&Case::new(3, 5000, 19, 4, 1.0, 1.0, Listing::Top(1.0)), 1.0, 1);
}

/// With hidden states and a sharded weight, in f32 and bf16: checks the chain rule through the head's matrix products.
#[test]
fn gradients_of_hidden_states_and_weight_agree() {
    let (n, v, d) = (64, 48, 8);
    let case = Case::new(4, n, v, 6, 1.0, 1.0, Listing::Top(1.0));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut random = |count: usize| Tensor::from_slice(&(0..count).map(|_| rng.random_range(-1.0..1.0f32)).collect::<Vec<_>>());
    let (hidden, weight) = (random(n * d).view([n as i64, -1]), random(v * d).view([v as i64, -1]));
    for (kind, close) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
        let (hidden, weight) = (hidden.to_kind(kind), weight.to_kind(kind));
        let (hidden_f64, weight_f64) = (hidden.to_kind(Kind::Double), weight.to_kind(Kind::Double));
        let z = Vec::<f32>::try_from(hidden_f64.matmul(&weight_f64.tr()).to_kind(Kind::Float).flatten(0, -1)).unwrap();
        let case = Case { z, ..case.clone() };
        for loss in losses(1.0) {
            let (values, d_logits) = case.expected(&loss);
            let d_logits = Tensor::from_slice(&d_logits).view([n as i64, -1]) / n as f64;
            let numbers = |t: Tensor| Vec::<f64>::try_from(t.flatten(0, -1)).unwrap();
            let (d_hidden, d_weight) = (numbers(d_logits.matmul(&weight_f64)), numbers(d_logits.tr().matmul(&hidden_f64)));
            let store = Store::in_process();
            let shards: Vec<(Tensor, Tensor, Tensor)> = thread::scope(|scope| {
                let ranks: Vec<_> = (0..2)
                    .map(|rank| {
                        let (store, case, loss) = (store.clone(), &case, &loss);
                        let (hidden, weight) = (hidden.shallow_clone(), weight.shallow_clone());
                        scope.spawn(move || {
                            let mesh = Mesh::join(&store, rank, 2, 1, Device::Cpu).unwrap();
                            let tp = &mesh.tp;
                            let mine = shard(&weight, Shard::Dim0, tp);
                            let gradient = mine.zeros_like().to_kind(Kind::Float);
                            let (start, _) = part(v as i64, tp.rank, tp.size);
                            let head = Head { weight_vd: &mine, vocab_start: start, vocab_size: v as i64, tp };
                            let scale = 1.0 / n as f64;
                            let (measured, d_hidden) =
                                head.loss_and_gradients(loss, &hidden, &case.targets(tp), scale, &gradient).unwrap();
                            (measured.loss_n(), d_hidden, gradient)
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            // Logits are f32 for inputs of any precision.
            let gap = difference(&shards[0].0, &values, 1.0);
            assert!(gap < 1e-5, "{loss:?} {kind:?}: value off by {gap}");
            let gap = difference(&shards[1].1, &d_hidden, 1e-9);
            assert!(gap < close, "{loss:?} {kind:?}: hidden gradient off by {gap}");
            let gap = difference(&Tensor::cat(&[&shards[0].2, &shards[1].2], 0), &d_weight, 1e-9);
            assert!(gap < close, "{loss:?} {kind:?}: weight gradient off by {gap}");
        }
    }
}
