//! A training run from its recipe to its last evaluation, which can be interrupted and resumed at any moment.

use std::path::{Path, PathBuf};
use std::thread;
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hydrometer_data::batch::{Row, plan};
use hydrometer_data::sequences::sequences;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_record::journal::{self, EvaluationEvent, Event, Journal, Step};
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::{Decoder, Precision, Weights};

use super::checkpoint;
use super::gradient_check::slope;
use super::optimizer::AdamW;
use super::passes::PassSource;
use super::schedule::learning_rate;
use super::update::Accumulator;
use crate::eval::perplexity::{Evaluation, evaluate};
use crate::teacher::cache::Cache;
use crate::train::recipe::TrainRecipe;

/// The paths and settings of a run.
pub struct RunInputs<'a> {
    /// The folder of journal and checkpoints.
    pub folder: &'a Path,
    /// The folder of the checkpoint that the recipe starts from.
    pub start: Option<&'a Path>,
    pub train: &'a TokenizedSplit,
    pub held_out: &'a TokenizedSplit,
    pub cache: Option<Cache>,
    /// Activation recomputation: recompute activations in the backward pass instead of storing them. It does not change the
    /// numbers.
    pub recompute: bool,
    /// Most input tokens of a pass of one data-parallel rank, padding included: see [`super::passes`].
    pub pass_tokens: usize,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Diverged,
    /// Stopped on request, with a checkpoint to resume from.
    Stopped,
}

/// Minimum time between checkpoints: absolute, and as a multiple of the time that the last one took to write. The first bounds
/// what a crash can cost, the second the overhead. Neither affects the numbers.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);
const CHECKPOINT_SHARE: u32 = 50;
/// Number of checkpoints kept: the newest, and one to fall back to if that is damaged.
const CHECKPOINTS: usize = 2;
/// A loss of this many times the first loss counts as divergence.
const DIVERGENCE_FACTOR: f64 = 1e3;

/// The path of the final weights of a finished run in `folder`.
pub fn final_weights(folder: &Path) -> PathBuf {
    folder.join("final.safetensors")
}

/// The final decoder of a run of `recipe` in `folder`; if nothing was trained, the checkpoint in `start`.
pub fn trained_decoder(recipe: &TrainRecipe, start: Option<&Path>, folder: &Path, mesh: &Mesh) -> Result<Decoder> {
    let (kind, context) = (recipe.precision.kind(), recipe.data.context);
    match (&recipe.start, start) {
        (Some(of), Some(start)) if recipe.is_untrained() => of.open(start)?.decoder(context, kind, mesh),
        _ => {
            let weights = checkpoint::load_weights(&final_weights(folder), &recipe.model, kind, mesh)?;
            Ok(Decoder::new(&recipe.model, context, &weights.leaves, mesh))
        }
    }
}

/// Evaluates an unmodified checkpoint.
fn measure(recipe: &TrainRecipe, place: &RunInputs, mesh: &Mesh, journal: Option<&Journal>) -> Result<Outcome> {
    let decoder = trained_decoder(recipe, place.start, place.folder, mesh)?;
    let found = evaluate(&decoder, recipe.model.vocab_size, place.held_out, recipe.data.context, mesh)?;
    if let Some(journal) = journal {
        journal.write(&Event::Resumed { step: 0 })?;
        for event in evaluation_events(&found, recipe, 0, 0, Some(place.held_out)) {
            journal.write(&event)?;
        }
        journal.write(&Event::Done)?;
    }
    Ok(Outcome::Done)
}

/// Trains, evaluates and writes checkpoints. Only the first rank writes `journal`; `stop` is polled on the first rank after every
/// step.
pub fn train(
    recipe: &TrainRecipe,
    place: &RunInputs,
    mesh: &Mesh,
    journal: Option<&Journal>,
    stop: impl Fn() -> bool,
) -> Result<Outcome> {
    if recipe.is_untrained() {
        return measure(recipe, place, mesh, journal);
    }
    let batches = plan(&sequences(place.train, recipe.data.context), recipe.tokens, recipe.batch, recipe.seed);
    let source = PassSource {
        recipe,
        split: place.train,
        cache: place.cache.as_ref(),
        pass_tokens: place.pass_tokens,
        dp: (mesh.dp.rank, mesh.dp.size),
        device: mesh.device,
    };
    thread::scope(|scope| train_on(scope, &source, &batches, place, mesh, journal, stop))
}

