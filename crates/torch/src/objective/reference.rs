//! Every objective in plain f64, one token at a time, written for readability. The oracle of the fast path.
//!
//! z are the student's V logits, u = z/τ, p = softmax(u); the teacher gives weights w over some ids, M = Σ w and R = 1 − M.
//! Sources and derivations: docs/objectives.md.

use super::{Estimator, Loss, MIN_TAIL_MASS, Objective, Tail};

/// Targets of one token. An id may be listed more than once; its weights are added.
pub struct Token<'a> {
    pub label: usize,
    pub ids: &'a [usize],
    /// At the objective's temperature; −∞ carries no weight.
    pub logprobs: &'a [f64],
    /// −∞ is left out of the comparison.
    pub logits: &'a [f64],
}

/// The loss of one token and its gradient with respect to z. For [`Tail::Metaseq`], as in metaseq, the second is not the gradient
/// of the first.
pub fn loss_and_gradient(loss: &Loss, z: &[f64], token: &Token) -> (f64, Vec<f64>) {
    let (value, gradient) = objective(loss.objective, z, token);
    let (hard, hard_gradient) = hard_ce(z, token.label);
    let (a, b) = (loss.objective_weight(), loss.hard_weight());
    (a * value + b * hard, gradient.iter().zip(&hard_gradient).map(|(g, h)| a * g + b * h).collect())
}

fn objective(objective: Objective, z: &[f64], token: &Token) -> (f64, Vec<f64>) {
    let temperature = objective.temperature().unwrap_or(1.0);
    // Shifting all logits changes no probability; without it large logits would lose digits.
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let u: Vec<f64> = z.iter().map(|z| (z - max) / temperature).collect();
    let (value, gradient_u) = match objective {
        Objective::HardCe { label_smoothing } => smoothed_ce(&u, token.label, label_smoothing),
        Objective::SoftCe { tail, .. } => soft_ce(&u, token, tail),
        Objective::KlForward { tail, skew: 0.0, .. } => {
            let (value, gradient) = soft_ce(&u, token, tail);
            (value - entropy_of_target(u.len(), token, tail), gradient)
        }
        // w ln(w/m) with m = α w + (1 − α) q, and q times its derivative.
        Objective::KlForward { tail, skew, .. } => divergence(&u, token, tail, 0.0, |log_q, w| {
            let part = (1.0 - skew) * log_q.exp();
            let m = skew * w + part;
            if w == 0.0 { (0.0, 0.0) } else { (w * (w / m).ln(), -w * part / m) }
        }),
        // q ln(q/w), and q times its derivative.
        Objective::KlReverse { tail, skew: 0.0, .. } => divergence(&u, token, tail, MIN_TAIL_MASS, |log_q, w| {
            let q = log_q.exp();
            if q == 0.0 { (0.0, 0.0) } else { (q * (log_q - w.ln()), q * (log_q - w.ln() + 1.0)) }
        }),
        // q ln(q/m) with m = (1 − α) w + α q.
        Objective::KlReverse { tail, skew, .. } => divergence(&u, token, tail, 0.0, |log_q, w| {
            let q = log_q.exp();
            let m = (1.0 - skew) * w + skew * q;
            if q == 0.0 { (0.0, 0.0) } else { (q * (q / m).ln(), q * ((q / m).ln() + 1.0 - skew * q / m)) }
        }),
        Objective::SampledKl { estimator, .. } => sampled_kl(&u, token, estimator),
        // β w ln(w/m) + (1 − β) q ln(q/m) with m = β w + (1 − β) q: the derivatives through m cancel.
        Objective::Jsd { beta, .. } => divergence(&u, token, Tail::Bucket, 0.0, |log_q, w| {
            let q = log_q.exp();
            let m = beta * w + (1.0 - beta) * q;
            let part = |x: f64| if x == 0.0 { 0.0 } else { x * (x / m).ln() };
            (beta * part(w) + (1.0 - beta) * part(q), (1.0 - beta) * part(q))
        }),
        Objective::LogitMse { centered, mse_mean } => logit_mse(z, token, centered, mse_mean),
        Objective::LogprobMse { mse_mean, .. } => logprob_mse(&u, token, mse_mean),
    };
    (value, gradient_u.iter().map(|g| g / temperature).collect())
}

/// ln Σ exp(z).
pub fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln() }
}

/// exp(z − lse(z)), with all digits for z of any size.
pub fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let from_max: Vec<f64> = z.iter().map(|x| x - max).collect();
    let lse = log_sum_exp(&from_max);
    from_max.iter().map(|x| (x - lse).exp()).collect()
}

