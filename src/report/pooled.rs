//! What an arm gains over several data sets, in one number.

use serde::Serialize;

use super::comparison::{Cell, Comparison, Estimate, LEVEL, values};
use super::findings::Rows;
use super::format::signed;
use crate::stats::pooled::over_sets;

/// The axis that tells data sets apart.
const DATA: &str = "data";

pub const TITLE: &str = "Over the data sets";
pub const NOTE: &str = "Nats per token less the reference's: the interquartile mean over the data sets of each seed, averaged over \
    the seeds that all of them have, with its 95% Student t interval over seeds. It speaks of these data sets alone.";

/// An arm over data sets.
#[derive(Clone, Debug, Serialize)]
pub struct Pooled {
    pub arm: String,
    /// The other axes that the arms share, such as `tokens=100k`.
    pub at: String,
    pub sets: Vec<String>,
    /// Nats per token less the reference's.
    pub nll: Estimate,
}

/// The cells of an experiment that sweeps its data, pooled over it. Empty where it does not.
pub fn over_data(comparison: &Comparison) -> Vec<Pooled> {
    let mut groups: Groups = Vec::new();
    for cell in &comparison.cells {
        let (data, rest): (Vec<_>, Vec<_>) = cell.facet.iter().cloned().partition(|axis| axis.axis == DATA);
        let Some(set) = data.first() else { continue };
        add(&mut groups, (cell.arm.clone(), values(&rest)), set.value.clone(), comparison, cell);
    }
    pool(groups)
}

/// Arms of several experiments that bear the same name, pooled over the experiments.
pub fn over_experiments(comparisons: &[Comparison]) -> Vec<Pooled> {
    let mut groups: Groups = Vec::new();
    for comparison in comparisons {
        for cell in &comparison.cells {
            let place = (cell.arm.clone(), values(&cell.facet));
            add(&mut groups, place, comparison.experiment.clone(), comparison, cell);
        }
    }
    pool(groups)
}

/// By arm and place: the data sets, and in each the difference of every seed.
type Groups = Vec<((String, String), Vec<(String, Vec<(i64, f64)>)>)>;

fn add(groups: &mut Groups, place: (String, String), set: String, comparison: &Comparison, cell: &Cell) {
    let Some(found) = &cell.difference else { return };
    let Some(reference) = comparison.cells.iter().find(|other| other.label == found.to) else { return };
    let pair = |seed: &super::SeedResult| {
        let other = reference.seeds.iter().find(|other| other.seed == seed.seed)?;
        Some((seed.seed, seed.nll - other.nll))
    };
    let differences = cell.seeds.iter().filter_map(pair).collect();
    match groups.iter_mut().find(|group| group.0 == place) {
        Some(group) => group.1.push((set, differences)),
        None => groups.push((place, vec![(set, differences)])),
    }
}

fn pool(groups: Groups) -> Vec<Pooled> {
    let several = groups.into_iter().filter(|(_, sets)| sets.len() > 1);
    several
        .filter_map(|((arm, at), sets)| {
            let (_, first) = sets.first()?;
            let shared = |seed: &i64| sets.iter().all(|(_, values)| values.iter().any(|(other, _)| other == seed));
            let seeds: Vec<i64> = first.iter().map(|(seed, _)| *seed).filter(shared).collect();
            let of = |values: &Vec<(i64, f64)>| -> Vec<f64> {
                seeds.iter().filter_map(|seed| values.iter().find(|(other, _)| other == seed).map(|(_, value)| *value)).collect()
            };
            let values: Vec<Vec<f64>> = sets.iter().map(|(_, values)| of(values)).collect();
            let nll = Estimate::of(over_sets(&values, LEVEL))?;
            Some(Pooled { arm, at, sets: sets.into_iter().map(|(set, _)| set).collect(), nll })
        })
        .collect()
}

/// As rows of text.
pub fn rows(pooled: &[Pooled]) -> Rows {
    let row = |one: &Pooled| {
        let interval = one.nll.low.zip(one.nll.high);
        let interval = interval.map_or("–".to_string(), |(low, high)| format!("{} to {}", signed(low, 3), signed(high, 3)));
        let name = format!("{} {}", one.arm, one.at).trim_end().to_string();
        vec![name, signed(one.nll.mean, 3), interval, one.nll.n.to_string(), one.sets.join(", ")]
    };
    (vec!["arm", "Δ nats/token", "95% interval", "seeds", "data sets"], pooled.iter().map(row).collect())
}
