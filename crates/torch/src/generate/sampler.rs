//! The choice of the next id from a row of logits.

use anyhow::Result;
use hydrometer_base::user_error;
use tch::{Kind, Tensor};

use crate::kernels::decode::exponentials;
use crate::kernels::{RowShares, best};

/// The integer that represents a row's largest probability. Integers add up exactly in any order; an id less likely than the largest
/// by more than this factor is never drawn.
const UNITS: f64 = (1u64 << 40) as f64;
/// Number of ids among which the smallest set for top-p is looked for first.
const FIRST: usize = 64;

/// How the next id is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the likeliest id. Otherwise ids are drawn from softmax(z/τ).
    pub temperature: f64,
    /// Draw only from this many of the likeliest ids.
    pub top_k: Option<usize>,
    /// Draw only from the smallest set of likeliest ids that has this share of the probability, of what `top_k` leaves.
    pub top_p: Option<f64>,
    /// Number of likeliest ids that are listed for each position.
    pub listed: usize,
}

impl Sampling {
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: None, listed: 0 };

    fn is_filtered(&self) -> bool {
        self.temperature > 0.0 && (self.top_k.is_some() || self.top_p.is_some())
    }
}

/// An id with its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listed {
    pub id: u32,
    pub logit: f32,
    /// Log-probability under the model, at temperature 1.
    pub logprob: f64,
}

/// The choice of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub chosen: Listed,
    /// The likeliest ids, the likeliest first.
    pub listed: Vec<Listed>,
}

/// A row of logits with what was found in it.
struct Row<'a> {
    logits: &'a [f32],
    /// The likeliest ids.
    best: &'a [i64],
    log_sum: f64,
    /// Σ exp((z − max)/τ)
    tempered_sum: f64,
}

impl Row<'_> {
    fn listed(&self, id: usize) -> Listed {
        let logit = self.logits[id];
        Listed { id: id as u32, logit, logprob: f64::from(logit) - self.log_sum }
    }
}

/// Chooses an id for each row of `logits [m, V]`, f32 on the CPU. `drawn` gives the random number of a row.
pub fn choose(logits: &Tensor, sampling: &Sampling, mut drawn: impl FnMut(usize) -> u64) -> Result<Vec<Choice>> {
    let (rows, width) = logits.size2()?;
    let (rows, width) = (rows as usize, width as usize);
    let draws = sampling.temperature > 0.0;
    let wanted = match (sampling.is_filtered(), sampling.top_k) {
        (true, Some(k)) => k,
        (true, None) => FIRST,
        (false, _) => 1,
    };
    let k = wanted.max(sampling.listed).max(1).min(width);
    let temperature = if draws { sampling.temperature } else { 1.0 };
    let found = best(logits, k, &[1.0, temperature]);
    let max = Vec::<f64>::try_from(found.max.flatten(0, -1))?;
    let sums = Vec::<f64>::try_from(found.exp.flatten(0, -1))?;
    let ids = Vec::<i64>::try_from(found.columns.flatten(0, -1))?;
    if !max.iter().chain(&sums).all(|x| x.is_finite()) {
        return Err(user_error!("the logits are not finite because the model's activations overflow; try --precision f32"));
    }
    let numbers = Vec::<f32>::try_from(logits.flatten(0, -1))?;
    let row = |index: usize| Row {
        logits: &numbers[index * width..][..width],
        best: &ids[index * k..][..k],
        log_sum: max[index] + sums[2 * index].ln(),
        tempered_sum: sums[2 * index + 1],
    };
    let whole = if draws && !sampling.is_filtered() {
        let points: Vec<u64> = (0..rows).map(&mut drawn).collect();
        Some(draw(logits, &max, temperature, &points)?)
    } else {
        None
    };
    let choice = |index: usize| -> Result<Choice> {
        let row = row(index);
        let id = match &whole {
            Some(drawn) => drawn[index] as usize,
            None if sampling.is_filtered() => draw_filtered(&row, &logits.narrow(0, index as i64, 1), sampling, drawn(index))?,
            None => row.best[0] as usize,
        };
        let listed = row.best.iter().take(sampling.listed).map(|&id| row.listed(id as usize)).collect();
        Ok(Choice { chosen: row.listed(id), listed })
    };
    (0..rows).map(choice).collect()
}

