//! Oracle: enumeration in f64 of every text that a small table model can write. The mean of an estimator's gradient over all texts, each
//! with its probability, is compared with the gradient of a divergence that is computed without any samples.

use std::collections::BTreeMap;

use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient, softmax};
use hydrometer::objective::{Estimator, Objective, Tail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const PAGE: &str = include_str!("../../docs/objectives.md");
/// Number of ids. The first ends a text.
const V: usize = 6;
const LENGTH: usize = 3;
const CLOSE: f64 = 1e-10;

type Prefix = Vec<usize>;
/// Logits of the next id after each prefix: a language model whose parameters they are.
type Model = BTreeMap<Prefix, [f64; V]>;
/// With respect to the student's logits.
type Gradient = BTreeMap<Prefix, [f64; V]>;

/// Every prefix to which an id can be added.
fn prefixes() -> Vec<Prefix> {
    let mut all = vec![vec![]];
    for length in 1..LENGTH {
        let shorter: Vec<Prefix> = all.iter().filter(|prefix| prefix.len() == length - 1).cloned().collect();
        all.extend(shorter.iter().flat_map(|prefix| (1..V).map(|id| [&prefix[..], &[id]].concat())));
    }
    all
}

/// Every text: it ends with id 0 or at the greatest length.
fn texts() -> Vec<Vec<usize>> {
    let extended = prefixes().into_iter().flat_map(|prefix| (0..V).map(move |id| [&prefix[..], &[id]].concat()));
    extended.filter(|text| text.len() == LENGTH || text.last() == Some(&0)).collect()
}

fn random_model(seed: u64, near: Option<&Model>) -> Model {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut logits = |prefix: &Prefix| {
        std::array::from_fn(|id| {
            let random = rng.random_range(-1.0..1.0f64);
            near.map_or(1.5 * random, |near| near[prefix][id] + 0.2 * random)
        })
    };
    prefixes().into_iter().map(|prefix| (prefix.clone(), logits(&prefix))).collect()
}

fn log_softmax(z: &[f64; V]) -> [f64; V] {
    z.map(|x| x - log_sum_exp(z))
}

/// Probability that a text begins with `prefix`, or is it.
fn probability(model: &Model, prefix: &[usize]) -> f64 {
    (0..prefix.len()).map(|at| softmax(&model[&prefix[..at]])[prefix[at]]).product()
}

struct Pair {
    student: Model,
    teacher: Model,
}

/// What is computed at a position of a written text.
#[derive(Clone, Copy, Debug)]
enum Estimate {
    /// The divergence over all ids, or over the teacher's k likeliest and "something else".
    Summed(Objective, usize),
    Sampled(Estimator),
    /// The same, with the later positions' L added to the advantage.
    WithLater(Estimator),
}

impl Pair {
    /// L at a position of `text`.
    fn l(&self, text: &[usize], at: usize) -> f64 {
        let (prefix, id) = (&text[..at], text[at]);
        log_softmax(&self.teacher[prefix])[id] - log_softmax(&self.student[prefix])[id]
    }

    /// Value and gradient at a position of `text`.
    fn at(&self, estimate: Estimate, text: &[usize], at: usize) -> (f64, Vec<f64>) {
        let (prefix, drawn) = (&text[..at], text[at]);
        let logprobs = log_softmax(&self.teacher[prefix]);
        let mut ids: Vec<usize> = (0..V).collect();
        ids.sort_by(|&a, &b| logprobs[b].total_cmp(&logprobs[a]));
        let (objective, ids, more) = match estimate {
            Estimate::Summed(objective, k) => (objective, &ids[..k], 0.0),
            Estimate::Sampled(estimator) => (Objective::SampledKl { estimator, temperature: 1.0 }, &[drawn][..], 0.0),
            Estimate::WithLater(estimator) => {
                let later = (at + 1..text.len()).map(|later| self.l(text, later)).sum();
                (Objective::SampledKl { estimator, temperature: 1.0 }, &[drawn][..], later)
            }
        };
        let logprobs: Vec<f64> = ids.iter().map(|&id| logprobs[id] + more).collect();
        let token = Token { label: drawn, ids, logprobs: &logprobs, logits: &[] };
        loss_and_gradient(&objective.into(), &self.student[prefix], &token)
    }

    /// Mean value, mean gradient, and the total variance of the gradient, of a text that the student writes.
    fn over_texts(&self, estimate: Estimate) -> (f64, Gradient, f64) {
        let mut mean: Gradient = self.student.keys().map(|prefix| (prefix.clone(), [0.0; V])).collect();
        let (mut value, mut square) = (0.0, 0.0);
        for text in texts() {
            let weight = probability(&self.student, &text);
            for at in 0..text.len() {
                let (value_at, gradient) = self.at(estimate, &text, at);
                value += weight * value_at;
                // Positions of a text have different prefixes, hence different parameters.
                square += weight * gradient.iter().map(|g| g * g).sum::<f64>();
                let sum = mean.get_mut(&text[..at]).expect("a prefix");
                sum.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += weight * g);
            }
        }
        let variance = square - mean.values().flatten().map(|g| g * g).sum::<f64>();
        (value, mean, variance)
    }

    /// Σ over prefixes of their probability times the gradient of `divergence` of the next id, with that probability held fixed.
    fn per_position(&self, divergence: impl Fn(&[f64], &[f64]) -> Vec<f64>) -> Gradient {
        let at = |prefix: &Prefix| {
            let (s, t) = (softmax(&self.student[prefix]), softmax(&self.teacher[prefix]));
            let gradient = divergence(&s, &t);
            let weight = probability(&self.student, prefix);
            std::array::from_fn(|id| weight * gradient[id])
        };
        prefixes().into_iter().map(|prefix| (prefix.clone(), at(&prefix))).collect()
    }

    /// KL(student ‖ teacher) of what follows `prefix`.
    fn rest_of_text(&self, prefix: &[usize]) -> f64 {
        let Some(z) = self.student.get(prefix) else { return 0.0 };
        let s = softmax(z);
        (0..V).map(|id| s[id] * self.with_next(prefix, id)).sum()
    }

    /// ln s/t of `id` after `prefix`, and the KL of what follows.
    fn with_next(&self, prefix: &[usize], id: usize) -> f64 {
        let text = [prefix, &[id]].concat();
        let rest = if id == 0 { 0.0 } else { self.rest_of_text(&text) };
        rest - self.l(&text, prefix.len())
    }

    /// The gradient of KL(student ‖ teacher) between whole texts: P(prefix)·s(id)·(Q(id) − Σ s Q).
    fn of_texts(&self) -> Gradient {
        let at = |prefix: &Prefix| {
            let (s, weight) = (softmax(&self.student[prefix]), probability(&self.student, prefix));
            let mean = self.rest_of_text(prefix);
            std::array::from_fn(|id| weight * s[id] * (self.with_next(prefix, id) - mean))
        };
        prefixes().into_iter().map(|prefix| (prefix.clone(), at(&prefix))).collect()
    }
}