fn hard_ce(z: &[f64], label: usize) -> (f64, Vec<f64>) {
    let mut gradient = softmax(z);
    gradient[label] -= 1.0;
    (log_sum_exp(z) - z[label], gradient)
}

/// Cross-entropy with 1 − ε on the label plus ε/V on each of the V ids.
fn smoothed_ce(z: &[f64], label: usize, smoothing: f64) -> (f64, Vec<f64>) {
    let mut target = vec![smoothing / z.len() as f64; z.len()];
    target[label] += 1.0 - smoothing;
    cross_entropy(z, &target)
}

/// The teacher's weight of every id, and whether the teacher lists the id.
fn dense(vocabulary: usize, token: &Token) -> (Vec<f64>, Vec<bool>) {
    let (mut w, mut listed) = (vec![0.0; vocabulary], vec![false; vocabulary]);
    for (&id, logprob) in token.ids.iter().zip(token.logprobs) {
        w[id] += logprob.exp();
        listed[id] = true;
    }
    (w, listed)
}

/// The target with `tail`, where it is a distribution over the vocabulary (or, for `raw`, sums to less than one). A uniform tail has
/// at least `min_tail_mass`.
fn target(vocabulary: usize, token: &Token, tail: Tail, min_tail_mass: f64) -> Vec<f64> {
    let (mut w, listed) = dense(vocabulary, token);
    let mass: f64 = w.iter().sum();
    match tail {
        Tail::Renormalize | Tail::DoubleRenormalize if mass > 0.0 => w.iter_mut().for_each(|w| *w /= mass),
        Tail::Uniform => {
            let others = listed.iter().filter(|listed| !**listed).count();
            let each = (1.0 - mass).max(min_tail_mass) / others.max(1) as f64;
            w.iter_mut().zip(&listed).filter(|(_, listed)| !**listed).for_each(|(w, _)| *w = each);
        }
        _ => {}
    }
    w
}

/// Cross-entropy −Σ t ln p, with gradient (Σ t)·p − t with respect to u.
fn cross_entropy(u: &[f64], target: &[f64]) -> (f64, Vec<f64>) {
    let (lse, p) = (log_sum_exp(u), softmax(u));
    let sum: f64 = target.iter().sum();
    let value = target.iter().zip(u).map(|(t, u)| if *t == 0.0 { 0.0 } else { t * (lse - u) }).sum();
    (value, p.iter().zip(target).map(|(p, t)| sum * p - t).collect())
}

fn soft_ce(u: &[f64], token: &Token, tail: Tail) -> (f64, Vec<f64>) {
    let target = target(u.len(), token, tail, 0.0);
    match tail {
        Tail::Raw | Tail::Renormalize | Tail::Uniform | Tail::Sampled => cross_entropy(u, &target),
        Tail::Metaseq => {
            let (value, _) = cross_entropy(u, &target);
            (value, softmax(u).iter().zip(&target).map(|(p, t)| p - t).collect())
        }
        Tail::DoubleRenormalize => {
            let (_, listed) = dense(u.len(), token);
            cross_entropy(&among(u, &listed), &target)
        }
        Tail::Bucket => divergence(u, token, tail, 0.0, |log_q, w| if w == 0.0 { (0.0, 0.0) } else { (-w * log_q, -w) }),
    }
}

/// u at the listed ids, −∞ elsewhere.
fn among(u: &[f64], listed: &[bool]) -> Vec<f64> {
    u.iter().zip(listed).map(|(u, listed)| if *listed { *u } else { f64::NEG_INFINITY }).collect()
}

/// −Σ t ln t of the target of soft-ce with `tail`: its minimum (minus a constant for `raw`).
fn entropy_of_target(vocabulary: usize, token: &Token, tail: Tail) -> f64 {
    let mut outcomes = target(vocabulary, token, tail, 0.0);
    let (_, listed) = dense(vocabulary, token);
    if tail == Tail::Bucket && !listed.iter().all(|listed| *listed) {
        outcomes.push((1.0 - outcomes.iter().sum::<f64>()).max(0.0));
    }
    outcomes.iter().filter(|t| **t > 0.0).map(|t| -t * t.ln()).sum()
}

