//! Estimates a job's peak memory by a formula, and refuses jobs that cannot fit on this machine.

use anyhow::Result;
use hydrometer_base::shortage::shown;
use hydrometer_base::user_error;
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::head::{LOGIT_BYTES, chunk_length};

use super::job::{Job, Work};
use super::machine::Machine;
use crate::eval::writing::BATCH;
use crate::train::recipe::TrainRecipe;

/// Memory of the program with libtorch and its threads, before any model is created. Measured on x86-64 without CUDA.
const PROGRAM_BYTES: f64 = 240e6;
/// Factor by which the formula may overestimate (see the test). A job is refused only if it could not fit even then.
const OVERESTIMATE: f64 = 1.2;

/// How a run is distributed over ranks, and its memory-saving options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub tp: usize,
    pub dp: usize,
    /// Activation recomputation: recompute activations in the backward pass.
    pub recompute: bool,
    pub sequence_parallel: bool,
    /// Most input tokens of a pass; `None` for the recipe's default.
    pub pass_tokens: Option<usize>,
}

impl Spread {
    /// `tp` × `dp` ranks without memory-saving options.
    pub fn of(tp: usize, dp: usize) -> Self {
        Self { tp, dp, ..Self::default() }
    }
}

/// Estimated peak memory of one rank of `recipe` in bytes: weights, gradients, optimizer moments, the activations of its share of
/// a batch, and a chunk of logits.
pub fn peak_bytes(recipe: &TrainRecipe, spread: &Spread) -> u64 {
    let (tp, dp) = (spread.tp as f64, spread.dp as f64);
    let width = width(recipe);
    // In f32: master weights, their gradients and two moments. For bf16, a copy of the weights.
    let copy = if recipe.precision == Precision::Bf16 { width } else { 0.0 };
    let weights = recipe.model.parameter_count() as f64 / tp * (16.0 + copy);
    // Of a batch, one pass at a time.
    let share = (recipe.batch.min(recipe.tokens) as f64 / dp).ceil();
    let tokens = share.min(spread.pass_tokens.unwrap_or_else(|| recipe.pass_tokens()) as f64);
    // The backward pass also holds a few gradients of the widest activations.
    let passing = 8.0 * recipe.model.intermediate_size as f64 / tp;
    let all = recipe.model.activations_per_token(tp, if spread.sequence_parallel { tp } else { 1.0 });
    // With recomputation, only the input of each block is stored, and one block at a time has all its activations.
    let kept = if spread.recompute {
        let blocks = recipe.model.num_hidden_layers.max(1) as f64;
        (recipe.model.hidden_size as f64 * (blocks + 4.0) + all / blocks).min(all)
    } else {
        all
    };
    let activations = tokens * width * (kept + passing);
    let vocabulary = recipe.model.vocab_size.div_ceil(spread.tp) as i64;
    let logits = tokens.min(chunk_length(vocabulary) as f64) * (vocabulary * LOGIT_BYTES) as f64;
    // The logits, the workspace of their matrix product, and the passes over them.
    (PROGRAM_BYTES + weights + activations + 2.0 * logits) as u64
}

/// Minimum memory of one rank for a forward pass through the model of `recipe` in bytes: its weights.
fn forward_bytes(recipe: &TrainRecipe, tp: usize) -> u64 {
    (PROGRAM_BYTES + recipe.model.parameter_count() as f64 / tp as f64 * width(recipe)) as u64
}

/// Bytes per number in the run's precision.
fn width(recipe: &TrainRecipe) -> f64 {
    recipe.precision.bytes() as f64
}

impl Job {
    /// Estimated peak memory of one of its ranks in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let Self { tp, dp, recompute, sequence_parallel, pass_tokens, .. } = *self;
        let spread = Spread { tp, dp, recompute, sequence_parallel, pass_tokens };
        match &self.work {
            Work::Train { recipe, .. } if !recipe.is_untrained() => peak_bytes(recipe, &spread),
            Work::Train { recipe, .. } | Work::Teach { recipe, .. } => forward_bytes(recipe, tp),
            Work::Fidelity { recipe, teacher, .. } => {
                forward_bytes(recipe, tp) + forward_bytes(teacher, tp) - PROGRAM_BYTES as u64
            }
            Work::Write { recipe, judge, .. } => {
                let judge = judge.as_ref().map_or(0, |judge| forward_bytes(&judge.recipe, tp) - PROGRAM_BYTES as u64);
                let numbers = recipe.model.cached_numbers_per_token(tp) * recipe.data.context * BATCH;
                forward_bytes(recipe, tp) + judge + (numbers as f64 * width(recipe)) as u64
            }
            Work::Unigram { .. } => PROGRAM_BYTES as u64,
        }
    }
}

