//! Head and objective together, loss and both gradients, beside PyTorch eager on the same machine in the same run.
//!
//! `make bench` prints both. PyTorch is asked through `HYDROMETER_PYTHON` (default `.oracle/bin/python`); without one, only
//! our own time is printed.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use hydrometer::dist::ProcessGroup;
use hydrometer::objective::head::Head;
use hydrometer::objective::targets::{Targets, Teacher};
use hydrometer::objective::{Loss, Objective, Tail};
use tch::{Device, Kind, Tensor};

const N: i64 = 2048;
const V: i64 = 49152;
const D: i64 = 576;
const K: i64 = 20;
const ROUNDS: usize = 7;

struct Problem {
    hidden: Tensor,
    weight: Tensor,
    gradient: Tensor,
    targets: Targets,
}

impl Problem {
    fn new(n: i64) -> Self {
        tch::manual_seed(0);
        let random =
            |shape: [i64; 2], scale: f64| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale).to_kind(Kind::BFloat16);
        // A teacher's top k of V, row by row: its dense logits need not exist.
        let ids = Tensor::randint(V, [n, K], (Kind::Int64, Device::Cpu));
        let logprobs = Tensor::rand([n, K], (Kind::Float, Device::Cpu)) - 4.0;
        Self {
            hidden: random([n, D], 1.0),
            weight: random([V, D], 0.1),
            gradient: Tensor::zeros([V, D], (Kind::Float, Device::Cpu)),
            targets: Targets {
                labels_n: Tensor::randint(V, [n], (Kind::Int64, Device::Cpu)),
                teacher: Some(Teacher::listed(ids, Some(logprobs), None)),
            },
        }
    }

    fn run(&self, objective: Objective) -> Tensor {
        let axis = ProcessGroup::single();
        let head = Head { weight_vd: &self.weight, vocab_start: 0, vocab_size: V, tp: &axis };
        let scale = 1.0 / self.hidden.size()[0] as f64;
        head.loss_and_gradients(&Loss::from(objective), &self.hidden, &self.targets, scale, &self.gradient).unwrap().1
    }
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
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    tch::set_num_threads(threads as i32);
    let raw = Objective::SoftCe { tail: Tail::Raw, temperature: 1.0 };

    let problem = Problem::new(4096);
    let before = peak_mb(true);
    let _ = black_box(problem.run(raw));
    println!("peak memory above weights and gradients, N = 4096: {:.0} MB", peak_mb(false) - before);
    drop(problem);

    let problem = Problem::new(N);
    let mut group = criterion.benchmark_group("head 2048 x 49152, d 576, bf16");
    group.sample_size(10).measurement_time(Duration::from_secs(15));
    for (name, objective) in [
        ("hard-ce", Objective::HardCe),
        ("soft-ce raw top-20", raw),
        ("soft-ce bucket top-20", Objective::SoftCe { tail: Tail::Bucket, temperature: 1.0 }),
        ("jsd top-20", Objective::Jsd { beta: 0.5, temperature: 1.0 }),
        ("soft-ce raw top-20, temperature 2", Objective::SoftCe { tail: Tail::Raw, temperature: 2.0 }),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| black_box(problem.run(objective))));
    }
    group.finish();

    let ours = median_ms(ROUNDS, || drop(black_box(problem.run(raw))));
    println!("hydrometer, soft-ce raw top-{K}: median of {ROUNDS}: {ours:.0} ms");
    let python = std::env::var("HYDROMETER_PYTHON").unwrap_or_else(|_| ".oracle/bin/python".into());
    let arguments = [N, V, D, K, threads as i64, ROUNDS as i64].map(|number| number.to_string());
    match Command::new(&python).arg("benches/eager.py").args(arguments).output() {
        Ok(said) if said.status.success() => {
            let eager: f64 = String::from_utf8_lossy(&said.stdout).trim().parse().expect("milliseconds");
            println!("PyTorch eager, the same: {eager:.0} ms, {:.2} times as long", eager / ours);
        }
        _ => println!("PyTorch eager: not measured (no torch behind {python}; set HYDROMETER_PYTHON)"),
    }
}

fn median_ms(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

criterion_group!(name = benches; config = Criterion::default().without_plots(); targets = head);
criterion_main!(benches);
