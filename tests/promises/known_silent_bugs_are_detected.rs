//! Bugs that public distillation code has shipped without a crash or a suspicious curve, each as a small f64 function beside the correct
//! one. Oracle: on one fixed batch the correct function agrees with `objective::reference` to 1e-9 and with the head at tp 1 and 2 to
//! 1e-5, while the bug differs from both by more than [`MARGIN`] in the value, the gradient or both, as documented for it.
//! docs/objectives.md says where each was seen.

use std::thread;

use hydrometer::dist::c10d::Store;
use hydrometer::dist::part;
use hydrometer::dist::{Mesh, ProcessGroup};
use hydrometer::objective::head::Head;
use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient, softmax};
use hydrometer::objective::targets::{Targets, Teacher};
use hydrometer::objective::{Loss, Objective, Tail};
use tch::{Device, Kind, Tensor};

/// In nats, and in nats per unit of a logit: a hundred times the head's tolerance.
const MARGIN: f64 = 1e-3;
const V: usize = 8;
/// Number of ids that the teacher lists, unless it lists all.
const K: usize = 3;

/// One token of the batch; its numbers are exact in f32.
struct Row {
    z: [f64; V],
    teacher: [f64; V],
    label: usize,
    /// Factor of this row's share of the batch mean under a mean of micro-batch means: row 0 is a micro-batch of its own.
    micro: f64,
}

/// The student is more confident than its teacher; each half of the vocabulary is a shard.
const ROWS: [Row; 3] = [
    Row {
        z: [3.0, -1.5, 1.25, 0.5, -1.0, 2.5, -2.0, 0.25],
        teacher: [1.75, -1.0, 0.75, 0.0, -0.5, 1.5, -1.0, 0.25],
        label: 3,
        micro: 1.5,
    },
    Row {
        z: [-1.0, 3.5, 0.25, 1.5, 2.5, -0.75, 0.5, -1.5],
        teacher: [-0.5, 2.25, 0.25, 0.75, 1.0, -0.25, 0.5, -1.0],
        label: 4,
        micro: 0.75,
    },
    Row {
        z: [0.5, 0.25, -1.25, -2.0, -0.5, 1.0, 3.25, 2.75],
        teacher: [0.5, 0.0, -0.75, -1.25, -0.25, 0.75, 1.5, 1.25],
        label: 0,
        micro: 0.75,
    },
];

/// A loss and its gradient in z.
type Answer = (f64, Vec<f64>);

/// Whether a bug shows in the value, the gradient or both.
enum Shows {
    Value,
    Gradient,
    Both,
}

struct Bug {
    name: &'static str,
    loss: Loss,
    /// Number of listed ids.
    k: usize,
    right: fn(&Row) -> Answer,
    wrong: fn(&Row) -> Answer,
    shows: Shows,
}

impl Row {
    fn ids(&self, k: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..V).collect();
        order.sort_by(|&a, &b| self.teacher[b].total_cmp(&self.teacher[a]));
        order.truncate(k);
        order
    }

    /// The teacher's probabilities of its k most likely ids, zero elsewhere.
    fn w(&self, k: usize, temperature: f64) -> Vec<f64> {
        let mut w = vec![0.0; V];
        let all = softmax(&self.teacher.map(|y| y / temperature));
        self.ids(k).into_iter().for_each(|id| w[id] = all[id]);
        w
    }

    /// The same for [`K`] ids, scaled to sum to one.
    fn renormalized(&self) -> Vec<f64> {
        let w = self.w(K, 1.0);
        w.iter().map(|x| x / w.iter().sum::<f64>()).collect()
    }

    fn label(&self) -> Vec<f64> {
        (0..V).map(|i| f64::from(i == self.label)).collect()
    }
}

/// −Σ t ln p and (Σ t)·p − t.
fn ce(t: &[f64], u: &[f64]) -> Answer {
    let (lse, sum) = (log_sum_exp(u), t.iter().sum::<f64>());
    let value = t.iter().zip(u).filter(|(t, _)| **t > 0.0).map(|(t, u)| t * (lse - u)).sum();
    (value, u.iter().zip(t).map(|(u, t)| sum * (u - lse).exp() - t).collect())
}

