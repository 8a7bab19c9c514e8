//! Head and objective together, loss and both gradients. `make bench-parts` prints them.
//!
//! With `HYDROMETER_HEAD_CASE` set to one of [`CASES`], only that case is timed and its milliseconds are printed, one repetition
//! a line. `make bench` measures peers on the same cases in the same run (scripts/bench_peer.py).

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use hydrometer::dist::ProcessGroup;
use hydrometer::objective::head::Head;
use hydrometer::objective::targets::{Ids, Targets, Teacher};
use hydrometer::objective::{Loss, Objective, Tail};
use tch::{Device, Kind, Tensor};

const N: i64 = 2048;
const V: i64 = 49152;
const D: i64 = 576;
const K: i64 = 20;
const REPETITIONS: usize = 8;
const RAW: Objective = Objective::SoftCe { tail: Tail::Raw, temperature: 1.0 };
/// The cases of `make bench`: name, objective, and the teacher's k, which is V for a dense teacher.
const CASES: [(&str, Objective, i64); 3] = [
    ("hard-ce", Objective::HARD_CE, K),
    ("soft-ce", RAW, K),
    ("kl", Objective::KlForward { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 }, V),
];

struct Problem {
    hidden: Tensor,
    weight: Tensor,
    gradient: Tensor,
    targets: Targets,
}

impl Problem {
    fn new(n: i64, k: i64) -> Self {
        tch::manual_seed(0);
        let random =
            |shape: [i64; 2], scale: f64| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale).to_kind(Kind::BFloat16);
        let teacher = if k == V { dense_teacher(n) } else { teacher_of_top(n, k) };
        Self {
            hidden: random([n, D], 1.0),
            weight: random([V, D], 0.1),
            gradient: Tensor::zeros([V, D], (Kind::Float, Device::Cpu)),
            targets: Targets { labels_n: Tensor::randint(V, [n], (Kind::Int64, Device::Cpu)), teacher: Some(teacher) },
        }
    }

    fn run(&self, objective: Objective) -> Tensor {
        let axis = ProcessGroup::single();
        let head = Head { weight_vd: &self.weight, vocab_start: 0, vocab_size: V, tp: &axis };
        let scale = 1.0 / self.hidden.size()[0] as f64;
        head.loss_and_gradients(&Loss::from(objective), &self.hidden, &self.targets, scale, &self.gradient).unwrap().1
    }
}

/// A teacher's top k of V, row by row: its dense logits need not exist. Ids of a row differ; its mass is 0.9.
fn teacher_of_top(n: i64, k: i64) -> Teacher {
    let first = Tensor::randint(V, [n, 1], (Kind::Int64, Device::Cpu));
    let ids = (first + Tensor::arange(k, (Kind::Int64, Device::Cpu)) * (V / k)).remainder(V);
    let logprobs = Tensor::rand([n, k], (Kind::Float, Device::Cpu)).log_softmax(-1, Kind::Float) + 0.9f64.ln();
    Teacher::listed(ids, Some(logprobs), None)
}

/// Log-probabilities of all ids, as scripts/bench_peer.py has them.
fn dense_teacher(n: i64) -> Teacher {
    let logprobs = (Tensor::randn([n, V], (Kind::Float, Device::Cpu)) * 3.0).log_softmax(-1, Kind::Float);
    Teacher { ids: Ids::All, logprobs_nk: Some(logprobs), logits_nk: None }
}

/// Peak resident memory of this process in MB since the last reset.
fn peak_mb(reset: bool) -> f64 {
    if reset {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

fn head(criterion: &mut Criterion) {
    let problem = Problem::new(4096, K);
    let before = peak_mb(true);
    let _ = black_box(problem.run(RAW));
    println!("peak memory above weights and gradients, N = 4096: {:.0} MB", peak_mb(false) - before);
    drop(problem);

    let problem = Problem::new(N, K);
    let mut group = criterion.benchmark_group("head 2048 x 49152, d 576, bf16");
    group.sample_size(10).measurement_time(Duration::from_secs(15));
    for (name, objective) in [
        ("hard-ce", Objective::HARD_CE),
        ("soft-ce raw top-20", RAW),
        ("soft-ce bucket top-20", Objective::SoftCe { tail: Tail::Bucket, temperature: 1.0 }),
        ("jsd top-20", Objective::Jsd { beta: 0.5, temperature: 1.0 }),
        ("soft-ce raw top-20, temperature 2", Objective::SoftCe { tail: Tail::Raw, temperature: 2.0 }),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(problem.run(objective))));
    }
    group.finish();
}

/// Prints the milliseconds of each repetition of one case, after an untimed one.
fn time_case(name: &str) {
    let Some(&(_, objective, k)) = CASES.iter().find(|(case, ..)| *case == name) else {
        panic!("HYDROMETER_HEAD_CASE={name}: no such case");
    };
    let problem = Problem::new(N, k);
    drop(black_box(problem.run(objective)));
    for _ in 0..REPETITIONS {
        let begun = Instant::now();
        drop(black_box(problem.run(objective)));
        println!("{}", begun.elapsed().as_secs_f64() * 1e3);
    }
}

criterion_group!(name = benches; config = Criterion::default().without_plots(); targets = head);

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    tch::set_num_threads(threads as i32);
    match std::env::var("HYDROMETER_HEAD_CASE") {
        Ok(case) => time_case(&case),
        Err(_) => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