/// Refuses a job that cannot fit in the memory of `machine` even if it runs alone. Jobs on GPUs are not checked: they use the
/// memory of the device.
pub fn fit<'a>(jobs: impl Iterator<Item = &'a Job>, machine: &Machine) -> Result<()> {
    for job in jobs.filter(|job| job.device == "cpu") {
        let rank = job.memory_bytes();
        let all = rank * (job.tp * job.dp) as u64;
        let (needed, there, whose) = match (machine.all, machine.of_a_process()) {
            (_, Some((there, whose))) if least(rank) > there => (rank, there, whose),
            (Some(there), _) if least(all) > there => (all, there, "this machine has"),
            _ => continue,
        };
        let cure = cure(job.recompute);
        return Err(user_error!(
            "{}: it needs about {} of memory, {whose} {}; try {cure}",
            job.run,
            shown(needed as f64),
            shown(there as f64)
        ));
    }
    Ok(())
}

/// A lower bound of the memory of a job that the formula estimates at `bytes`.
pub fn least(bytes: u64) -> u64 {
    (bytes as f64 / OVERESTIMATE) as u64
}

/// Suggestions that reduce memory.
pub fn cure(recompute: bool) -> &'static str {
    match recompute {
        false => "--recompute, a smaller --pass-tokens, batch or context, or a smaller model",
        true => "a smaller --pass-tokens, batch or context, or a smaller model",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hydrometer_torch::model::ModelConfig;

    use super::*;
    use crate::experiment::{Options, load};

    /// Oracle: the peak memory of two processes that Linux reported (VmHWM; two threads, x86-64, no CUDA), as scripts/memory.py measures.
    #[test]
    fn the_estimate_is_near_what_was_measured() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/quickstart.toml");
        let experiment = load(&quickstart, &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
        let small = &experiment.students[0].recipe;
        let whole = |tp, dp| Spread { pass_tokens: Some(16_384), ..Spread::of(tp, dp) };
        let near = |recipe: &TrainRecipe, measured: f64| {
            let ratio = peak_bytes(recipe, &whole(1, 1)) as f64 / measured;
            assert!((0.85..1.15).contains(&ratio), "{ratio}");
        };
        near(small, 306e6);
        let mut large = small.clone();
        large.model = ModelConfig {
            vocab_size: 2048,
            hidden_size: 256,
            intermediate_size: 704,
            num_hidden_layers: 5,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            ..large.model
        };
        // Measured with a batch of three such passes.
        (large.batch, large.tokens, large.data.context) = (16_384, 16_384, 256);
        near(&large, 2051e6);
        let on = |tp, dp| peak_bytes(&large, &whole(tp, dp));
        assert!(on(2, 1) < on(1, 1) && on(1, 2) < on(2, 1));
        let again = peak_bytes(&large, &Spread { recompute: true, ..whole(1, 1) });
        assert!(again < on(1, 1) * 3 / 5, "{again}");
        // A larger batch is walked in more passes.
        let passes = |batch: u64| {
            let larger = TrainRecipe { batch, tokens: 1_000_000, ..large.clone() };
            peak_bytes(&larger, &Spread::of(1, 1))
        };
        assert!(passes(16_000) < on(1, 1) && passes(500_000) == passes(16_000));
    }

    #[test]
    fn a_job_that_cannot_fit_alone_is_refused_with_a_remedy_and_one_that_may_fit_is_not() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/quickstart.toml");
        let experiment = load(&quickstart, &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
        let student = &experiment.students[0];
        let job = |tp: usize, device: &str| Job {
            run: student.run.clone(),
            folder: "runs/a".into(),
            data: "runs/data".into(),
            work: Work::Train { recipe: Box::new(student.recipe.clone()), start: None, cache: None },
            device: device.into(),
            threads: 1,
            tp,
            dp: 1,
            recompute: false,
            sequence_parallel: false,
            pass_tokens: None,
        };
        let bytes = job(1, "cpu").memory_bytes();
        let machine = |all: u64| Machine { all: Some(all), ..Machine::default() };
        assert!(fit([&job(1, "cpu")].into_iter(), &machine(bytes * 9 / 10)).is_ok(), "the formula may overestimate");
        let error = fit([&job(1, "cpu")].into_iter(), &machine(bytes / 2)).unwrap_err();
        assert!(error.is::<hydrometer_base::UserError>(), "{error:#}");
        let said = format!("{error:#}");
        assert!(
            said.contains("of memory, this machine has") && said.contains("try --recompute, a smaller --pass-tokens"),
            "{said}"
        );
        assert!(fit([&job(1, "cuda:0")].into_iter(), &machine(bytes / 2)).is_ok());
        // Two ranks share the machine's memory, but each has its own address space.
        let two = job(2, "cpu");
        assert!(fit([&two].into_iter(), &machine(two.memory_bytes() * 3 / 2)).is_err());
        let space = Machine { address_space: Some(two.memory_bytes() * 3 / 2), ..Machine::default() };
        assert!(fit([&two].into_iter(), &space).is_ok());
        assert!(fit([&job(1, "cpu")].into_iter(), &Machine::default()).is_ok(), "without known limits nothing is refused");
    }
}