/// Draws an id from softmax(z/τ) of each row: the one in whose share of the cumulative probability its number falls.
fn draw(logits: &Tensor, max: &[f64], temperature: f64, at: &[u64]) -> Result<Vec<i64>> {
    let shares = RowShares::of(exponentials(logits, max, temperature), UNITS);
    let totals = Vec::<i64>::try_from(shares.totals().flatten(0, -1))?;
    let points: Vec<i64> = at.iter().zip(totals).map(|(&at, total)| ((u128::from(at) * total as u128) >> 64) as i64).collect();
    let found = shares.find(&Tensor::from_slice(&points).unsqueeze(1));
    Ok(Vec::<i64>::try_from(found.flatten(0, -1).to_kind(Kind::Int64))?)
}

/// Draws an id from those that `top_k` and `top_p` leave.
fn draw_filtered(row: &Row, logits: &Tensor, sampling: &Sampling, at: u64) -> Result<usize> {
    let width = row.logits.len();
    let (mut ids, mut more) = (row.best.to_vec(), Vec::new());
    if let Some(k) = sampling.top_k {
        ids.truncate(k);
    }
    let max = f64::from(row.logits[ids[0] as usize]);
    let weight = |id: i64| ((f64::from(row.logits[id as usize]) - max) / sampling.temperature).exp();
    let mut weights: Vec<f64> = ids.iter().map(|&id| weight(id)).collect();
    if let Some(p) = sampling.top_p {
        let total = if sampling.top_k.is_some() { weights.iter().sum() } else { row.tempered_sum };
        loop {
            let mut sum = 0.0;
            let enough = weights.iter().position(|weight| {
                sum += weight;
                sum >= p * total
            });
            match enough {
                Some(last) => weights.truncate(last + 1),
                None if sampling.top_k.is_none() && weights.len() < width => {
                    let k = (4 * weights.len()).min(width);
                    more = Vec::<i64>::try_from(best(logits, k, &[1.0]).columns.flatten(0, -1))?;
                    weights = more.iter().map(|&id| weight(id)).collect();
                    continue;
                }
                None => {}
            }
            break;
        }
    }
    let ids = if more.is_empty() { ids } else { more };
    let point = (at >> 11) as f64 / (1u64 << 53) as f64 * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let drawn = weights.iter().position(|weight| {
        sum += weight;
        point < sum
    });
    Ok(ids[drawn.unwrap_or(weights.len() - 1)] as usize)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::generate::random::Numbers;

    /// Rows of `width` random logits.
    fn logits(rows: i64, width: i64) -> Tensor {
        Tensor::randn([rows, width], (Kind::Float, Device::Cpu)) * 2.0
    }

    /// softmax(z/τ), filtered as defined: the k likeliest, and of these the smallest set with at least the share p.
    fn exact(z: &[f64], sampling: &Sampling) -> Vec<f64> {
        let mut order: Vec<usize> = (0..z.len()).collect();
        order.sort_by(|&a, &b| z[b].total_cmp(&z[a]));
        order.truncate(sampling.top_k.unwrap_or(z.len()));
        let weight = |id: usize| (z[id] / sampling.temperature).exp();
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut kept = Vec::new();
        let mut sum = 0.0;
        for id in order {
            kept.push(id);
            sum += weight(id) / total;
            if sum >= sampling.top_p.unwrap_or(2.0) {
                break;
            }
        }
        let total: f64 = kept.iter().map(|&id| weight(id)).sum();
        (0..z.len()).map(|id| if kept.contains(&id) { weight(id) / total } else { 0.0 }).collect()
    }

    const fn sampling(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
        Sampling { temperature, top_k, top_p, listed: 0 }
    }

    const SAMPLINGS: [Sampling; 6] = [
        sampling(1.0, None, None),
        sampling(0.6, None, None),
        sampling(1.7, Some(5), None),
        sampling(1.0, None, Some(0.8)),
        sampling(1.4, Some(6), Some(0.7)),
        sampling(1.0, None, Some(1.0)),
    ];

    /// Oracle: exact probabilities. Pearson's statistic of 10 ids has fewer than 10 degrees of freedom; above 33 it has a probability
    /// below 1.3e-4. The seed is fixed.
    #[test]
    fn sampled_frequencies_are_the_exact_probabilities() {
        tch::manual_seed(4);
        const DRAWS: usize = 20_000;
        for sampling in SAMPLINGS {
            let row = logits(1, 10);
            let rows = row.expand([DRAWS as i64, 10], false).contiguous();
            let z: Vec<f64> = Vec::<f32>::try_from(row.flatten(0, -1)).unwrap().into_iter().map(f64::from).collect();
            let choices = choose(&rows, &sampling, |sample| Numbers::new(1, &[7], sample).at(0)).unwrap();
            let mut counts = [0usize; 10];
            choices.iter().for_each(|choice| counts[choice.chosen.id as usize] += 1);
            let expected = exact(&z, &sampling);
            let mut statistic = 0.0;
            for (&count, p) in counts.iter().zip(expected) {
                match p == 0.0 {
                    true => assert_eq!(count, 0, "{sampling:?}: an id that is filtered out"),
                    false => statistic += (count as f64 - p * DRAWS as f64).powi(2) / (p * DRAWS as f64),
                }
            }
            assert!(statistic < 33.0, "{sampling:?}: {statistic} of {counts:?}");
            let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            for Choice { chosen, .. } in choices.iter().take(50) {
                assert!((chosen.logprob - (z[chosen.id as usize] - log_sum)).abs() < 1e-6, "at temperature 1 and unfiltered");
            }
        }
    }

    /// Oracle: the definition, over every boundary of the cumulative probability. A flat row of 1000 ids needs more than are looked at
    /// first.
    #[test]
    fn filters_keep_what_their_definition_keeps() {
        tch::manual_seed(5);
        for (width, scale) in [(10, 1.0), (1000, 1.0), (1000, 0.05)] {
            let row = logits(1, width) * scale;
            let z: Vec<f64> = Vec::<f32>::try_from(row.flatten(0, -1)).unwrap().into_iter().map(f64::from).collect();
            for sampling in SAMPLINGS.into_iter().filter(Sampling::is_filtered) {
                let expected = exact(&z, &sampling);
                let rows = row.expand([4000, width], false).contiguous();
                let step = u64::MAX / 4000;
                let choices = choose(&rows, &sampling, |index| index as u64 * step).unwrap();
                let mut found: Vec<usize> = choices.iter().map(|choice| choice.chosen.id as usize).collect();
                found.sort_unstable();
                found.dedup();
                assert!(found.iter().all(|&id| expected[id] > 0.0), "{sampling:?}");
                // Every id with more than a step of the probability is found.
                let missed = expected.iter().enumerate().find(|(id, p)| **p > 1.0 / 3000.0 && !found.contains(id));
                assert_eq!(missed, None, "{sampling:?}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_of_equals_the_lowest_id() {
        let row = Tensor::from_slice(&[1.0f32, 3.0, 3.0, -2.0]).unsqueeze(0);
        let sampling = Sampling { listed: 2, ..Sampling::GREEDY };
        let choice = choose(&row, &sampling, |_| unreachable!("nothing is drawn")).unwrap().remove(0);
        assert_eq!(choice.chosen.id, 1);
        assert_eq!(choice.listed.iter().map(|listed| listed.id).collect::<Vec<_>>(), [1, 2]);
        let nan = Tensor::from_slice(&[1.0f32, f32::NAN]).unsqueeze(0);
        assert!(choose(&nan, &sampling, |_| 0).is_err());
    }
}