/// The same on `batches`, which are read from `source` on a thread of `scope`.
fn train_on<'scope, 'env, 'a: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    source: &'a PassSource<'a>,
    batches: &'a [Vec<Row>],
    place: &RunInputs,
    mesh: &Mesh,
    journal: Option<&Journal>,
    stop: impl Fn() -> bool,
) -> Result<Outcome> {
    let recipe = source.recipe;
    let weights = match (&recipe.start, place.start) {
        (Some(of), Some(start)) => of.open(start)?.weights(recipe.precision.kind(), mesh)?,
        (Some(_), None) => return Err(anyhow!("no checkpoint for a run that starts from one")),
        (None, _) => Weights::init(&recipe.model, recipe.seed, recipe.precision.kind(), mesh)?,
    };
    let decoder = Decoder::new(&recipe.model, recipe.data.context, &weights.leaves, mesh);
    let mut optimizer = AdamW::new(&weights);
    let updates = batches.len() as u64;
    let write = |event: Event| journal.map_or(Ok(()), |journal| journal.write(&event));
    let journal_events = journal::read(&place.folder.join(journal::FILE))?;
    for sentence in resume(place.folder, &journal_events, &weights, &mut optimizer, mesh)? {
        write(Event::Notice { what: sentence })?;
    }
    write(Event::Resumed { step: optimizer.updates as i64 })?;

    let mut tokens: u64 = batches[..optimizer.updates as usize].iter().flatten().map(|row| row.targets() as u64).sum();
    // The loss is compared with the run's first, also after a resume; every rank reads the same value.
    let mut first_loss = journal_events
        .iter()
        .find_map(|event| if let Event::Step(step) = event { Some(step.loss) } else { None })
        .filter(|_| optimizer.updates > 0);
    let (mut last_checkpoint, mut every) = (Instant::now(), CHECKPOINT_EVERY);
    let batch = |step: u64| batches.get(step as usize).map(Vec::as_slice);
    let accumulator = Accumulator::start(scope, source, (&weights, &decoder, mesh), place.recompute, batch(optimizer.updates))?;
    for step in optimizer.updates..updates {
        let begun = Instant::now();
        let rows = &batches[step as usize];
        let count: usize = rows.iter().map(Row::targets).sum();
        let lr = learning_rate(&recipe.optimizer, step, updates);
        // Checked at the first and the last step: at first, when all is nearly uniform, a wrong gradient may look almost right.
        if (step == 0 || step + 1 == updates) && recipe.precision == Precision::F32 {
            // After each of these, the same batch follows.
            let slope = slope(&weights, mesh, || Ok(accumulator.accumulate(count, Some(rows))?.loss / count as f64))?;
            write(Event::GradientChecked { updates: step as i64, slope })?;
        }
        let sums = accumulator.accumulate(count, batch(step + 1))?;
        let norm = optimizer.step(&weights, &recipe.optimizer, lr, mesh)?;
        tokens += count as u64;
        let mean = sums.per_token(count);
        let taught = recipe.loss.objective.needs_teacher();
        write(Event::Step(Step {
            step: step as i64 + 1,
            tokens: tokens as i64,
            loss: mean.loss,
            hard_loss: mean.hard_loss,
            lr,
            grad_norm: norm,
            seconds: begun.elapsed().as_secs_f64(),
            retained_mass: taught.then_some(mean.retained_mass),
            teacher_entropy: taught.then_some(mean.teacher_entropy),
            mean_lse: mean.lse,
        }))?;
        let loss = mean.loss;
        let first = *first_loss.get_or_insert(loss);
        if !loss.is_finite() || !norm.is_finite() || loss > DIVERGENCE_FACTOR * first.abs().max(1.0) {
            let evidence = format!("loss {loss} and gradient norm {norm} at step {}, after {first} at the first", step + 1);
            write(Event::Diverged { step: step as i64 + 1, evidence })?;
            return Ok(Outcome::Diverged);
        }

        let last = step + 1 == updates;
        let crossed = tokens / recipe.eval.every > (tokens - count as u64) / recipe.eval.every;
        if crossed || last {
            let found = evaluate(&decoder, recipe.model.vocab_size, place.held_out, recipe.data.context, mesh)?;
            for event in evaluation_events(&found, recipe, step as i64 + 1, tokens as i64, last.then_some(place.held_out)) {
                write(event)?;
            }
        }
        // The first rank decides for all; every rank learns of it at the same step.
        let mut flags = [0.0; 2];
        if mesh.is_first() {
            flags = [f64::from(stop()), f64::from(last_checkpoint.elapsed() > every)];
        }
        mesh.world.sum(&mut flags, mesh.device)?;
        if (flags[0] > 0.0 || flags[1] > 0.0) && !last {
            let begun = Instant::now();
            // No checkpoint is ahead of its journal, even after a power failure.
            journal.map_or(Ok(()), Journal::sync)?;
            checkpoint::save(&checkpoint::path_of(place.folder, step + 1), &weights, Some(&optimizer), mesh)?;
            if mesh.is_first() {
                checkpoint::prune(place.folder, CHECKPOINTS)?;
            }
            (last_checkpoint, every) = (Instant::now(), CHECKPOINT_EVERY.max(CHECKPOINT_SHARE * begun.elapsed()));
            if flags[0] > 0.0 {
                return Ok(Outcome::Stopped);
            }
        }
    }
    checkpoint::save(&final_weights(place.folder), &weights, None, mesh)?;
    write(Event::Done)?;
    journal.map_or(Ok(()), Journal::sync)?;
    if mesh.is_first() {
        checkpoint::prune(place.folder, 0)?;
    }
    Ok(Outcome::Done)
}