fn kl_reverse(s: &[f64], t: &[f64]) -> Vec<f64> {
    let value: f64 = s.iter().zip(t).map(|(s, t)| s * (s / t).ln()).sum();
    s.iter().zip(t).map(|(s, t)| s * ((s / t).ln() - value)).collect()
}

fn kl_forward(s: &[f64], t: &[f64]) -> Vec<f64> {
    s.iter().zip(t).map(|(s, t)| s - t).collect()
}

/// [`kl_reverse`] after all ids but the teacher's three likeliest are merged into one.
fn kl_reverse_of_top_3(s: &[f64], t: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..V).collect();
    order.sort_by(|&a, &b| t[b].total_cmp(&t[a]));
    let merged = |x: &[f64]| -> Vec<f64> {
        order[..3].iter().map(|&id| x[id]).chain([order[3..].iter().map(|&id| x[id]).sum()]).collect()
    };
    let (small_s, small_t) = (merged(s), merged(t));
    let small = kl_reverse(&small_s, &small_t);
    let place = |id: usize| order[..3].iter().position(|&top| top == id);
    (0..V).map(|id| place(id).map_or_else(|| small[3] * s[id] / small_s[3], |at| small[at])).collect()
}

fn far_off(a: &Gradient, b: &Gradient) -> f64 {
    a.values().flatten().zip(b.values().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A student that differs from the teacher, and one that almost equals it.
fn pairs() -> [Pair; 2] {
    let teacher = random_model(1, None);
    let near = random_model(3, Some(&teacher));
    [Pair { student: random_model(2, None), teacher: teacher.clone() }, Pair { student: near, teacher }]
}

const EXACT: Estimate = Estimate::Summed(Objective::KlReverse { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 }, V);
const TOP_3: Estimate = Estimate::Summed(Objective::KlReverse { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 }, 3);

#[test]
fn the_mean_gradient_of_every_estimator_is_that_of_its_divergence() {
    for pair in pairs() {
        let reverse = pair.per_position(kl_reverse);
        for (estimate, wanted) in [
            (EXACT, &reverse),
            (TOP_3, &pair.per_position(kl_reverse_of_top_3)),
            (Estimate::Sampled(Estimator::K1), &reverse),
            (Estimate::Sampled(Estimator::K2), &reverse),
            (Estimate::Sampled(Estimator::K3AsLoss), &pair.per_position(kl_forward)),
            (Estimate::WithLater(Estimator::K1), &pair.of_texts()),
        ] {
            let (_, mean, _) = pair.over_texts(estimate);
            let gap = far_off(&mean, wanted);
            assert!(gap < CLOSE, "{estimate:?} is off by {gap}");
        }
        // What sells k3 as reverse KL: that is what its value estimates, while its gradient is that of forward KL.
        let whole = pair.rest_of_text(&[]);
        for estimate in [EXACT, Estimate::Sampled(Estimator::K1), Estimate::Sampled(Estimator::K3AsLoss)] {
            let (value, _, _) = pair.over_texts(estimate);
            assert!((value - whole).abs() < CLOSE, "{estimate:?}: {value}, not {whole}");
        }
        let (_, of_k3, _) = pair.over_texts(Estimate::Sampled(Estimator::K3AsLoss));
        assert!(far_off(&of_k3, &reverse) > 1e-4, "k3 descends the reverse KL after all");
    }
}

/// The value of k1 is −L, whose gradient is ∇ln s: a step that expects to change nothing.
#[test]
fn differentiated_as_a_loss_k1_has_no_gradient() {
    let [pair, _] = pairs();
    let mut mean: Gradient = pair.student.keys().map(|prefix| (prefix.clone(), [0.0; V])).collect();
    for text in texts() {
        for at in 0..text.len() {
            let p = softmax(&pair.student[&text[..at]]);
            let sum = mean.get_mut(&text[..at]).unwrap();
            let of_log = |id: usize| f64::from(id == text[at]) - p[id];
            (0..V).for_each(|id| sum[id] += probability(&pair.student, &text) * of_log(id));
        }
    }
    assert!(mean.values().flatten().all(|g| g.abs() < CLOSE));
}

/// Oracle: central differences of the KL between whole texts, by enumeration.
#[test]
fn the_gradient_of_the_kl_of_texts_is_that_of_its_value() {
    let [Pair { student, teacher }, _] = pairs();
    let value = |student: &Model| -> f64 {
        let terms = texts().into_iter().map(|text| {
            let (s, t) = (probability(student, &text), probability(&teacher, &text));
            s * (s / t).ln()
        });
        terms.sum()
    };
    let moved = |prefix: &Prefix, id: usize, by: f64| {
        let mut moved = student.clone();
        moved.get_mut(prefix).unwrap()[id] += by;
        value(&moved)
    };
    let pair = Pair { student: student.clone(), teacher: teacher.clone() };
    for (prefix, gradient) in pair.of_texts() {
        for id in 0..V {
            let slope = (moved(&prefix, id, 1e-5) - moved(&prefix, id, -1e-5)) / 2e-5;
            assert!((slope - gradient[id]).abs() < 1e-9, "{prefix:?} {id}: {slope}, not {}", gradient[id]);
        }
    }
}

/// Oracle: enumeration.
#[test]
fn the_page_gives_the_variance_of_every_estimator() {
    let rows = [
        ("`exact`", EXACT),
        ("`top-k`, k = 3", TOP_3),
        ("`k1`", Estimate::Sampled(Estimator::K1)),
        ("`k2`", Estimate::Sampled(Estimator::K2)),
        ("`k3-as-loss`", Estimate::Sampled(Estimator::K3AsLoss)),
        ("`k1` with later tokens", Estimate::WithLater(Estimator::K1)),
    ];
    let pairs = pairs();
    let missing = rows.into_iter().filter_map(|(name, estimate)| {
        let [far, near] = pairs.each_ref().map(|pair| pair.over_texts(estimate).2);
        let wanted = format!("| {far:.4} | {near:.5} |");
        let found = PAGE.lines().any(|line| line.starts_with(&format!("| {name} |")) && line.ends_with(&wanted));
        (!found).then(|| format!("| {name} | … {wanted}"))
    });
    let missing: Vec<String> = missing.collect();
    assert!(missing.is_empty(), "docs/objectives.md lacks the rows\n{}", missing.join("\n"));
}
