//! The two layers a decoder is made of, over leaves found by name.

use std::collections::HashMap;

use tch::Tensor;

use super::config::ModelConfig;
use super::parameters::parameters;

/// A rank's leaves by parameter name.
pub struct ParamMap(HashMap<String, Tensor>);

impl ParamMap {
    /// `leaves` are in the order of [`parameters`].
    pub fn new(config: &ModelConfig, leaves: &[Tensor]) -> Self {
        Self(parameters(config).into_iter().zip(leaves).map(|(p, leaf)| (p.name, leaf.shallow_clone())).collect())
    }

    /// The leaf of a parameter that only some models have.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.0.get(name).map(Tensor::shallow_clone)
    }

    /// The leaf of a parameter that this model has.
    pub fn get(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    /// Layer `name`, which every model has.
    pub fn linear(&self, name: &str) -> Linear {
        Linear { weight: self.get(&format!("{name}.weight")), bias: self.find(&format!("{name}.bias")) }
    }

    /// Norm `name`, where the model has it.
    pub fn norm(&self, name: &str, eps: f64) -> Option<Norm> {
        let weight = self.find(&format!("{name}.weight"))?;
        Some(Norm { weight, bias: self.find(&format!("{name}.bias")), eps })
    }
}

/// `x·Wᵀ + b`, weight `[out, in]` as this rank holds it.
pub struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Of a replicated or column-parallel layer.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// A row-parallel layer's summand, without the bias.
    pub fn partial(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, None::<Tensor>)
    }

    /// Adds the bias to the sum over the ranks, once.
    pub fn finish(&self, sum: Tensor) -> Tensor {
        match &self.bias {
            Some(bias) => sum + bias,
            None => sum,
        }
    }
}

/// LayerNorm where it has a bias, RMSNorm where it has none; over the last dimension.
pub struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl Norm {
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match &self.bias {
            Some(_) => x.layer_norm(self.weight.size(), Some(&self.weight), self.bias.as_ref(), self.eps, true),
            None => x.rms_norm(self.weight.size(), Some(&self.weight), self.eps),
        }
    }
}
