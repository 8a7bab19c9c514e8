//! The passes of an update: their size, and the inputs and targets that each reads.
//!
//! The size limits what a pass holds in memory. Where a batch is split changes the rounding of sums, so by default the size
//! follows from the recipe alone, not from the machine, and a run keeps the size it started with.

use anyhow::{Result, anyhow};
use hydrometer_data::batch::Row;
use hydrometer_data::passes::Pass;
use hydrometer_data::tokens::TokenizedSplit;
use hydrometer_torch::model::batch::Batch;
use hydrometer_torch::objective::targets::Targets;
use tch::{Device, Tensor};

use super::recipe::TrainRecipe;
use crate::teacher::cache::Cache;

/// Most bytes of activations of a pass at the default size, by formula, on one tensor-parallel rank.
const ACTIVATION_BYTES: f64 = (1u64 << 30) as f64;

impl TrainRecipe {
    /// The default pass size in input tokens: the largest power of two whose activations fit in [`ACTIVATION_BYTES`], but at
    /// least the context. A change of the formula changes the numbers of the runs that it splits differently.
    pub fn pass_tokens(&self) -> usize {
        let per_token = self.model.activations_per_token(1.0, 1.0) * self.precision.bytes() as f64;
        let fitting = (ACTIVATION_BYTES / per_token) as usize;
        let power = fitting.checked_ilog2().map_or(1, |exponent| 1 << exponent);
        power.max(self.data.context)
    }
}

/// What a data-parallel rank reads of each batch.
pub struct PassSource<'a> {
    pub recipe: &'a TrainRecipe,
    pub split: &'a TokenizedSplit,
    pub cache: Option<&'a Cache>,
    /// Most input tokens of a pass, padding included.
    pub pass_tokens: usize,
    /// Data-parallel rank and number of ranks.
    pub dp: (usize, usize),
    pub device: Device,
}

/// The inputs and targets of a pass.
pub struct PassInput {
    /// `[B, T]` and, if sequences share rows, their starts: see [`Batch`].
    pub inputs_bt: Tensor,
    pub starts_bt: Option<Tensor>,
    pub positions_n: Tensor,
    pub targets: Targets,
}

impl PassSource<'_> {
    /// The passes of this rank's share of the global batch `rows`; none if the share is empty.
    pub fn passes(&self, rows: &[Row]) -> Vec<Pass> {
        let (packing, (rank, size)) = (self.recipe.data.packing, self.dp);
        let share = packing.share(rows, rank, size);
        packing.passes(share, self.recipe.data.context, self.pass_tokens, |longest| self.split.width(longest))
    }

    /// Reads what `pass` needs.
    pub fn read(&self, pass: &Pass) -> Result<PassInput> {
        let Self { recipe, split, device, .. } = *self;
        let Batch { inputs_bt, starts_bt, positions_n, labels_n } = Batch::of_pass(pass, recipe.data.packing, split, device);
        let teacher = match (&recipe.teacher, self.cache) {
            (Some(teacher), Some(cache)) => {
                Some(cache.answers(&pass.rows, split, recipe.loss.objective, teacher.top_k, device)?)
            }
            (Some(_), None) => return Err(anyhow!("no teacher cache for an arm that needs one")),
            (None, _) => None,
        };
        Ok(PassInput { inputs_bt, starts_bt, positions_n, targets: Targets { labels_n, teacher } })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hydrometer_torch::model::{ModelConfig, Precision};

    use super::*;
    use crate::experiment::{Options, load};

    #[test]
    fn the_default_size_follows_from_the_recipe_and_leaves_a_small_experiment_one_pass() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        for name in ["quickstart.toml", "methods.toml"] {
            let experiment = load(&folder.join(name), &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
            let teachers = experiment.teachers.iter().map(|teacher| &teacher.recipe);
            for recipe in experiment.students.iter().map(|student| &student.recipe).chain(teachers) {
                // Rows are padded to the longest.
                assert!(recipe.pass_tokens() as u64 >= 4 * recipe.batch, "{name}: {}", recipe.pass_tokens());
            }
        }
        let experiment = load(&folder.join("quickstart.toml"), &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
        let mut recipe = experiment.students[0].recipe.clone();
        recipe.model = ModelConfig {
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            ..recipe.model
        };
        let of = |precision, context: usize| {
            let mut recipe = TrainRecipe { precision, batch: 1 << 19, ..recipe.clone() };
            recipe.data.context = context;
            recipe.pass_tokens()
        };
        // By hand: 255,744 activations per token, 4 or 2 bytes each.
        assert_eq!([of(Precision::F32, 512), of(Precision::Bf16, 512), of(Precision::Bf16, 3000)], [1024, 2048, 3000]);
    }
}
