//! Every objective in plain f64, one token at a time, written to be read. The oracle of the fast path.
//!
//! z are the student's V logits, u = z/τ, p = softmax(u); the teacher gives k distinct ids with weights w_j, M = Σ w_j and
//! R = 1 − M. Sources: cross-entropy on soft labels, Hinton et al. 2015 (arXiv 1503.02531); tails, the table of objectives in
//! docs/objectives.md.

use super::{Objective, Tail};

/// Targets of one token.
pub struct Token<'a> {
    pub label: usize,
    pub ids: &'a [usize],
    /// Log-probabilities at the objective's temperature.
    pub logprobs: &'a [f64],
    pub logits: &'a [f64],
}

/// The loss of one token and its gradient in z. For [`Tail::Metaseq`] the second is, as in the seed, not the gradient of the
/// first.
pub fn loss_and_gradient(objective: Objective, z: &[f64], token: &Token) -> (f64, Vec<f64>) {
    match objective {
        Objective::HardCe => hard_ce(z, token.label),
        Objective::SoftCe { tail, temperature } => soft_ce(z, token, tail, temperature),
        Objective::LogitMse { centered, mse_mean } => logit_mse(z, token, centered, mse_mean),
    }
}

/// ln Σ exp(z).
pub fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// exp(z − lse(z)).
pub fn softmax(z: &[f64]) -> Vec<f64> {
    let lse = log_sum_exp(z);
    z.iter().map(|x| (x - lse).exp()).collect()
}

fn hard_ce(z: &[f64], label: usize) -> (f64, Vec<f64>) {
    let mut gradient = softmax(z);
    gradient[label] -= 1.0;
    (log_sum_exp(z) - z[label], gradient)
}

fn soft_ce(z: &[f64], token: &Token, tail: Tail, temperature: f64) -> (f64, Vec<f64>) {
    let u: Vec<f64> = z.iter().map(|x| x / temperature).collect();
    let (lse, p) = (log_sum_exp(&u), softmax(&u));
    let w: Vec<f64> = token.logprobs.iter().map(|x| x.exp()).collect();
    let mass: f64 = w.iter().sum();
    let rest = (1.0 - mass).max(0.0);
    // Cross-entropy against `target` (its sum need not be 1): −Σ t_i ln p_i, gradient (Σt)·p − t.
    let cross_entropy = |target: &[f64]| -> (f64, Vec<f64>) {
        let sum: f64 = target.iter().sum();
        let loss = target.iter().zip(&u).map(|(t, u)| if *t == 0.0 { 0.0 } else { t * (lse - u) }).sum();
        (loss, p.iter().zip(target).map(|(p, t)| (sum * p - t) / temperature).collect())
    };
    let dense = |weights: &[f64]| {
        let mut target = vec![0.0; z.len()];
        token.ids.iter().zip(weights).for_each(|(&id, w)| target[id] += w);
        target
    };
    match tail {
        Tail::Raw => cross_entropy(&dense(&w)),
        Tail::Metaseq => {
            let (loss, _) = cross_entropy(&dense(&w));
            let gradient = p.iter().zip(dense(&w)).map(|(p, t)| (p - t) / temperature).collect();
            (loss, gradient)
        }
        Tail::Renormalize => cross_entropy(&dense(&w.iter().map(|w| w / mass).collect::<Vec<_>>())),
        Tail::Uniform => {
            let mut target = vec![rest / (z.len() - token.ids.len()).max(1) as f64; z.len()];
            token.ids.iter().zip(&w).for_each(|(&id, w)| target[id] = *w);
            cross_entropy(&target)
        }
        Tail::Bucket => {
            let (head_loss, mut gradient) = cross_entropy(&dense(&w));
            let inside: f64 = token.ids.iter().map(|&id| p[id]).sum();
            // 1 − inside, as a sum of its own: exact when almost all mass is inside.
            let outside: f64 = (0..z.len()).filter(|i| !token.ids.contains(i)).map(|i| p[i]).sum();
            if rest == 0.0 || token.ids.len() == z.len() {
                return (head_loss, gradient);
            }
            // d(−R ln(1 − P))/du_i = R/(1 − P) · p_i (1[i in k] − P)
            for (i, g) in gradient.iter_mut().enumerate() {
                let member = f64::from(u8::from(token.ids.contains(&i)));
                *g += rest * p[i] * (member - inside) / outside / temperature;
            }
            (head_loss - rest * outside.ln(), gradient)
        }
    }
}

fn logit_mse(z: &[f64], token: &Token, centered: bool, mse_mean: bool) -> (f64, Vec<f64>) {
    let k = token.ids.len() as f64;
    let mut differences: Vec<f64> = token.ids.iter().zip(token.logits).map(|(&id, y)| z[id] - y).collect();
    if centered {
        let mean = differences.iter().sum::<f64>() / k;
        differences.iter_mut().for_each(|d| *d -= mean);
    }
    let scale = if mse_mean { 1.0 / k } else { 1.0 };
    let mut gradient = vec![0.0; z.len()];
    token.ids.iter().zip(&differences).for_each(|(&id, d)| gradient[id] += 2.0 * d * scale);
    (differences.iter().map(|d| d * d).sum::<f64>() * scale, gradient)
}