/// Restores the newest intact checkpoint of `folder` that is within the journal's `events`; if there is none, changes nothing.
/// All ranks use the checkpoint that the first one picks. On the first rank, returns a sentence for each damaged file.
fn resume(folder: &Path, events: &[Event], weights: &Weights, optimizer: &mut AdamW, mesh: &Mesh) -> Result<Vec<String>> {
    let reached = journal::whole_steps(events) as u64;
    let mut sentences = Vec::new();
    let mut steps = checkpoint::steps(folder);
    let newest = steps.first().copied().unwrap_or(0);
    steps.retain(|&step| step <= reached);
    let mut candidates = steps.into_iter();
    let picked = loop {
        let mut pick = [if mesh.is_first() { candidates.next().unwrap_or(0) as f64 } else { 0.0 }];
        mesh.world.sum(&mut pick, mesh.device)?;
        let step = pick[0] as u64;
        if step == 0 {
            break 0;
        }
        let path = checkpoint::path_of(folder, step);
        let found = checkpoint::verified(&path);
        let mut failed = [f64::from(found.is_err())];
        mesh.world.sum(&mut failed, mesh.device)?;
        match found {
            Ok(bytes) if failed[0] == 0.0 => {
                checkpoint::restore(&path, &bytes, weights, optimizer, mesh)?;
                break step;
            }
            Ok(_) => sentences.push(format!("{} is damaged", path.display())),
            Err(error) => sentences.push(format!("{error:#}")),
        }
    };
    let lost = events.contains(&Event::Done) && events.iter().any(|event| matches!(event, Event::Torn { .. }));
    if lost || newest > reached {
        sentences.push(format!("the journal {} is intact only up to step {reached}", folder.join(journal::FILE).display()));
    }
    // Damaged checkpoints, and those beyond the journal, would displace new ones.
    if mesh.is_first() {
        checkpoint::remove_after(folder, picked)?;
    }
    let from = if picked == 0 { "the run starts over".into() } else { format!("the run resumes after step {picked}") };
    Ok(if mesh.is_first() { sentences.into_iter().map(|sentence| format!("{sentence}; {from}")).collect() } else { Vec::new() })
}

/// The journal events of an evaluation; with per-document results if `documents` is given (the last one).
pub fn evaluation_events(
    found: &Evaluation,
    recipe: &TrainRecipe,
    step: i64,
    tokens: i64,
    documents: Option<&TokenizedSplit>,
) -> Vec<Event> {
    let split = recipe.eval.on.clone();
    let mut events = vec![Event::Evaluation(EvaluationEvent { step, tokens, split: split.clone(), scores: found.scores() })];
    if let Some(held_out) = documents {
        events.extend(held_out.names.iter().zip(&found.documents).map(|(name, &(nll_sum, tokens))| Event::Document {
            split: split.clone(),
            document: name.to_string(),
            nll_sum,
            tokens: tokens as i64,
        }));
    }
    events
}
