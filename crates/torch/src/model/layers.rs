//! Linear layers and norms, built from parameters looked up by name.

use std::collections::HashMap;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::config::ModelConfig;
use super::parallel::unshard;
use super::parameters::{Shard, parameters};
use super::weights::Leaf;
use crate::dist::ProcessGroup;
use crate::kernels::decode;
use crate::kernels::elementwise;
use crate::kernels::linear::{self, Trained};

/// A rank's parameters by name.
pub struct ParamMap(HashMap<String, Leaf>);

impl ParamMap {
    /// `leaves` must be in the order of [`parameters`].
    pub fn new(config: &ModelConfig, leaves: &[Leaf]) -> Self {
        Self(parameters(config).into_iter().zip(leaves).map(|(p, leaf)| (p.name, leaf.shallow_clone())).collect())
    }

    /// A parameter that only some models have.
    pub fn find(&self, name: &str) -> Option<Leaf> {
        self.0.get(name).map(Leaf::shallow_clone)
    }

    /// A parameter that this model has. Panics if it does not.
    pub fn get(&self, name: &str) -> Leaf {
        self.find(name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    /// Linear layer `name`, which every model has.
    pub fn linear(&self, name: &str) -> Linear {
        Linear { weight: self.get(&format!("{name}.weight")), bias: self.find(&format!("{name}.bias")) }
    }

    /// Linear layers of the same input, as one.
    pub fn joined<const N: usize>(&self, names: [&str; N]) -> JoinedLinear {
        JoinedLinear::new(names.map(|name| self.linear(name)).into())
    }

    /// Norm `name`, if the model has it.
    pub fn norm(&self, name: &str, eps: f64) -> Option<Norm> {
        let weight = self.find(&format!("{name}.weight"))?.value;
        Some(Norm { weight, bias: self.find(&format!("{name}.bias")).map(|bias| bias.value), eps })
    }
}

/// `x·Wᵀ + b`, with this rank's shard of the weight `[out, in]`.
pub struct Linear {
    weight: Leaf,
    bias: Option<Leaf>,
}

impl Linear {
    /// The output of a replicated or column-parallel layer.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        multiply(x, &self.weight, self.bias.as_ref())
    }

    /// This rank's summand of a row-parallel layer's output, without the bias.
    pub fn partial(&self, x: &Tensor) -> Tensor {
        multiply(x, &self.weight, None)
    }

    /// The output of a replicated or column-parallel layer for `x [m, d]`, each row by itself.
    pub fn step(&self, x: &Tensor) -> Tensor {
        if !decode::fit(x) {
            return self.forward(x);
        }
        decode::product(x, &self.weight.value, self.bias.as_ref().map(|bias| &bias.value), x.kind())
    }

    /// The output of a row-parallel layer for `x [m, d]`, each row by itself: the sum over the ranks is in their order.
    pub fn step_over(&self, x: &Tensor, tp: &ProcessGroup) -> Result<Tensor> {
        if tp.size == 1 {
            return Ok(self.step(x));
        }
        let all = tp.all_gather(&project(x, &self.weight.value))?;
        let sum = (1..tp.size as i64).fold(all.get(0), |sum, rank| sum + all.get(rank));
        Ok(self.finish(sum))
    }

    /// Adds the bias to the sum over the ranks.
    pub fn finish(&self, sum: Tensor) -> Tensor {
        match &self.bias {
            Some(bias) => sum + &bias.value,
            None => sum,
        }
    }
}

/// Linear layers of the same input, whose outputs are side by side in the last dimension. Where their weights are side by side in memory, one
/// product computes all.
pub struct JoinedLinear {
    parts: Vec<Linear>,
    whole: Option<Linear>,
}

impl JoinedLinear {
    fn new(parts: Vec<Linear>) -> Self {
        let whole = || {
            let weights: Vec<Leaf> = parts.iter().map(|part| part.weight.shallow_clone()).collect();
            let biases: Option<Vec<Leaf>> = parts.iter().map(|part| part.bias.as_ref().map(Leaf::shallow_clone)).collect();
            let bias = match biases {
                None if parts.iter().any(|part| part.bias.is_some()) => return None,
                None => None,
                Some(biases) => Some(Leaf::joined(&biases)?),
            };
            Some(Linear { weight: Leaf::joined(&weights)?, bias })
        };
        Self { whole: whole(), parts }
    }

