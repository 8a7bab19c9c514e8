//! One pass of a teacher over the sequences that its students will train on.

use std::path::Path;

use anyhow::Result;
use half::f16;
use tch::{Device, Kind, Tensor};

use super::cache::{Block, Cache};
use super::draws::numbers;
use super::kept::Kept;
use crate::data::batch::{Batch, Row};
use crate::data::sequences::Sequence;
use crate::data::tokens::TokenizedSplit;
use crate::dist::Mesh;
use crate::experiment::recipe::{TrainRecipe, identity};
use crate::model::Decoder;
use crate::objective::head::Head;

/// Input tokens of a forward pass.
const PASS_TOKENS: usize = 8192;
/// Passes collected into a block.
const PASSES_PER_BLOCK: usize = 8;

/// Adds to the cache in `folder` what it lacks of `wanted`. Calls `progress(done, total)` in targets after every pass; a
/// `false` from it (on every rank alike) stops early. Returns whether the cache is complete.
pub fn teach(
    recipe: &TrainRecipe,
    decoder: &Decoder,
    split: &TokenizedSplit,
    wanted: &[Sequence],
    kept: &Kept,
    folder: &Path,
    mesh: &Mesh,
    mut progress: impl FnMut(u64, u64) -> Result<bool>,
) -> Result<bool> {
    let _guard = tch::no_grad_guard();
    let cache = Cache::open(folder, kept)?;
    let missing: Vec<Sequence> = wanted.iter().copied().filter(|s| !cache.contains(&s.key(split))).collect();
    let targets = |of: &[Sequence]| of.iter().map(|s| s.targets as u64).sum::<u64>();
    let (total, mut done) = (targets(wanted), targets(wanted) - targets(&missing));
    drop(cache);
    let head = Head {
        weight_vd: decoder.head_weight(),
        vocab_start: decoder.vocab_start,
        vocab_size: recipe.model.vocab_size as i64,
        tp: &mesh.tp,
    };
    let teacher = identity(recipe);
    let rows_per_pass = (PASS_TOKENS / recipe.data.context).max(1);
    for group in missing.chunks(rows_per_pass * PASSES_PER_BLOCK) {
        let mut block = Block::default();
        for chunk in group.chunks(rows_per_pass) {
            let rows: Vec<Row> = chunk.iter().copied().map(Row::whole).collect();
            let batch = Batch::new(&rows, split, mesh.device);
            let hidden = decoder.forward(&batch.inputs_bt, &mesh.tp)?;
            let hidden_nd = hidden.flatten(0, 1).index_select(0, &batch.positions_n);
            let flat = |t: Tensor| t.to_device(Device::Cpu).flatten(0, -1);
            let ids =
                |t: Tensor| -> Result<Vec<u32>> { Ok(Vec::<i64>::try_from(flat(t))?.into_iter().map(|id| id as u32).collect()) };
            block.keys.extend(chunk.iter().map(|s| s.key(split)));
            block.lengths.extend(chunk.iter().map(|s| s.targets as u64));
            if kept.top_k > 0 {
                let (best, logits, lse) = head.top_k(&hidden_nd, kept.top_k as i64, &kept.temperatures)?;
                let unit = kept.temperatures.iter().position(|&t| t == 1.0).expect("temperature 1 is always kept");
                let logprobs = logits - lse.narrow(1, unit as i64, 1);
                block.ids.extend(ids(best)?);
                block.logprobs.extend(Vec::<f32>::try_from(flat(logprobs))?.into_iter().map(f16::from_f32));
                block.lse.extend(Vec::<f32>::try_from(flat(lse.to_kind(Kind::Float)))?);
            }
            if kept.draws > 0 {
                let at: Vec<u64> = chunk.iter().flat_map(|s| numbers(&teacher, &s.key(split), s.targets, kept.draws)).collect();
                let by_temperature: Vec<Tensor> = kept
                    .draw_temperatures
                    .iter()
                    .map(|&temperature| head.draw(&hidden_nd, temperature, &at, kept.draws))
                    .collect::<Result<_>>()?;
                block.draws.extend(ids(Tensor::cat(&by_temperature, 1))?);
            }
            done += targets(chunk);
        }
        if mesh.is_first() {
            block.write(folder, kept, recipe.model.vocab_size)?;
        }
        if !progress(done, total)? {
            return Ok(false);
        }
    }
    mesh.world.barrier(mesh.device)?;
    Ok(true)
}
