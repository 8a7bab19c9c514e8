//! Oracle: the same batch in one pass on one rank. Gradient and loss agree to 1e-6 in f32, relative to the gradient's largest entry
//! and to the loss; and the batch's gradient is the mean over target tokens of the gradients of its sequences alone.

use std::process::Command;
use std::sync::LazyLock;
use std::thread;

use hydrometer::data::batch::{Row, plan};
use hydrometer::data::recipe::Packing;
use hydrometer::data::sequences::sequences;
use hydrometer::data::tokens::TokenizedSplit;
use hydrometer::dist::Mesh;
use hydrometer::dist::c10d::Store;
use hydrometer::experiment::{Experiment, Options, load};
use hydrometer::model::{Decoder, Weights};
use hydrometer::record::journal::Event;
use hydrometer::sweep::job::{cache_place, data_folder};
use hydrometer::teacher::cache::Cache;
use hydrometer::train::passes::PassSource;
use hydrometer::train::recipe::TrainRecipe;
use hydrometer::train::update::Accumulator;
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::lab::{EXPERIMENT, Lab, until};

/// A batch of a student, and what it is read from.
struct Case {
    recipe: TrainRecipe,
    split: TokenizedSplit,
    cache: Option<Cache>,
    rows: Vec<Row>,
}

/// Ranks, and the most tokens of a pass.
#[derive(Clone, Copy, Debug)]
struct Split {
    tp: usize,
    dp: usize,
    pass_tokens: usize,
}

const WHOLE: Split = Split { tp: 1, dp: 1, pass_tokens: usize::MAX };

/// The arm `method` of the lab, at its second batch: one that begins and ends within sequences.
fn case(lab: &Lab, method: &str, packing: Packing) -> Case {
    let experiment: Experiment = load(&lab.path().join("lab.toml"), &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
    let student = experiment.students.iter().find(|student| student.method == method).unwrap();
    let mut recipe = student.recipe.clone();
    let runs = lab.path().join("runs");
    let split = TokenizedSplit::read(&data_folder(&runs, &recipe.data).join("train.tokens")).unwrap();
    let cache = student.trained_teacher().map(|teacher| {
        let place = cache_place(&runs, &experiment.teachers[teacher]);
        Cache::open(&place.folder, &place.title).unwrap()
    });
    let rows = plan(&sequences(&split, recipe.data.context), recipe.tokens, recipe.batch, recipe.seed).remove(1);
    let lengths = |of: fn(&Row) -> usize| rows.iter().map(of).min() != rows.iter().map(of).max();
    assert!(rows.len() > 6 && lengths(Row::inputs) && lengths(Row::targets), "rows of unequal length");
    recipe.data.packing = packing;
    Case { recipe, split, cache, rows }
}

/// Mean loss and gradient over `rows` in initial weights, the gradient whole and flat; and the number of passes of the first rank.
fn learned(case: &Case, rows: &[Row], Split { tp, dp, pass_tokens }: Split) -> (f64, Tensor, usize) {
    let store = Store::in_process();
    let on_rank = |rank: usize, store: &Store| {
        let mesh = Mesh::join(store, rank, tp, dp, Device::Cpu).unwrap();
        let weights = Weights::init(&case.recipe.model, 3, Kind::Float, &mesh).unwrap();
        let decoder = Decoder::new(&case.recipe.model, case.recipe.data.context, &weights.leaves, &mesh);
        let source = PassSource {
            recipe: &case.recipe,
            split: &case.split,
            cache: case.cache.as_ref(),
            pass_tokens,
            dp: (mesh.dp.rank, mesh.dp.size),
            device: mesh.device,
        };
        let count: usize = rows.iter().map(Row::targets).sum();
        let loss = thread::scope(|scope| {
            let of = (&weights, &decoder, &mesh);
            let accumulator = Accumulator::start(scope, &source, of, false, Some(rows)).unwrap();
            // A gradient that is there before counts for nothing.
            accumulator.accumulate(count, Some(rows)).unwrap();
            accumulator.accumulate(count, None).unwrap().loss / count as f64
        });
        let full = |index: usize| weights.full(&weights.gradient, index, &mesh).unwrap().flatten(0, -1);
        let flat = Tensor::cat(&(0..weights.parameters.len()).map(full).collect::<Vec<_>>(), 0);
        (loss, flat, source.passes(rows).len())
    };
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..tp * dp)
            .map(|rank| {
                let (store, on_rank) = (store.clone(), &on_rank);
                scope.spawn(move || on_rank(rank, &store))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>().remove(0)
    })
}

/// Largest difference of an entry, relative to the largest entry of `expected`.
fn off(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).abs().max() / expected.abs().max()).double_value(&[])
}

const ARMS: [&str; 2] = ["finetune", "soft-ce"];