    /// The number of outputs of part `index` on this rank.
    pub fn width(&self, index: usize) -> i64 {
        self.parts[index].weight.value.size()[0]
    }

    /// The outputs of all parts for `x [m, d]`, `[m, Σ out]`, each row by itself.
    pub fn step(&self, x: &Tensor) -> Tensor {
        match &self.whole {
            Some(whole) => whole.step(x),
            None => Tensor::cat(&self.parts.iter().map(|part| part.step(x)).collect::<Vec<Tensor>>(), -1),
        }
    }

    /// The outputs of all parts, `[..., Σ out]`, of replicated or column-parallel layers.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.whole {
            Some(whole) if linear::fit(x) => whole.forward(x),
            _ => Tensor::cat(&self.parts.iter().map(|part| part.forward(x)).collect::<Vec<Tensor>>(), -1),
        }
    }
}

/// x·Wᵀ for `x [m, d]`, each row by itself.
pub fn project(x: &Tensor, weight: &Tensor) -> Tensor {
    match decode::fit(x) {
        true => decode::product(x, weight, None, x.kind()),
        false => x.linear(weight, None::<Tensor>),
    }
}

/// Logits f32 `[m, V]` of the whole vocabulary, each row by itself, from `x [m, e]` and this rank's shard of the output weight.
pub fn gather_logits(x: &Tensor, weight: &Tensor, vocab_size: usize, tp: &ProcessGroup) -> Result<Tensor> {
    let own = match decode::fit(x) {
        true => decode::product(x, weight, None, Kind::Float),
        false => x.linear(weight, None::<Tensor>).to_kind(Kind::Float),
    };
    if tp.size == 1 {
        return Ok(own);
    }
    unshard(&own.tr().contiguous(), Shard::Dim0, &[vocab_size as i64, own.size()[0]], tp).map(|all| all.tr().contiguous())
}

fn multiply(x: &Tensor, weight: &Leaf, bias: Option<&Leaf>) -> Tensor {
    match (trained(weight), bias.map(trained)) {
        (Some(weight), None) if linear::fit(x) => linear::linear(x, weight, None),
        (Some(weight), Some(Some(bias))) if linear::fit(x) => linear::linear(x, weight, Some(bias)),
        _ if weight.gradient.is_none() => linear::product(x, &weight.value, bias.map(|bias| &bias.value)),
        _ => x.linear(&weight.value, bias.map(|bias| &bias.value)),
    }
}

/// The rows of `weight [V, d]` that `ids [...]` (i64) name: `[..., d]`.
pub fn embedding(weight: &Leaf, ids: &Tensor) -> Tensor {
    match trained(weight) {
        Some(weight) if linear::fit(weight.value) => linear::embedding(weight, ids),
        _ => Tensor::embedding(&weight.value, ids, -1, false, false),
    }
}

fn trained(leaf: &Leaf) -> Option<Trained<'_>> {
    leaf.gradient.as_ref().map(|gradient| Trained { value: &leaf.value, gradient })
}

/// LayerNorm if it has a bias, otherwise RMSNorm; over the last dimension.
pub struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.bias {
            Some(_) => x.layer_norm(self.weight.size(), Some(&self.weight), self.bias.as_ref(), self.eps, true),
            None if elementwise::fit(&[x, &self.weight]) => elementwise::rms_norm(x, &self.weight, self.eps),
            None => x.rms_norm(self.weight.size(), Some(&self.weight), self.eps),
        }
    }

    /// The residual sum of x and `added`, if there is one, and its norm.
    pub fn of_sum(&self, x: &Tensor, added: Option<&Tensor>) -> [Tensor; 2] {
        if self.bias.is_none() && elementwise::fit(&[x, &self.weight]) {
            return elementwise::add_norm(x, added, &self.weight, self.eps);
        }
        let sum = added.map_or_else(|| x.shallow_clone(), |added| x + added);
        let normal = self.forward(&sum);
        [sum, normal]
    }
}