/// −Σ t ln t.
fn entropy(t: &[f64]) -> f64 {
    t.iter().filter(|t| **t > 0.0).map(|t| -t * t.ln()).sum()
}

fn kl_forward(w: &[f64], z: &[f64]) -> Answer {
    let (value, gradient) = ce(w, z);
    (value - entropy(w), gradient)
}

fn kl_reverse(w: &[f64], z: &[f64]) -> Answer {
    let p = softmax(z);
    let value: f64 = p.iter().zip(w).map(|(p, w)| p * (p / w).ln()).sum();
    (value, p.iter().zip(w).map(|(p, w)| p * ((p / w).ln() - value)).collect())
}

/// `beta` weighs the teacher, in the mixture and in the sum.
fn jsd(w: &[f64], z: &[f64], beta: f64) -> Answer {
    let p = softmax(z);
    let m: Vec<f64> = p.iter().zip(w).map(|(p, w)| beta * w + (1.0 - beta) * p).collect();
    let kl = |a: &[f64]| a.iter().zip(&m).map(|(a, m)| a * (a / m).ln()).sum::<f64>();
    let (of_student, gradient) = (kl(&p), p.iter().zip(&m));
    let gradient = gradient.map(|(p, m)| (1.0 - beta) * p * ((p / m).ln() - of_student)).collect();
    (beta * kl(w) + (1.0 - beta) * of_student, gradient)
}

/// Σ (z − y)²/`by` over the teacher's ids.
fn logit_mse(row: &Row, by: f64) -> Answer {
    let mut gradient = vec![0.0; V];
    row.ids(K).into_iter().for_each(|id| gradient[id] = 2.0 * (row.z[id] - row.teacher[id]) / by);
    (gradient.iter().map(|g| g * g * by / 4.0).sum(), gradient)
}

/// `of` at z/τ, its gradient in z.
fn tempered(row: &Row, temperature: f64, of: impl Fn(&[f64]) -> Answer) -> Answer {
    let (value, gradient) = of(&row.z.map(|z| z / temperature));
    scaled((value, gradient), 1.0, 1.0 / temperature)
}

fn scaled((value, gradient): Answer, a: f64, b: f64) -> Answer {
    (a * value, gradient.iter().map(|g| b * g).collect())
}

fn sum(a: Answer, b: Answer) -> Answer {
    (a.0 + b.0, a.1.iter().zip(&b.1).map(|(a, b)| a + b).collect())
}

fn raw(row: &Row) -> Answer {
    ce(&row.w(K, 1.0), &row.z)
}

/// metaseq's backward pass: the factor M is missing in M·p − w.
fn metaseq(row: &Row) -> Answer {
    let p = softmax(&row.z);
    (raw(row).0, p.iter().zip(row.w(K, 1.0)).map(|(p, w)| p - w).collect())
}

/// metaseq's backward pass on two shards, written by index: ids of the other shard are mapped to column 0 with weight 0, and of several
/// writes to one column the last one wins.
fn metaseq_without_accumulating(row: &Row) -> Answer {
    let (p, w) = (softmax(&row.z), row.w(K, 1.0));
    let mut gradient = p.clone();
    for start in [0, V / 2] {
        for id in row.ids(K) {
            let here = (start..start + V / 2).contains(&id);
            let (column, weight) = if here { (id, w[id]) } else { (start, 0.0) };
            gradient[column] = p[column] - weight;
        }
    }
    (raw(row).0, gradient)
}

/// Softmax over only the k ids, on both sides.
fn double_renormalized(row: &Row) -> Answer {
    let listed = row.ids(K);
    let among: Vec<f64> = (0..V).map(|i| if listed.contains(&i) { row.z[i] } else { f64::NEG_INFINITY }).collect();
    ce(&row.renormalized(), &among)
}

/// Every shard uses its own logsumexp, as if it were the whole vocabulary.
fn local_softmax(row: &Row) -> Answer {
    let w = row.w(K, 1.0);
    let mass: f64 = w.iter().sum();
    let (mut value, mut gradient) = (0.0, vec![]);
    for (z, w) in row.z.chunks(V / 2).zip(w.chunks(V / 2)) {
        value += ce(w, z).0;
        gradient.extend(softmax(z).iter().zip(w).map(|(p, w)| mass * p - w));
    }
    (value, gradient)
}

