//! Oracle: finite differences of the reference's own values, and minima derived by hand.

use hydrometer::objective::reference::{Token, log_sum_exp, loss_and_gradient, softmax};
use hydrometer::objective::{Estimator, Loss, Objective, Tail};

use super::objectives_equal_the_f64_reference::{estimates, losses};

/// The reference's gradient is the gradient of its loss, for every objective except metaseq's.
#[test]
fn finite_differences_confirm_the_references_gradients() {
    let z = [0.3, -1.2, 2.0, 0.7, -0.4, 1.1];
    // With an id listed twice, an id of weight 0, and the label listed or not.
    for (ids, label) in [(vec![2usize, 5, 0], 3), (vec![2, 5, 2, 0], 5), (vec![2, 4, 5, 0], 2)] {
        for temperature in [1.0, 0.5, 2.0] {
            let teacher: Vec<f64> = [0.1, -0.9, 1.9, -0.2, f64::NEG_INFINITY, 0.8].iter().map(|z| z / temperature).collect();
            let twice = |id: usize| if ids.iter().filter(|other| **other == id).count() > 1 { 2f64.ln() } else { 0.0 };
            let logprobs: Vec<f64> = ids.iter().map(|&id| teacher[id] - log_sum_exp(&teacher) - twice(id)).collect();
            let logits: Vec<f64> = ids.iter().map(|&id| teacher[id] + 0.3).collect();
            let token = Token { label, ids: &ids, logprobs: &logprobs, logits: &logits };
            for loss in losses(temperature) {
                let (_, gradient) = loss_and_gradient(&loss, &z, &token);
                if matches!(loss.objective, Objective::KlReverse { skew: 0.0, .. }) && ids.contains(&4) {
                    continue; // Infinite: the student gives weight to an id to which the teacher gives none.
                }
                let mut worst = 0.0f64;
                for i in 0..z.len() {
                    let loss_at = |step: f64| {
                        let mut moved = z;
                        moved[i] += step;
                        loss_and_gradient(&loss, &moved, &token).0
                    };
                    worst = worst.max(((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5 - gradient[i]).abs());
                }
                if loss.objective.tail() == Some(Tail::Metaseq) {
                    assert!(worst > 1e-3, "metaseq's gradient is not that of its loss, yet differs only by {worst}");
                } else {
                    assert!(worst < 1e-8, "{loss:?}: off by {worst}");
                }
            }
        }
    }
}

/// The estimates' gradients are those of their values, except k1's: its value is −L, and its gradient is k2's.
#[test]
fn finite_differences_confirm_the_gradients_of_estimates() {
    let z = [0.3, -0.2, 0.5, 0.1];
    for temperature in [1.0, 0.5, 2.0] {
        for drawn in [1, 2] {
            let token = Token { label: drawn, ids: &[drawn], logprobs: &[-0.9], logits: &[] };
            let gradients = estimates(temperature).into_iter().map(|loss| {
                let (_, gradient) = loss_and_gradient(&loss, &z, &token);
                let at = |i: usize, step: f64| {
                    let mut moved = z;
                    moved[i] += step;
                    loss_and_gradient(&loss, &moved, &token).0
                };
                let slopes = (0..z.len()).map(|i| (at(i, 1e-5) - at(i, -1e-5)) / 2e-5);
                let worst = slopes.zip(&gradient).map(|(slope, g)| (slope - g).abs()).fold(0.0, f64::max);
                let k1 = loss.objective.estimator() == Some(Estimator::K1);
                assert!(if k1 { worst > 1e-2 } else { worst < 1e-8 }, "{loss:?}: off by {worst}");
                assert_eq!(loss.objective.gradient_is_of_the_loss(), !k1);
                gradient
            });
            let gradients: Vec<Vec<f64>> = gradients.collect();
            assert!(gradients[0] == gradients[1] && gradients[3] == gradients[4], "k1 and k2, plain and mixed");
        }
    }
}

/// Descent along metaseq's gradient ends at p = w + (1 − M)/V: the missing mass is spread over all ids.
#[test]
fn metaseqs_gradient_vanishes_at_w_plus_the_missing_mass_spread_evenly() {
    let weights: [f64; 3] = [0.5, 0.2, 0.1];
    let (v, mass): (usize, f64) = (8, weights.iter().sum());
    let p: Vec<f64> = (0..v).map(|i| weights.get(i).copied().unwrap_or(0.0) + (1.0 - mass) / v as f64).collect();
    let z: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    assert!(softmax(&z).iter().zip(&p).all(|(a, b)| (a - b).abs() < 1e-12));
    let logprobs = weights.map(f64::ln);
    let token = Token { label: 0, ids: &[0, 1, 2], logprobs: &logprobs, logits: &logprobs };
    let metaseq = Loss::from(Objective::SoftCe { tail: Tail::Metaseq, temperature: 1.0 });
    let (_, gradient) = loss_and_gradient(&metaseq, &z, &token);
    // The remaining gradient is the same for every id: it moves all logits together (drift), not the probabilities.
    assert!(gradient.iter().all(|g| (g - (1.0 - mass) / v as f64).abs() < 1e-12), "{gradient:?}");
}

/// Oracle: where kl-reverse with each tail is stationary, by hand. The teacher's top 3 of 8 ids have mass 0.8.
#[test]
fn reverse_kl_with_each_tail_ends_where_the_page_says() {
    let w = [0.5, 0.2, 0.1];
    let e = std::f64::consts::E;
    let others = |mass: f64| mass / 5.0;
    for (tail, on_list, elsewhere, least) in [
        (Tail::Bucket, 1.0, others(0.2), 0.0),
        (Tail::Uniform, 1.0, others(0.2), 0.0),
        (Tail::Raw, 1.0 / e, others(1.0 - 0.8 / e), -0.8 / e),
        (Tail::DoubleRenormalize, 0.3, others(1.0 - 0.3 * 0.8), 0.0),
    ] {
        let p: Vec<f64> = (0..8).map(|id| w.get(id).map_or(elsewhere, |w| on_list * w)).collect();
        let z: Vec<f64> = p.iter().map(|p| p.ln()).collect();
        let logprobs = w.map(f64::ln);
        let token = Token { label: 0, ids: &[0, 1, 2], logprobs: &logprobs, logits: &[] };
        let loss = Loss::from(Objective::KlReverse { tail, temperature: 1.0, skew: 0.0 });
        let (value, gradient) = loss_and_gradient(&loss, &z, &token);
        assert!((value - least).abs() < 1e-12, "{tail:?}: {value}");
        assert!(gradient.iter().all(|g| g.abs() < 1e-12), "{tail:?}: {gradient:?}");
    }
}

/// Oracle: the formulas of DistiLLM (2402.03898) with dense distributions.
#[test]
fn skewed_divergences_are_those_to_the_mixtures() {
    let (z, y) = ([0.3, -1.2, 2.0, 0.7], [1.0, 0.2, 1.5, -0.3]);
    let (p, w) = (softmax(&z), softmax(&y));
    let logprobs: Vec<f64> = w.iter().map(|w| w.ln()).collect();
    let token = Token { label: 0, ids: &[0, 1, 2, 3], logprobs: &logprobs, logits: &y };
    let kl = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * (a / b).ln()).sum::<f64>();
    let mixed = |a: f64, x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| a * x + (1.0 - a) * y).collect::<Vec<f64>>();
    for skew in [0.1, 0.6] {
        for tail in [Tail::Bucket, Tail::Uniform, Tail::Raw, Tail::Renormalize, Tail::DoubleRenormalize] {
            for (objective, expected) in [
                (Objective::KlForward { tail, temperature: 1.0, skew }, kl(&w, &mixed(skew, &w, &p))),
                (Objective::KlReverse { tail, temperature: 1.0, skew }, kl(&p, &mixed(1.0 - skew, &w, &p))),
            ] {
                let (value, _) = loss_and_gradient(&objective.into(), &z, &token);
                assert!((value - expected).abs() < 1e-12, "{objective:?}: {value}, not {expected}");
            }
        }
    }
}

