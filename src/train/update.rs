//! The gradient of an update, accumulated over its passes.
//!
//! The loss of every pass is divided by the number of target tokens of the global batch, so the sum over passes and data-parallel
//! ranks is the gradient of the mean over that batch, however it is split. There is one gradient buffer. Ranks of one
//! tensor-parallel group make the same passes; data-parallel ranks may make different numbers of them, so they communicate only
//! after the last.

use std::thread::Scope;

use anyhow::Result;
use hydrometer_data::batch::Row;
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::{Decoder, ForwardPass, Tokens, Weights};
use hydrometer_torch::objective::head::{Head, LossSums};

use super::passes::{PassInput, PassSource};
use super::read_ahead::{ReadAhead, ReadPass};
use super::recipe::TrainRecipe;

/// Computes the gradients of updates, in the order in which they are asked for.
pub struct Accumulator<'m, 'a> {
    recipe: &'a TrainRecipe,
    weights: &'m Weights,
    decoder: &'m Decoder,
    mesh: &'m Mesh,
    /// See [`super::run::RunInputs::recompute`].
    recompute: bool,
    passes: ReadAhead<'a>,
}

impl<'m, 'a> Accumulator<'m, 'a> {
    /// Starts to read `first`, the global batch of the first update if there is one, from `source` on a thread of `scope`.
    pub fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        source: &'a PassSource<'a>,
        (weights, decoder, mesh): (&'m Weights, &'m Decoder, &'m Mesh),
        recompute: bool,
        first: Option<&'a [Row]>,
    ) -> Result<Self>
    where
        'a: 'scope,
    {
        let passes = ReadAhead::start(scope, source);
        first.map_or(Ok(()), |rows| passes.ask(rows))?;
        Ok(Self { recipe: source.recipe, weights, decoder, mesh, recompute, passes })
    }

    /// Leaves the gradient of the mean loss over the next global batch, which has `count` target tokens, in the weights; returns
    /// the sums over it. `following` is the batch that will be asked for after it: it is read meanwhile.
    pub fn accumulate(&self, count: usize, following: Option<&'a [Row]>) -> Result<LossSums> {
        following.map_or(Ok(()), |rows| self.passes.ask(rows))?;
        let _ = self.weights.gradient.shallow_clone().zero_();
        let mut sums = LossSums::default();
        loop {
            let ReadPass { input, last } = self.passes.next()?;
            if let Some(input) = input {
                sums += self.pass(&input, count)?;
            }
            if last {
                break;
            }
        }
        self.weights.reduce_gradients(self.mesh)?;
        sums.reduced(&self.mesh.dp, self.mesh.device)
    }

    /// Adds the gradient of one pass to the weights' gradient; returns the sums over its tokens.
    fn pass(&self, input: &PassInput, count: usize) -> Result<LossSums> {
        let Self { recipe, weights, decoder, mesh, .. } = *self;
        let tokens = Tokens { ids_bt: &input.inputs_bt, starts_bt: input.starts_bt.as_ref() };
        let pass = ForwardPass::forward(decoder, tokens, &mesh.tp, self.recompute)?;
        let hidden_nd = pass.hidden.flatten(0, 1).index_select(0, &input.positions_n);
        let head = Head {
            weight_vd: decoder.head_weight(),
            vocab_start: decoder.vocab_start,
            vocab_size: recipe.model.vocab_size as i64,
            tp: &mesh.tp,
        };
        // With tied embeddings, the head's gradient is added to the embedding's.
        let weight_gradient = weights.gradient_of(decoder.head_index());
        let (found, d_hidden_nd) =
            head.loss_and_gradients(&recipe.loss, &hidden_nd.detach(), &input.targets, 1.0 / count as f64, &weight_gradient)?;
        pass.backward(&hidden_nd, &d_hidden_nd.to_kind(recipe.precision.kind()))?;
        weights.collect_gradients();
        found.sums()
    }
}
