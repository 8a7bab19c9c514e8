//! `[fair]`: what the arms of a comparison must have in common.
//!
//! A run is compared with the run of the reference arm that has the same seed and the same value on every axis that the reference
//! has. The two must read the same data with the same context and packing, train the same student in the same precision, and be
//! evaluated on the same split; and they must get the same budget:
//!
//! - `tokens`: the same target tokens, in batches of one size, evaluated equally often;
//! - `updates`: the same number of updates;
//! - `total-flops`: the same FLOPs, including the teacher's. The teacher's training is divided equally among the runs that use
//!   it, and its forward pass equally among the runs that use the same targets (same teacher, budget and seed: the seed
//!   determines the order of the data). This determines the tokens t of a distilled run. With c the student's training FLOPs per
//!   token, T the teacher's training FLOPs shared by n runs, f its forward FLOPs per token shared by m runs, and t₀ the tokens
//!   of the reference, c·t + T/n + t·f/m = c·t₀, so t = (c·t₀ − T/n) / (c + f/m), rounded down.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use hydrometer_base::identity::identity;
use hydrometer_base::user_error;
use hydrometer_data::recipe::DataRecipe;
use hydrometer_torch::model::ModelConfig;
use toml_edit::Item;

pub use super::keys::Match;
use super::keys::{self, Place};
use super::source::{Source, SourceSpan};
use super::{Experiment, Student};
use crate::train::recipe::TrainRecipe;

/// `[fair]` as read.
#[derive(Clone, Debug)]
pub struct Rule {
    pub by: Match,
    pub at: SourceSpan,
}

/// Whether the runs of an experiment can be compared.
#[derive(Clone, Debug, Default)]
pub struct Fairness {
    /// The rule of the file, if it has one.
    pub rule: Option<Match>,
    /// Differences between compared runs that the rule does not allow, one sentence each.
    pub unfair: Vec<String>,
    /// Number of runs without a run of the reference to compare with.
    pub alone: usize,
    /// Runs whose tokens `total-flops` has changed: the index and the tokens that the file set.
    pub balanced: Vec<(usize, u64)>,
}

pub fn read(source: &Source, item: Option<&Item>) -> Result<Option<Rule>> {
    let Some(item) = item else { return Ok(None) };
    let at = source.place(item.span());
    let table = item.as_table_like().ok_or_else(|| user_error!("{}: [fair] must be a table", at.0))?;
    let mut rule = None;
    for (key, setting) in source.settings(table)? {
        if key != keys::MATCH.name {
            return Err(user_error!("{}: {}", setting.at.0, keys::unknown_in(Place::Fair, &key, "[fair]")));
        }
        let by = keys::MATCH.choice(&setting, Match::named)?;
        rule = Some(Rule { by, at: setting.at });
    }
    rule.map(Some).ok_or_else(|| user_error!("{}: [fair] lacks match; add match = \"tokens\"", at.0))
}

/// The student of the reference arm that each student is compared with; `None` for the reference's own students and if there is
/// none.
pub fn partners(experiment: &Experiment) -> Vec<Option<usize>> {
    let mut shapes: Vec<Vec<&str>> = Vec::new();
    /// A seed, and axes with their values.
    type Point<'a> = (u64, Vec<&'a (String, String)>);
    let mut references: BTreeMap<Point, usize> = BTreeMap::new();
    for (index, student) in experiment.students.iter().enumerate().filter(|(_, s)| s.method == experiment.reference) {
        shapes.push(student.axes.iter().map(|(key, _)| key.as_str()).collect());
        references.insert((student.seed, student.axes.iter().collect()), index);
    }
    // The shape with the most axes comes first.
    shapes.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    shapes.dedup();
    let partner = |student: &Student| {
        let part = |shape: &Vec<&str>| -> Vec<&(String, String)> {
            shape.iter().filter_map(|key| student.axes.iter().find(|(axis, _)| axis == key)).collect()
        };
        shapes.iter().find_map(|shape| references.get(&(student.seed, part(shape))).copied())
    };
    let of = |student: &Student| if student.method == experiment.reference { None } else { partner(student) };
    experiment.students.iter().map(of).collect()
}