/// If student and teacher agree, every divergence and its gradient are zero.
#[test]
fn divergences_vanish_at_the_teacher() {
    let z = [0.3, -1.2, 2.0, 0.7, -0.4, 1.1];
    let p = softmax(&z);
    for ids in [vec![2usize, 5, 0], vec![0, 1, 2, 3, 4, 5]] {
        let logprobs: Vec<f64> = ids.iter().map(|&id| p[id].ln()).collect();
        let logits: Vec<f64> = ids.iter().map(|&id| z[id]).collect();
        let token = Token { label: 0, ids: &ids, logprobs: &logprobs, logits: &logits };
        for objective in [
            Objective::KlForward { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 },
            Objective::KlForward { tail: Tail::Bucket, temperature: 1.0, skew: 0.3 },
            Objective::KlReverse { tail: Tail::Bucket, temperature: 1.0, skew: 0.0 },
            Objective::KlReverse { tail: Tail::Bucket, temperature: 1.0, skew: 0.3 },
            Objective::KlReverse { tail: Tail::DoubleRenormalize, temperature: 1.0, skew: 0.0 },
            Objective::Jsd { beta: 0.3, temperature: 1.0 },
            Objective::LogitMse { centered: false, mse_mean: false },
            Objective::LogprobMse { mse_mean: true, temperature: 1.0 },
        ] {
            let (value, gradient) = loss_and_gradient(&Loss::from(objective), &z, &token);
            assert!(value.abs() < 1e-12, "{objective:?} {value}");
            assert!(gradient.iter().all(|g| g.abs() < 1e-12), "{objective:?} {gradient:?}");
        }
    }
}
