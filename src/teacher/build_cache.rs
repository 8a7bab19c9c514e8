//! Builds a teacher cache: one pass of a teacher over the sequences that its students will train on.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::user_error;
use hydrometer_data::batch::Row;
use hydrometer_data::sequences::Sequence;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::Decoder;
use hydrometer_torch::model::activations::FORWARD_NUMBERS;
use hydrometer_torch::model::batch::Batch;
use hydrometer_torch::objective::head::Head;
use tch::{Device, Kind, Tensor};

use super::block::{Answers, Block};
use super::cache::Cache;
use super::draws::numbers;
use super::manifest::CacheManifest;

/// Most forward passes that are collected into a block.
const PASSES_PER_BLOCK: usize = 8;

/// A teacher model, on each of its ranks.
pub struct TeacherPass<'a> {
    pub decoder: &'a Decoder,
    /// The manifest of its cache. Ids beyond the manifest's vocabulary, which pad the model's, are excluded from the
    /// probabilities.
    pub title: &'a CacheManifest,
    /// Longest sequence in tokens.
    pub context: usize,
    pub mesh: &'a Mesh,
}

impl TeacherPass<'_> {
    /// Adds to the cache in `folder` those of the `wanted` sequences that it lacks. Calls `progress(done, total)`, in targets,
    /// after every pass; if it returns `false` (on every rank alike), the teacher stops early. Returns whether the cache is
    /// complete.
    pub fn teach(
        &self,
        split: &TokenizedSplit,
        wanted: &[Sequence],
        folder: &Path,
        mut progress: impl FnMut(u64, u64) -> Result<bool>,
    ) -> Result<bool> {
        let cache = Cache::open(folder, self.title)?;
        let missing: Vec<Sequence> = wanted.iter().copied().filter(|s| !cache.contains(&s.key(split))).collect();
        let targets = |of: &[Sequence]| of.iter().map(|s| s.targets as u64).sum::<u64>();
        let (total, mut done) = (targets(wanted), targets(wanted) - targets(&missing));
        drop(cache);
        if self.mesh.is_first() {
            self.title.write(folder)?;
        }
        let per_pass = self.sequences_per_pass();
        for group in missing.chunks(per_pass * self.passes_per_block()) {
            let mut block = Block::default();
            for chunk in group.chunks(per_pass) {
                block.keys.extend(chunk.iter().map(|s| s.key(split)));
                block.lengths.extend(chunk.iter().map(|s| s.targets as u64));
                block.answers.append(self.answer(split, chunk)?);
                done += targets(chunk);
            }
            if self.mesh.is_first() {
                block.write(folder, self.title)?;
            }
            if !progress(done, total)? {
                return Ok(false);
            }
        }
        self.mesh.world.barrier(self.mesh.device)?;
        Ok(true)
    }

    /// Number of sequences per forward pass.
    pub fn sequences_per_pass(&self) -> usize {
        self.decoder.rows_per_forward(self.context, self.targets_per_token())
    }

    /// Number of forward passes per block: a block is in memory until it is written.
    fn passes_per_block(&self) -> usize {
        let targets = self.sequences_per_pass() * self.context * self.targets_per_token();
        PASSES_PER_BLOCK.min(FORWARD_NUMBERS / targets.max(1)).max(1)
    }

    /// Number of ids that are stored per token.
    fn targets_per_token(&self) -> usize {
        self.title.kept.top_k + self.title.kept.drawn()
    }

    /// The targets for every token of `sequences`, in one forward pass.
    pub fn answer(&self, split: &TokenizedSplit, sequences: &[Sequence]) -> Result<Answers> {
        let _guard = tch::no_grad_guard();
        let CacheManifest { kept, vocab_size, .. } = self.title;
        let vocab_start = self.decoder.vocab_start;
        let rows = self.decoder.head_weight().size()[0].min(*vocab_size as i64 - vocab_start);
        if rows <= 0 {
            let (tp, start) = (self.mesh.tp.size, vocab_start);
            return Err(user_error!("tp = {tp} leaves a rank with nothing but padding, from id {start} on; use fewer ranks"));
        }
        let weight_vd = self.decoder.head_weight().narrow(0, 0, rows);
        let head = Head { weight_vd: &weight_vd, vocab_start, vocab_size: *vocab_size as i64, tp: &self.mesh.tp };
        let whole: Vec<Row> = sequences.iter().copied().map(Row::whole).collect();
        let batch = Batch::new(&whole, split, self.mesh.device);
        let hidden = self.decoder.forward(&batch.inputs_bt, &self.mesh.tp)?;
        let hidden_nd = hidden.flatten(0, 1).index_select(0, &batch.positions_n);
        finite(&hidden_nd)?;

        let flat = |t: Tensor| t.to_device(Device::Cpu).flatten(0, -1);
        let ids = |t: Tensor| -> Result<Vec<u32>> { Ok(Vec::<i64>::try_from(flat(t))?.iter().map(|&id| id as u32).collect()) };
        let mut answers = Answers::default();
        if kept.top_k > 0 {
            let (best, logits, lse) = head.top_k(&hidden_nd, kept.top_k as i64, &kept.temperatures)?;
            finite(&lse)?;
            let unit = kept.temperatures.iter().position(|&t| t == 1.0).expect("temperature 1 is always kept");
            answers.ids = ids(best)?;
            answers.logprobs = Vec::try_from(flat(logits - lse.narrow(1, unit as i64, 1)))?;
            answers.lse = Vec::try_from(flat(lse.to_kind(Kind::Float)))?;
        }
        if kept.draws > 0 {
            let teacher = &self.title.teacher;
            let at: Vec<u64> = sequences.iter().flat_map(|s| numbers(teacher, &s.key(split), s.targets, kept.draws)).collect();
            let draw = |&temperature: &f64| head.draw(&hidden_nd, temperature, &at, kept.draws);
            let by_temperature = kept.draw_temperatures.iter().map(draw).collect::<Result<Vec<Tensor>>>()?;
            answers.draws = ids(Tensor::cat(&by_temperature, 1))?;
        }
        Ok(answers)
    }
}

/// An error if the teacher's logits are not finite; every rank gets the same result.
fn finite(numbers: &Tensor) -> Result<()> {
    match numbers.isfinite().all().int64_value(&[]) != 0 {
        true => Ok(()),
        false => Err(user_error!(
            "the teacher's log-probabilities are not finite because its activations overflow; none of them are stored"
        )),
    }
}