/// Gives every compared run the tokens that make its FLOPs, including the teacher's, equal to its partner's; see the module.
/// Returns the changed runs as in [`Fairness::balanced`].
pub fn balance(experiment: &mut Experiment, rule: &Rule) -> Result<Vec<(usize, u64)>> {
    let partners = partners(experiment);
    let students = &experiment.students;
    let pass = |student: &Student, asked: u64| (student.trained_teacher(), asked, student.seed);
    let mut users = vec![0u64; experiment.teachers.len()];
    let mut passes: BTreeMap<_, u64> = BTreeMap::new();
    for (student, partner) in students.iter().zip(&partners) {
        let asked = partner.map_or(student.recipe.tokens, |partner| students[partner].recipe.tokens);
        student.trained_teacher().into_iter().for_each(|teacher| users[teacher] += 1);
        *passes.entry(pass(student, asked)).or_default() += 1;
    }
    let mut balanced = Vec::new();
    for (index, partner) in partners.iter().enumerate() {
        let (student, Some(partner)) = (&students[index], partner.map(|partner| &students[partner])) else { continue };
        let Some(teacher) = student.trained_teacher() else { continue };
        let (recipe, taught) = (&student.recipe, &experiment.teachers[teacher].recipe);
        let shared = passes[&pass(student, partner.recipe.tokens)] as f64;
        let own = recipe.model.train_flops_per_token(recipe.data.context);
        let forward = taught.model.forward_flops_per_token(recipe.data.context) / shared;
        let training = taught.train_flops() / users[teacher] as f64;
        let budget = partner.recipe.train_flops();
        let tokens = ((budget - training) / (own + forward)).floor().max(0.0) as u64;
        if tokens < recipe.batch && !experiment.smoke {
            let (at, method, name) = (&rule.at.0, &student.method, &experiment.teachers[teacher].name);
            let per_token = partner.recipe.train_flops() / partner.recipe.tokens as f64;
            let needed = ((recipe.batch as f64 * (own + forward) + training) / per_token).ceil();
            return Err(user_error!(
                "{at}: {method}'s share of training teacher {name} leaves it no tokens; give {} at least {needed} tokens, or \
                 teach more runs with it",
                experiment.reference
            ));
        }
        // A smoke run only shows that the code works: it needs at least one update, but no balance.
        balanced.push((index, recipe.tokens, tokens.max(recipe.batch.min(recipe.tokens))));
    }
    for &(index, _, tokens) in &balanced {
        experiment.students[index].recipe.tokens = tokens;
    }
    Ok(balanced.into_iter().map(|(index, asked, _)| (index, asked)).collect())
}

/// Differences between compared runs that `by` does not allow: a sentence for each pair of arms and each difference, with the
/// values of the first pair of runs that shows it.
pub fn unfair(experiment: &Experiment, by: Match) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (student, partner) in experiment.students.iter().zip(partners(experiment)) {
        let Some(partner) = partner.map(|partner| &experiment.students[partner]) else { continue };
        for (what, mine, theirs) in differences(student, partner, by) {
            if seen.insert((student.method.clone(), what)) {
                found.push(format!("{} has {what} {mine} where {} has {theirs}", student.method, partner.method));
            }
        }
    }
    found
}

/// The settings by which `data` becomes examples, as far as they differ from those of `other`.
fn examples(data: &DataRecipe, other: &DataRecipe) -> String {
    let fields = |data: &DataRecipe| serde_json::to_value(&data.examples).expect("recipes are plain data");
    let (mine, theirs) = (fields(data), fields(other));
    let Some(own) = mine.as_object() else { return "of plain documents".into() };
    let different = own.iter().filter(|(key, value)| theirs.get(key.as_str()) != Some(*value));
    let words: Vec<String> = different.map(|(key, value)| format!("with {key} {value}")).collect();
    words.join(" and ")
}

fn differences(a: &Student, b: &Student, by: Match) -> Vec<(&'static str, String, String)> {
    let (a, b) = (&a.recipe, &b.recipe);
    let shape = |model: &ModelConfig| format!("{} ({} parameters)", identity(model), model.parameter_count());
    let start = |recipe: &TrainRecipe| recipe.start.as_ref().map_or("random".to_string(), identity);
    let content = |data: &DataRecipe| identity(&(&data.content, &data.tokenizer));
    let mut all = vec![
        ("data", content(&a.data), content(&b.data)),
        ("examples", examples(&a.data, &b.data), examples(&b.data, &a.data)),
        ("context", a.data.context.to_string(), b.data.context.to_string()),
        ("packing", a.data.packing.name().to_string(), b.data.packing.name().to_string()),
        ("student", shape(&a.model), shape(&b.model)),
        ("starting weights", start(a), start(b)),
        ("precision", a.precision.name().to_string(), b.precision.name().to_string()),
        ("eval.on", a.eval.on.clone(), b.eval.on.clone()),
    ];
    match by {
        Match::Tokens => all.extend([
            ("tokens", a.tokens.to_string(), b.tokens.to_string()),
            ("batch", a.batch.to_string(), b.batch.to_string()),
            ("eval.every", a.eval.every.to_string(), b.eval.every.to_string()),
        ]),
        Match::Updates => all.push(("updates", a.updates().to_string(), b.updates().to_string())),
        Match::TotalFlops => {}
    }
    all.into_iter().filter(|(_, mine, theirs)| mine != theirs).collect()
}
