//! The walks over a chunk of logits for evaluation, for teachers' top-k and for draws, beside composed tensor operations.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use hydrometer::objective::rows;
use hydrometer::objective::shares::Shares;
use tch::{Device, Kind, Tensor};

const C: i64 = 512;
const V: i64 = 49152;

fn sum(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(-1, true, Kind::Float)
}

/// The maximum, its column, and the sum of exponentials.
fn composed_evaluation(z_cv: &Tensor) -> (Tensor, Tensor) {
    let (max_c1, column_c1) = z_cv.max_dim(-1, true);
    (column_c1, sum(&(z_cv - max_c1).exp()))
}

fn composed_top(z_cv: &Tensor, k: i64, temperatures: &[f64]) -> (Tensor, Vec<Tensor>) {
    let (_, columns_ck) = z_cv.topk(k, -1, true, true);
    (columns_ck, temperatures.iter().map(|&temperature| (z_cv / temperature).logsumexp([-1], true)).collect())
}

fn composed_draws(z_cv: Tensor, points_ck: &Tensor) -> Tensor {
    let x_cv = (&z_cv - z_cv.amax([-1], true)).exp_();
    let cumulative_cv = (x_cv * (1u64 << 40) as f64).to_kind(Kind::Int64).cumsum(-1, Kind::Int64);
    points_ck.searchsorted(&cumulative_cv, false, true, "right", None::<Tensor>)
}

fn draws(z_cv: Tensor, points_ck: &Tensor) -> Tensor {
    let max_c1 = z_cv.amax([-1], true);
    Shares::of(z_cv, &max_c1, 1.0).find(points_ck)
}

fn predictions(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    tch::set_num_threads(threads as i32);
    tch::manual_seed(0);
    let z_cv = Tensor::randn([C, V], (Kind::Float, Device::Cpu)) * 3.0;
    let mut group = criterion.benchmark_group("logits 512 x 49152");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));

    group.bench_function("evaluation", |bencher| bencher.iter(|| black_box(rows::best(&z_cv, 1, &[1.0]))));
    group.bench_function("evaluation, composed", |bencher| bencher.iter(|| black_box(composed_evaluation(&z_cv))));
    for (k, temperatures) in [(64, &[1.0][..]), (64, &[1.0, 2.0][..]), (1024, &[1.0][..]), (4096, &[1.0][..])] {
        let what = format!("top-{k}, {} temperatures", temperatures.len());
        group.bench_function(&what, |bencher| bencher.iter(|| black_box(rows::best(&z_cv, k, temperatures))));
        let composed = || composed_top(&z_cv, k as i64, temperatures);
        group.bench_function(format!("{what}, composed"), |bencher| bencher.iter(|| black_box(composed())));
    }
    // Points within the share of the most likely id and of others; both copy the logits, since ours overwrites them.
    let points_ck = Tensor::randint_low(0, 1 << 42, [C, 64], (Kind::Int64, Device::Cpu));
    group.bench_function("64 draws", |bencher| bencher.iter(|| black_box(draws(z_cv.copy(), &points_ck))));
    group.bench_function("64 draws, composed", |bencher| bencher.iter(|| black_box(composed_draws(z_cv.copy(), &points_ck))));
    group.finish();
}

criterion_group!(name = benches; config = Criterion::default().without_plots(); targets = predictions);
criterion_main!(benches);
