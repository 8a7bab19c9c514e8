//! Tests of the coverage of intervals, on simulated arms whose true difference is known.
//!
//! The difference of document d under seed s is μ + α_s + β_d + γ_sd nats per token, all normal; documents have 20 to 400 tokens.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, Uniform};

use super::crossed::Draws;
use super::paired::Pairs;
use super::pooled::over_sets;
use super::verdict::{Verdict, below_zero};

const LEVEL: f64 = 0.95;
const DOCUMENTS: usize = 40;

/// Standard deviations between seeds, between documents, and of their interaction.
#[derive(Clone, Copy, Debug)]
struct Spread(f64, f64, f64);

fn made(seeds: usize, difference: f64, spread: Spread, rng: &mut ChaCha8Rng) -> Pairs {
    let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
    let lengths = Uniform::new_inclusive(20, 400).unwrap();
    let tokens: Vec<f64> = (0..DOCUMENTS).map(|_| f64::from(lengths.sample(rng))).collect();
    let hardness: Vec<f64> = (0..DOCUMENTS).map(|_| 3.0 + 0.5 * normal(rng)).collect();
    let beta: Vec<f64> = (0..DOCUMENTS).map(|_| spread.1 * normal(rng)).collect();
    let mut pairs = Pairs { tokens: tokens.clone(), ..Pairs::default() };
    for _ in 0..seeds {
        let alpha = spread.0 * normal(rng);
        let b: Vec<f64> = tokens.iter().zip(&hardness).map(|(t, h)| t * (h + 0.1 * normal(rng))).collect();
        let shift = |d: usize, rng: &mut ChaCha8Rng| tokens[d] * (difference + alpha + beta[d] + spread.2 * normal(rng));
        pairs.a.push((0..DOCUMENTS).map(|d| b[d] + shift(d, rng)).collect());
        pairs.b.push(b);
    }
    pairs
}

/// The share of `trials` intervals that contain the truth, and the shares of verdicts supported and refuted on "a is below b".
fn shares(seeds: usize, difference: f64, spread: Spread, trials: usize) -> [f64; 3] {
    let mut rng = ChaCha8Rng::seed_from_u64(seeds as u64);
    let mut counts = [0.0; 3];
    for trial in 0..trials {
        let draws = Draws { replicates: 200, seed: trial as u64 };
        let found = made(seeds, difference, spread, &mut rng).difference(LEVEL, draws).unwrap();
        let verdict = below_zero(found.low, found.high);
        let holds =
            [found.low <= difference && difference <= found.high, verdict == Verdict::Supported, verdict == Verdict::Refuted];
        holds.iter().zip(&mut counts).filter(|(holds, _)| **holds).for_each(|(_, count)| *count += 1.0);
    }
    counts.map(|count| count / trials as f64)
}

/// The variation of seeds dominates; both are equal; that of documents dominates; both with interaction.
const SPREADS: [Spread; 4] =
    [Spread(0.05, 0.02, 0.02), Spread(0.02, 0.13, 0.05), Spread(0.005, 0.2, 0.05), Spread(0.03, 0.1, 0.2)];

#[test]
fn intervals_of_95_percent_cover_93_to_97() {
    let mut wrong = Vec::new();
    for spread in SPREADS {
        for seeds in [3, 5, 10] {
            let [covered, ..] = shares(seeds, -0.02, spread, 2500);
            println!("{seeds} seeds, {spread:?}: {covered:.4}");
            if !(0.93..=0.97).contains(&covered) {
                wrong.push((seeds, spread, covered));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_true_null_is_supported_at_most_5_percent_of_the_time_and_a_clear_effect_nearly_always() {
    for spread in SPREADS {
        let [_, supported, refuted] = shares(3, 0.0, spread, 1500);
        println!("null, {spread:?}: supported {supported:.4}, refuted {refuted:.4}");
        assert!(supported <= 0.05 && refuted <= 0.05, "{spread:?}: {supported} {refuted}");
    }
    let [_, supported, refuted] = shares(3, -0.3, Spread(0.02, 0.1, 0.1), 500);
    assert!(supported > 0.95 && refuted == 0.0, "{supported} {refuted}");
}

/// Six data sets with very different true differences. The truth is the expectation of the interquartile mean, from many seeds.
#[test]
fn intervals_of_the_interquartile_mean_over_data_sets_cover_93_to_97_percent() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let centres = [-0.30, -0.12, -0.10, -0.08, 0.02, 0.40];
    let mut draw = |seeds: usize| -> Vec<Vec<f64>> {
        let noise = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
        centres.iter().map(|centre| (0..seeds).map(|_| centre + 0.05 * noise(&mut rng)).collect()).collect()
    };
    let truth = over_sets(&draw(200_000), LEVEL).mean;
    for seeds in [3, 5] {
        let trials = 4000;
        let covered = (0..trials).filter(|_| {
            let found = over_sets(&draw(seeds), LEVEL);
            found.low <= truth && truth <= found.high
        });
        let share = covered.count() as f64 / f64::from(trials);
        assert!((0.93..=0.97).contains(&share), "{seeds} seeds: {share}");
    }
}
