//! The gain of an arm over several data sets, in one number.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use hydrometer_base::run_id::recipe_of;
use hydrometer_base::units::signed;
use hydrometer_base::user_error;
use serde::Serialize;

use super::SeedResult;
use super::comparison::Comparison;
use super::findings::Rows;
use crate::cell::{Cell, Estimate, LEVEL, values};
use crate::stats::pooled::over_sets;

/// The axis that distinguishes data sets.
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
    /// Nats per token minus the reference's.
    pub nll: Estimate,
}

/// The cells of an experiment that sweeps its data, pooled over the data sets. Empty if it does not.
pub fn over_data(comparison: &Comparison) -> Vec<Pooled> {
    let mut groups: Groups = Vec::new();
    for cell in &comparison.cells {
        let (data, rest): (Vec<_>, Vec<_>) = cell.facet.iter().cloned().partition(|axis| axis.axis == DATA);
        let Some(set) = data.first() else { continue };
        add(&mut groups, (cell.arm.clone(), values(&rest)), set.value.clone(), comparison, cell);
    }
    pool(groups)
}

/// Arms with the same name, pooled over several experiments. Experiments that share runs form one data set, in which each run
/// counts once. An error if a run has different numbers in two experiments.
pub fn over_experiments(comparisons: &[Comparison]) -> Result<Vec<Pooled>> {
    refuse_contradictions(comparisons)?;
    let mut groups: Groups = Vec::new();
    for comparison in comparisons {
        for cell in &comparison.cells {
            let place = (cell.arm.clone(), values(&cell.facet));
            add(&mut groups, place, comparison.experiment.clone(), comparison, cell);
        }
    }
    Ok(pool(groups))
}

/// One sentence for each pair of experiments that share runs.
pub fn shared(comparisons: &[Comparison]) -> Vec<String> {
    let runs = |comparison: &Comparison| -> BTreeSet<String> {
        comparison.cells.iter().flat_map(|cell| &cell.seeds).map(|seed| recipe_of(&seed.run).to_string()).collect()
    };
    let all: Vec<BTreeSet<String>> = comparisons.iter().map(runs).collect();
    let pairs = (0..all.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    let counted = pairs.map(|(a, b)| (a, b, all[a].intersection(&all[b]).count())).filter(|(.., count)| *count > 0);
    let sentence = |(a, b, count): (usize, usize, usize)| {
        let (a, b): (&str, &str) = (&comparisons[a].experiment, &comparisons[b].experiment);
        format!("{a} and {b} share {count} runs, which are pooled as one set and count once")
    };
    counted.map(sentence).collect()
}

fn refuse_contradictions(comparisons: &[Comparison]) -> Result<()> {
    let mut known: BTreeMap<&str, (&str, &SeedResult)> = BTreeMap::new();
    for comparison in comparisons {
        for seed in comparison.cells.iter().flat_map(|cell| &cell.seeds) {
            let (first, before) = *known.entry(recipe_of(&seed.run)).or_insert((&comparison.experiment, seed));
            if before.nll.to_bits() != seed.nll.to_bits() {
                return Err(user_error!(
                    "run {} has an nll of {} in {first} and of {} in {}: these are not the same results, leave one of them out",
                    seed.run,
                    before.nll,
                    seed.nll,
                    comparison.experiment
                ));
            }
        }
    }
    Ok(())
}

/// The difference of one seed from the reference, and the two compared runs.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    seed: i64,
    runs: [String; 2],
    value: f64,
}

/// By arm and shared axes: the data sets, and the difference of every seed in each.
type Groups = Vec<((String, String), Vec<(String, Vec<Pair>)>)>;

fn add(groups: &mut Groups, place: (String, String), set: String, comparison: &Comparison, cell: &Cell) {
    let Some(found) = &cell.difference else { return };
    let Some(reference) = comparison.cells.iter().find(|other| other.label == found.to) else { return };
    let pair = |seed: &SeedResult| {
        let other = reference.seeds.iter().find(|other| other.seed == seed.seed)?;
        let runs = [&seed.run, &other.run].map(|run| recipe_of(run).to_string());
        Some(Pair { seed: seed.seed, runs, value: seed.nll - other.nll })
    };
    let differences = cell.seeds.iter().filter_map(pair).collect();
    match groups.iter_mut().find(|group| group.0 == place) {
        Some(group) => group.1.push((set, differences)),
        None => groups.push((place, vec![(set, differences)])),
    }
}

/// Merges sets that share a run, under the name of the first; each pair of runs is kept once.
fn merged(sets: Vec<(String, Vec<Pair>)>) -> Vec<(String, Vec<Pair>)> {
    let mut all: Vec<(String, Vec<Pair>)> = Vec::new();
    for (name, pairs) in sets {
        let shares = |other: &(String, Vec<Pair>)| {
            other.1.iter().any(|a| pairs.iter().any(|b| a.runs.iter().any(|run| b.runs.contains(run))))
        };
        // A set may connect several that share nothing with one another.
        let (tied, free): (Vec<_>, Vec<_>) = all.into_iter().partition(shares);
        all = free;
        let name = tied.first().map_or(name, |(first, _)| first.clone());
        let mut joined: Vec<Pair> = Vec::new();
        for pair in tied.into_iter().flat_map(|(_, pairs)| pairs).chain(pairs) {
            // One value per seed: the first, in the order in which the results were given.
            if !joined.iter().any(|known| known.runs == pair.runs || known.seed == pair.seed) {
                joined.push(pair);
            }
        }
        all.push((name, joined));
    }
    all
}

fn pool(groups: Groups) -> Vec<Pooled> {
    let groups = groups.into_iter().map(|(place, sets)| (place, merged(sets)));
    let several = groups.filter(|(_, sets)| sets.len() > 1);
    several
        .filter_map(|((arm, at), sets)| {
            let (_, first) = sets.first()?;
            let of = |set: &[Pair], seed: i64| set.iter().find(|pair| pair.seed == seed).map(|pair| pair.value);
            let shared = |seed: &i64| sets.iter().all(|(_, set)| of(set, *seed).is_some());
            let seeds: Vec<i64> = first.iter().map(|pair| pair.seed).filter(shared).collect();
            let values: Vec<Vec<f64>> =
                sets.iter().map(|(_, set)| seeds.iter().filter_map(|&seed| of(set, seed)).collect()).collect();
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