/// Σ f(ln q, w) over the outcomes. f returns a value and t = q·∂f/∂q. The gradient with respect to u is then t_i − p_i·Σt for a
/// listed i. That of "something else", t_out − P_out·Σt, is divided among the other ids in proportion to p.
///
/// The outcomes are the listed ids and, depending on the tail, "something else": with `bucket` it has the rest of the teacher's mass (at
/// least `min_tail_mass`), with `renormalize` none of it, and with `raw` it does not count. With `double-renormalize` the student's softmax
/// is over the listed ids alone. With `uniform` all ids are listed.
fn divergence(u: &[f64], token: &Token, tail: Tail, min_tail_mass: f64, f: impl Fn(f64, f64) -> (f64, f64)) -> (f64, Vec<f64>) {
    let (all, mut listed) = dense(u.len(), token);
    let w = target(u.len(), token, tail, min_tail_mass);
    let u = &if tail == Tail::DoubleRenormalize { among(u, &listed) } else { u.to_vec() };
    if tail == Tail::Uniform {
        listed.fill(true);
    }
    let lse = log_sum_exp(u);
    // Summed directly instead of as one minus the listed ids: accurate when almost all mass is on those.
    let others: Vec<f64> = u.iter().zip(&listed).filter(|(_, listed)| !**listed).map(|(u, _)| *u).collect();
    let lse_others = log_sum_exp(&others);
    let (mut value, t_others) = match tail {
        _ if others.is_empty() => (0.0, 0.0),
        Tail::Bucket => f(lse_others - lse, (1.0 - all.iter().sum::<f64>()).max(min_tail_mass)),
        Tail::Renormalize => f(lse_others - lse, 0.0),
        _ => (0.0, 0.0),
    };
    let mut t = vec![0.0; u.len()];
    for i in (0..u.len()).filter(|&i| listed[i]) {
        let (value_i, t_i) = f(u[i] - lse, w[i]);
        (value, t[i]) = (value + value_i, t_i);
    }
    let sum = t_others + t.iter().sum::<f64>();
    let own = |i: usize| {
        if listed[i] {
            t[i]
        } else if t_others == 0.0 {
            0.0
        } else {
            (u[i] - lse_others).exp() * t_others
        }
    };
    let mut gradient: Vec<f64> = (0..u.len()).map(|i| own(i) - (u[i] - lse).exp() * sum).collect();
    // Where p is almost 1, own and p·sum are almost equal. The entries of the gradient sum to zero, so that one follows from the others.
    let largest = (0..u.len()).fold(0, |best, i| if u[i] > u[best] { i } else { best });
    gradient[largest] = 0.0;
    gradient[largest] = -gradient.iter().sum::<f64>();
    (value, gradient)
}

/// An estimate from the one id that the token lists, which the student has drawn. With ∇ln q_y = e_y − p, the gradient is −L·∇ln q_y, or
/// (1 − e^L)·∇ln q_y for [`Estimator::K3AsLoss`].
fn sampled_kl(u: &[f64], token: &Token, estimator: Estimator) -> (f64, Vec<f64>) {
    assert_eq!(token.ids.len(), 1, "the id that was drawn");
    let (y, p) = (token.ids[0], softmax(u));
    let l = token.logprobs[0] - (u[y] - log_sum_exp(u));
    let (value, factor) = match estimator {
        Estimator::K1 => (-l, -l),
        Estimator::K2 => (l * l / 2.0, -l),
        Estimator::K3AsLoss => (l.exp() - 1.0 - l, 1.0 - l.exp()),
    };
    let gradient = p.iter().enumerate().map(|(i, p)| factor * (f64::from(i == y) - p)).collect();
    (value, gradient)
}

fn logit_mse(z: &[f64], token: &Token, centered: bool, mse_mean: bool) -> (f64, Vec<f64>) {
    let compared: Vec<(usize, f64)> =
        token.ids.iter().zip(token.logits).filter(|(_, y)| y.is_finite()).map(|(&id, y)| (id, z[id] - y)).collect();
    let k = compared.len().max(1) as f64;
    let mean = if centered { compared.iter().map(|(_, d)| d).sum::<f64>() / k } else { 0.0 };
    let scale = if mse_mean { 1.0 / k } else { 1.0 };
    let mut gradient = vec![0.0; z.len()];
    let mut value = 0.0;
    for (id, d) in compared {
        value += (d - mean).powi(2) * scale;
        gradient[id] += 2.0 * (d - mean) * scale;
    }
    (value, gradient)
}

fn logprob_mse(u: &[f64], token: &Token, mse_mean: bool) -> (f64, Vec<f64>) {
    let (lse, p) = (log_sum_exp(u), softmax(u));
    let (w, _) = dense(u.len(), token);
    let compared: Vec<(usize, f64)> =
        w.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(id, w)| (id, u[id] - lse - w.ln())).collect();
    let scale = if mse_mean { 1.0 / compared.len().max(1) as f64 } else { 1.0 };
    let sum: f64 = compared.iter().map(|(_, d)| d).sum();
    let mut gradient: Vec<f64> = p.iter().map(|p| -2.0 * sum * p * scale).collect();
    let mut value = 0.0;
    for (id, d) in compared {
        value += d * d * scale;
        gradient[id] += 2.0 * d * scale;
    }
    (value, gradient)
}