fn bugs() -> Vec<Bug> {
    let raw_ce = Loss::from(Objective::SoftCe { tail: Tail::Raw, temperature: 1.0 });
    let warm = Objective::SoftCe { tail: Tail::Raw, temperature: 2.0 };
    let kl_raw = Loss::from(Objective::KlForward { tail: Tail::Raw, temperature: 1.0, skew: 0.0 });
    let bug = |name, loss, k, right, wrong, shows| Bug { name, loss, k, right, wrong, shows };
    vec![
        bug("soft-ce without the factor M in its backward pass", raw_ce, K, raw, metaseq, Shows::Gradient),
        bug("the same, with writes that do not accumulate", raw_ce, K, raw, metaseq_without_accumulating, Shows::Gradient),
        bug(
            "softmax over the k ids on both sides, labelled renormalised",
            Loss::from(Objective::SoftCe { tail: Tail::Renormalize, temperature: 1.0 }),
            K,
            |row| ce(&row.renormalized(), &row.z),
            double_renormalized,
            Shows::Both,
        ),
        bug(
            "temperature squared applied only to the value",
            Loss { objective: warm, lambda: 0.0, temperature_squared: true },
            K,
            |row| scaled(tempered(row, 2.0, |u| ce(&row.w(K, 2.0), u)), 4.0, 4.0),
            |row| scaled(tempered(row, 2.0, |u| ce(&row.w(K, 2.0), u)), 4.0, 1.0),
            Shows::Gradient,
        ),
        bug(
            "temperature applied only to the teacher",
            warm.into(),
            K,
            |row| tempered(row, 2.0, |u| ce(&row.w(K, 2.0), u)),
            |row| ce(&row.w(K, 2.0), &row.z),
            Shows::Both,
        ),
        bug(
            "reverse KL labelled forward",
            kl_raw,
            V,
            |row| kl_forward(&row.w(V, 1.0), &row.z),
            |row| kl_reverse(&row.w(V, 1.0), &row.z),
            Shows::Both,
        ),
        bug(
            "forward KL labelled reverse",
            Objective::KlReverse { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 }.into(),
            V,
            |row| kl_reverse(&row.w(V, 1.0), &row.z),
            |row| kl_forward(&row.w(V, 1.0), &row.z),
            Shows::Both,
        ),
        bug(
            "a hard term that is logged but has no gradient",
            Loss { lambda: 0.3, ..raw_ce },
            K,
            |row| sum(scaled(raw(row), 0.7, 0.7), scaled(ce(&row.label(), &row.z), 0.3, 0.3)),
            |row| sum(scaled(raw(row), 0.7, 0.7), scaled(ce(&row.label(), &row.z), 0.3, 0.0)),
            Shows::Gradient,
        ),
        bug("a mean of micro-batch means", raw_ce, K, raw, |row| scaled(raw(row), row.micro, row.micro), Shows::Both),
        bug("a shard's softmax used for the whole vocabulary", raw_ce, K, raw, local_softmax, Shows::Both),
        bug("cross-entropy labelled KL", kl_raw, K, |row| kl_forward(&row.w(K, 1.0), &row.z), raw, Shows::Value),
        bug(
            "jsd with beta on the student",
            Objective::Jsd { beta: 0.1, temperature: 1.0 }.into(),
            V,
            |row| jsd(&row.w(V, 1.0), &row.z, 0.1),
            |row| jsd(&row.w(V, 1.0), &row.z, 0.9),
            Shows::Both,
        ),
        bug(
            "jsd with an unrequested hard term, at the generation temperature",
            Objective::Jsd { beta: 0.5, temperature: 1.0 }.into(),
            V,
            |row| jsd(&row.w(V, 1.0), &row.z, 0.5),
            |row| {
                let soft = tempered(row, 0.9, |u| jsd(&row.w(V, 0.9), u, 0.5));
                sum(scaled(soft, 0.5, 0.5), scaled(ce(&row.label(), &row.z), 0.5, 0.5))
            },
            Shows::Both,
        ),
        bug(
            "squared error without a backward pass",
            Objective::LogitMse { centered: false, mse_mean: false }.into(),
            K,
            |row| logit_mse(row, 1.0),
            |row| scaled(logit_mse(row, 1.0), 1.0, 0.0),
            Shows::Gradient,
        ),
        bug(
            "squared error divided by the vocabulary's size",
            Objective::LogitMse { centered: false, mse_mean: true }.into(),
            K,
            |row| logit_mse(row, K as f64),
            |row| logit_mse(row, V as f64),
            Shows::Both,
        ),
        bug(
            "truncated KL clamped at zero where it is negative",
            kl_raw,
            K,
            |row| kl_forward(&row.w(K, 1.0), &row.z),
            |row| Some(kl_forward(&row.w(K, 1.0), &row.z)).filter(|(value, _)| *value > 0.0).unwrap_or((0.0, vec![0.0; V])),
            Shows::Both,
        ),
    ]
}