/// Each arm with and without packing, with its loss and gradient in one pass.
static CASES: LazyLock<Vec<(Case, f64, Vec<f32>)>> = LazyLock::new(|| {
    let lab = Lab::trained();
    let cases = ARMS.into_iter().flat_map(|arm| [Packing::None, Packing::Documents].map(|packing| case(&lab, arm, packing)));
    cases
        .map(|case| {
            let (loss, gradient, passes) = learned(&case, &case.rows, WHOLE);
            assert_eq!(passes, 1);
            (case, loss, Vec::try_from(gradient).unwrap())
        })
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn of_any_size_on_any_mesh(which in 0usize..4, tp in 1usize..=2, dp in 1usize..=2, pass_tokens in 1usize..400) {
        let (case, loss, gradient) = &CASES[which];
        let split = Split { tp, dp, pass_tokens };
        let (found, found_gradient, passes) = learned(case, &case.rows, split);
        prop_assert!(passes > 1 || pass_tokens > 128, "{split:?}");
        prop_assert!((found - loss).abs() <= 1e-6 * loss, "{split:?}: a loss of {found}, {loss} in one pass");
        let off = off(&found_gradient, &Tensor::from_slice(gradient));
        prop_assert!(off <= 1e-6, "{split:?}: a gradient that is off by {off} in {passes} passes");
    }
}

#[test]
fn whose_gradient_is_the_mean_over_target_tokens() {
    for (case, loss, gradient) in CASES.iter() {
        let gradient = Tensor::from_slice(gradient);
        let count: usize = case.rows.iter().map(Row::targets).sum();
        let (mut mean_loss, mut mean, mut of_sequences) = (0.0, gradient.zeros_like(), gradient.zeros_like());
        for row in &case.rows {
            let share = row.targets() as f64 / count as f64;
            let (loss, alone, _) = learned(case, &[*row], WHOLE);
            mean_loss += share * loss;
            mean += &alone * share;
            of_sequences += alone / case.rows.len() as f64;
        }
        assert!((mean_loss - loss).abs() <= 1e-6 * loss, "{mean_loss} {loss}");
        assert!(off(&mean, &gradient) <= 1e-6, "{}", off(&mean, &gradient));
        assert!(off(&of_sequences, &gradient) > 1e-2, "a mean of means would be told apart");
    }
}

#[test]
fn in_a_whole_experiment_that_is_interrupted_and_keeps_its_size() {
    let lab = Lab::new();
    let long = EXPERIMENT.replace("12.8k", "25.6k");
    lab.write("lab.toml", &long);
    let run = |runs: &'static str, more: &[&'static str]| {
        [&["run", "lab.toml", "--only", "soft-ce", "--runs", runs, "--results", "results"], more].concat()
    };
    lab.ok(&run("whole", &[]));
    lab.ok(&run("calm", &["--pass-tokens", "64"]));
    let student = |runs: &str| {
        let mut numbers = lab.numbers(runs);
        numbers.retain(|(run, ..)| run.starts_with("soft-ce"));
        numbers
    };
    let (whole, calm) = (student("whole"), student("calm"));
    assert_eq!(whole.len(), calm.len());
    let near = whole.iter().zip(&calm).all(|((.., a), (.., b))| (a - b).abs() <= 1e-4 * a.abs());
    assert!(near && whole != calm, "the same but for rounding");
    let events = |runs: &str| {
        let mut all = lab.histories(runs);
        all.retain(|run, _| run.starts_with("soft-ce"));
        all.into_values().flatten().collect::<Vec<Event>>()
    };
    assert_eq!(events("whole").len(), events("calm").len(), "passes are no events");

    let mut program = lab.start(&run("torn", &["--pass-tokens", "64"]));
    until(|| lab.path().join("torn").exists() && student("torn").len() > 40);
    Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130), "{}", lab.said());
    assert!(student("torn").len() < calm.len());
    let resumed = lab.run(&run("torn", &["--pass-tokens", "96"]));
    let said = String::from_utf8_lossy(&resumed.stderr);
    assert!(resumed.status.success() && said.contains("resumes with passes of 64 tokens, as it started"), "{said}");
    assert_eq!(student("torn"), calm);
    let size = |event| if let Event::Started { pass_tokens, .. } = event { pass_tokens } else { None };
    assert_eq!(events("torn").into_iter().filter_map(size).collect::<Vec<_>>(), [64, 64]);
}

#[test]
fn a_size_is_planned_alike_on_any_mesh_and_one_that_holds_no_sequence_is_refused() {
    let lab = Lab::new();
    let planned = |more: &[&str]| {
        let output = lab.run(&[&["plan", "lab.toml", "--output", "json"], more].concat());
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (document["runs"][0]["pass_tokens"].as_u64().unwrap(), document["left"]["memory_bytes"].as_u64().unwrap())
    };
    let (size, bytes) = planned(&[]);
    assert!(size.is_power_of_two() && size > 256, "one pass an update");
    assert_eq!(planned(&["--tp", "2", "--dp", "2"]).0, size);
    let (size, less) = planned(&["--pass-tokens", "32"]);
    assert!(size == 32 && less < bytes, "{less} {bytes}");
    for (verb, size, why) in
        [("plan", "31", "up to 32 tokens (lab.toml: context of "), ("run", "31", "use at least 32"), ("run", "0", "0")]
    {
        let output = lab.run(&[verb, "lab.toml", "--pass-tokens", size]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--pass-tokens") && said.contains(why), "{said}");
    }
    assert!(!lab.path().join("runs/data").exists());
}