/// The mean over the batch, and its gradient in all logits.
fn mean(of: impl Fn(&Row) -> Answer) -> Answer {
    let rows = ROWS.each_ref().map(of);
    let n = rows.len() as f64;
    (rows.iter().map(|row| row.0 / n).sum(), rows.iter().flat_map(|row| row.1.iter().map(|g| g / n)).collect())
}

fn reference(loss: &Loss, row: &Row, k: usize) -> Answer {
    let (ids, w) = (row.ids(k), row.w(k, loss.objective.temperature().unwrap_or(1.0)));
    let logprobs: Vec<f64> = ids.iter().map(|&id| w[id].ln()).collect();
    let logits: Vec<f64> = ids.iter().map(|&id| row.teacher[id]).collect();
    loss_and_gradient(loss, &row.z, &Token { label: row.label, ids: &ids, logprobs: &logprobs, logits: &logits })
}

/// This shard's columns of a row-major `[N, V]`, f32.
fn columns(of: impl Fn(&Row) -> [f64; V], tp: &ProcessGroup) -> (Tensor, i64) {
    let (start, width) = part(V as i64, tp.rank, tp.size);
    let all = Tensor::from_slice(&ROWS.each_ref().map(of).concat()).view([-1, V as i64]).to_kind(Kind::Float);
    (all.narrow(1, start, width).contiguous(), start)
}

/// Runs the head with each bug's loss on this shard: the mean, and the gradient in the shard's logits.
fn head(bugs: &[Bug], tp: &ProcessGroup) -> Vec<(f64, Tensor)> {
    let (z_nv, start) = columns(|row| row.z, tp);
    let head = Head { weight_vd: &z_nv, vocab_start: start, vocab_size: V as i64, tp };
    let n = ROWS.len() as i64;
    let of = |bug: &Bug| {
        let temperature = bug.loss.objective.temperature().unwrap_or(1.0);
        let ids = ROWS.each_ref().map(|row| row.ids(bug.k));
        let at_ids = |of: &dyn Fn(&Row, usize) -> f64| {
            let values = ROWS.iter().zip(&ids).flat_map(|(row, ids)| ids.iter().map(|&id| of(row, id) as f32));
            Tensor::from_slice(&values.collect::<Vec<_>>()).view([n, -1])
        };
        let logprobs = at_ids(&|row, id| row.w(bug.k, temperature)[id].ln());
        let ids = Tensor::from_slice(&ids.concat().iter().map(|&id| id as i64).collect::<Vec<_>>()).view([n, -1]);
        let teacher = Teacher::listed(ids, Some(logprobs), Some(at_ids(&|row, id| row.teacher[id])));
        let targets = Targets { labels_n: labels(), teacher: Some(teacher) };
        let (measured, gradient) = head.loss_and_logit_gradient(&bug.loss, &z_nv, &targets, 1.0 / n as f64).unwrap();
        (measured.sums().unwrap().loss / n as f64, gradient)
    };
    bugs.iter().map(of).collect()
}

fn labels() -> Tensor {
    Tensor::from_slice(&ROWS.each_ref().map(|row| row.label as i64))
}

/// Calls `of` on each of `size` shards, each in its own thread.
fn on_shards<T: Send>(size: usize, of: impl Fn(&ProcessGroup) -> T + Sync) -> Vec<T> {
    let (store, of) = (Store::in_process(), &of);
    thread::scope(|scope| {
        let join = |rank, store: Store| move || of(&Mesh::join(&store, rank, size, 1, Device::Cpu).unwrap().tp);
        let ranks: Vec<_> = (0..size).map(|rank| scope.spawn(join(rank, store.clone()))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// [`head`] on `tp` shards, as [`Answer`]s for the whole vocabulary.
fn fast(bugs: &[Bug], tp: usize) -> Vec<Answer> {
    let shards = on_shards(tp, |tp| head(bugs, tp));
    let gradient = |index: usize| {
        let parts: Vec<&Tensor> = shards.iter().map(|shard| &shard[index].1).collect();
        Vec::<f64>::try_from(Tensor::cat(&parts, 1).to_kind(Kind::Double).flatten(0, -1)).unwrap()
    };
    (0..bugs.len()).map(|index| (shards[0][index].0, gradient(index))).collect()
}

/// The largest absolute differences of values and of gradients.
fn gaps(a: &Answer, b: &Answer) -> (f64, f64) {
    assert_eq!(a.1.len(), b.1.len());
    ((a.0 - b.0).abs(), a.1.iter().zip(&b.1).fold(0.0, |worst, (a, b)| (a - b).abs().max(worst)))
}

#[test]
fn each_bug_shows_in_value_or_gradient_on_one_small_batch() {
    let bugs = bugs();
    let (one, two) = (fast(&bugs, 1), fast(&bugs, 2));
    for (index, bug) in bugs.iter().enumerate() {
        let oracle = mean(|row| reference(&bug.loss, row, bug.k));
        for (found, close) in [(&oracle, 1e-9), (&one[index], 1e-5), (&two[index], 1e-5)] {
            let (value, gradient) = gaps(&mean(bug.right), found);
            assert!(value < close && gradient < close, "{}: the correct function is off by {value} and {gradient}", bug.name);
            let (value, gradient) = gaps(&mean(bug.wrong), found);
            let detected = match bug.shows {
                Shows::Value => value > MARGIN && gradient < close,
                Shows::Gradient => value < close && gradient > MARGIN,
                Shows::Both => value > MARGIN && gradient > MARGIN,
            };
            assert!(detected, "{}: off by {value} in value and {gradient} in gradient", bug.name);
        }
    }
}

/// The loss that metaseq trained is available under its own name.
#[test]
fn metaseqs_gradient_is_available_as_tail_metaseq() {
    let loss = Loss::from(Objective::SoftCe { tail: Tail::Metaseq, temperature: 1.0 });
    let named = [Bug { name: "metaseq", loss, k: K, right: metaseq, wrong: metaseq, shows: Shows::Gradient }];
    let (value, gradient) = gaps(&mean(metaseq), &mean(|row| reference(&loss, row, K)));
    assert!(value < 1e-9 && gradient < 1e-9, "{value} {gradient}");
    let (value, gradient) = gaps(&mean(metaseq), &fast(&named, 2)[0]);
    assert!(value < 1e-5 && gradient < 1e-5, "{value} {gradient}");
}

/// The best id of a shard need not be the best of the vocabulary. Counting it as such finds labels that the student does not predict.
#[test]
fn accuracy_uses_the_argmax_of_the_whole_vocabulary() {
    let best = |z: &[f64]| (0..z.len()).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
    let right: Vec<i64> = ROWS.iter().map(|row| best(&row.z) as i64).collect();
    let hits = |row: &Row| row.z.chunks(V / 2).enumerate().filter(|(shard, z)| shard * V / 2 + best(z) == row.label).count();
    let counted = (right.iter().zip(&ROWS).filter(|(id, row)| **id == row.label as i64).count(), ROWS.iter().map(hits).sum());
    assert_eq!(counted, (0, 2), "the batch is made so that the bug counts two correct labels where there are none");
    for size in [1, 2] {
        for found in on_shards(size, |tp| {
            let (start, width) = part(V as i64, tp.rank, tp.size);
            let weight_vd = Tensor::eye(V as i64, (Kind::Float, Device::Cpu)).narrow(0, start, width);
            let head = Head { weight_vd: &weight_vd, vocab_start: start, vocab_size: V as i64, tp };
            let (hidden_nd, _) = columns(|row| row.z, &ProcessGroup::single());
            Vec::<i64>::try_from(head.predict(&hidden_nd, &labels()).unwrap().top_n).unwrap()
        }) {
            assert_eq!(found, right, "tp {size}");
        }
    }
}
