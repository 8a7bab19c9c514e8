//! A rank's share of the parameters: a flat f32 master buffer, a flat f32 gradient buffer, and leaf tensors for autograd.
//!
//! With flat buffers an update is one fused call, a gradient norm one reduction, and data parallelism one all-reduce. Matrices
//! (which have weight decay) come first, then norms.

use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor, no_grad};

use super::config::ModelConfig;
use super::parallel::{shard, shard_size, sum_copies, unshard};
use super::parameters::{Parameter, parameters};
use crate::dist::{Mesh, c10d};
use crate::kernels::reductions::{add, square_sum};

/// A parameter as the passes of a rank read it.
#[derive(Debug)]
pub struct Leaf {
    pub value: Tensor,
    /// The f32 view, of the same shape, to which its gradient is added, if it is trained.
    pub gradient: Option<Tensor>,
}

impl Leaf {
    pub fn shallow_clone(&self) -> Self {
        Self { value: self.value.shallow_clone(), gradient: self.gradient.as_ref().map(Tensor::shallow_clone) }
    }

    /// One parameter that consists of the rows of all `parts` in order, in the same memory; `None` if they are not neighbours there.
    pub fn joined(parts: &[Self]) -> Option<Self> {
        let first = &parts[0];
        let value = neighbours(parts.iter().map(|part| &part.value))?;
        let gradient = match &first.gradient {
            None => None,
            Some(_) => {
                let all: Option<Vec<&Tensor>> = parts.iter().map(|part| part.gradient.as_ref()).collect();
                Some(neighbours(all?.into_iter())?)
            }
        };
        let value = value.set_requires_grad(gradient.is_some());
        Some(Self { value, gradient })
    }
}

/// The rows of all `parts` as one view, if they are contiguous and follow each other in one buffer on the CPU.
fn neighbours<'a>(parts: impl Iterator<Item = &'a Tensor> + Clone) -> Option<Tensor> {
    let first = parts.clone().next()?;
    let width: i64 = first.size()[1..].iter().product();
    let (mut end, mut rows) = (first.data_ptr() as usize, 0);
    for part in parts {
        let fits = part.device() == Device::Cpu && part.kind() == first.kind() && part.is_contiguous();
        if !fits || part.size()[1..] != first.size()[1..] || part.data_ptr() as usize != end {
            return None;
        }
        end += part.numel() * part.kind().elt_size_in_bytes();
        rows += part.size()[0];
    }
    let mut size = first.size();
    size[0] = rows;
    let strides: Vec<i64> = if size.len() == 1 { vec![1] } else { vec![width, 1] };
    Some(first.detach().as_strided(&size[..], &strides[..], None::<i64>))
}

/// The weights of one rank.
pub struct Weights {
    pub parameters: Vec<Parameter>,
    /// f32 `[count]`: the master weights that the optimizer updates.
    pub master: Tensor,
    /// f32 `[count]`: the gradient of the global mean loss, once the backward pass of a step is complete.
    pub gradient: Tensor,
    /// In the order of `parameters`: views of `master` in f32, of a copy of it in bf16.
    pub leaves: Vec<Leaf>,
    /// The copy, if there is one.
    rounded: Option<Tensor>,
    /// Position of each parameter in the flat buffers: start, length.
    spans: Vec<(i64, i64)>,
    /// Number of elements at the front of the flat buffers that belong to matrices.
    pub decayed: i64,
    kind: Kind,
}

impl Weights {
    /// Initial weights, which depend only on `seed` and the model, not on the sharding.
    pub fn init(config: &ModelConfig, seed: u64, kind: Kind, mesh: &Mesh) -> Result<Self> {
        Self::build(config, kind, mesh, |parameter| Ok(initial(parameter, seed)))
    }

    /// Builds weights from full tensors, which `full` returns for each parameter.
    pub fn build(
        config: &ModelConfig,
        kind: Kind,
        mesh: &Mesh,
        mut full: impl FnMut(&Parameter) -> Result<Tensor>,
    ) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let parameters = parameters(config);
        let mut locals = Vec::new();
        for parameter in &parameters {
            locals.push(shard(&full(parameter)?.to_kind(Kind::Float), parameter.shard, &mesh.tp).to_device(mesh.device));
        }
        let (spans, decayed, end) = spans(&parameters, locals.iter().map(|local| local.numel() as i64));
        let master = Tensor::zeros([end], (Kind::Float, mesh.device));
        let gradient = master.zeros_like();
        let at = |flat: &Tensor, local: &Tensor, &(start, length): &(i64, i64)| flat.narrow(0, start, length).view_(local.size());
        for (local, span) in locals.iter().zip(&spans) {
            at(&master, local, span).copy_(local);
        }
        let rounded = (kind != Kind::Float).then(|| master.to_kind(kind));
        let read = rounded.as_ref().unwrap_or(&master);
        let leaves: Vec<Tensor> = locals.iter().zip(&spans).map(|(local, span)| at(read, local, span).detach()).collect();
        drop(_guard);
        let leaf =
            |(leaf, span): (Tensor, _)| Leaf { gradient: Some(at(&gradient, &leaf, span)), value: leaf.set_requires_grad(true) };
        let leaves: Vec<Leaf> = leaves.into_iter().zip(&spans).map(leaf).collect();
        if kind == Kind::Float {
            for leaf in &leaves {
                c10d::set_gradient(&leaf.value, leaf.gradient.as_ref().expect("a trained parameter"))?;
            }
        }
        Ok(Self { parameters, master, gradient, leaves, rounded, spans, decayed, kind })
    }

    /// Sums gradients over data-parallel ranks and over ranks that hold copies of a parameter. Call it once per step, before the
    /// update.
    pub fn reduce_gradients(&self, mesh: &Mesh) -> Result<()> {
        mesh.dp.all_reduce_sum(&self.gradient)?;
        for (index, parameter) in self.parameters.iter().enumerate() {
            sum_copies(&self.gradient_of(index), parameter.shard, &mesh.tp, mesh.sequence_parallel)?;
        }
        Ok(())
    }

    /// The gradient of parameter `index`, a view.
    pub fn gradient_of(&self, index: usize) -> Tensor {
        let (start, length) = self.spans[index];
        self.gradient.narrow(0, start, length).view_(self.leaves[index].value.size())
    }

    /// Gathers the full f32 tensor of `parameters[index]` from a flat buffer (the master or an optimizer moment).
    pub fn full(&self, flat: &Tensor, index: usize, mesh: &Mesh) -> Result<Tensor> {
        let (start, length) = self.spans[index];
        let parameter = &self.parameters[index];
        let local = flat.narrow(0, start, length).view_(self.leaves[index].value.size());
        unshard(&local, parameter.shard, &parameter.shape, &mesh.tp)
    }

    /// Writes this rank's share of a full tensor into a flat buffer.
    pub fn load(&self, flat: &Tensor, index: usize, full: &Tensor, mesh: &Mesh) {
        let (start, length) = self.spans[index];
        let local = shard(full, self.parameters[index].shard, &mesh.tp);
        no_grad(|| flat.narrow(0, start, length).copy_(&local.flatten(0, -1)));
    }

    /// Adds gradients that autograd left on low-precision leaves to the f32 buffer. The others are already there: all of f32, and those
    /// of operations that add them at once.
    pub fn collect_gradients(&self) {
        if self.kind == Kind::Float {
            return;
        }
        no_grad(|| {
            for leaf in &self.leaves {
                let mut left = leaf.value.grad();
                if let (true, Some(gradient)) = (left.defined(), &leaf.gradient) {
                    add(&mut gradient.shallow_clone(), &left);
                    let _ = left.zero_();
                }
            }
        });
    }

    /// Copies the master weights into low-precision leaves. In f32 they share memory.
    pub fn refresh_leaves(&self) {
        if let Some(rounded) = &self.rounded {
            no_grad(|| rounded.shallow_clone().copy_(&self.master));
        }
    }

    /// Sum of squared gradients of the whole model: every parameter once, however many ranks hold it.
    pub fn gradient_square_sum(&self, mesh: &Mesh) -> Result<f64> {
        let (mut sharded, mut replicated) = (0.0, 0.0);
        for (index, parameter) in self.parameters.iter().enumerate() {
            // Summed in f64: otherwise the norm, and so clipping, would depend on the sharding, and loss curves would diverge.
            let square = square_sum(&self.gradient_of(index));
            let copies = parameter.shard.copies(mesh.tp.size);
            if copies == mesh.tp.size {
                replicated += square;
            } else if mesh.tp.rank.is_multiple_of(copies) {
                sharded += square;
            }
        }
        let mut over_shards = [sharded];
        mesh.tp.sum(&mut over_shards, mesh.device)?;
        Ok(over_shards[0] + replicated)
    }
}

/// Where parameters of these numbers of elements are in a flat buffer, matrices first: the start and length of each, the number of
/// elements of all matrices, and that of all parameters.
fn spans(parameters: &[Parameter], counts: impl Iterator<Item = i64>) -> (Vec<(i64, i64)>, i64, i64) {
    let counts: Vec<i64> = counts.collect();
    let mut spans = vec![(0, 0); counts.len()];
    let (mut end, mut decayed) = (0, 0);
    for matrices in [true, false] {
        for (index, parameter) in parameters.iter().enumerate() {
            if (parameter.shape.len() >= 2) == matrices {
                spans[index] = (end, counts[index]);
                end += counts[index];
            }
        }
        if matrices {
            decayed = end;
        }
    }
    (spans, decayed, end)
}

/// This rank's parameters of a model that is not trained, in the model's order, from the full tensors that `full` returns.
pub fn frozen(
    config: &ModelConfig,
    kind: Kind,
    mesh: &Mesh,
    mut full: impl FnMut(&Parameter) -> Result<Tensor>,
) -> Result<Vec<Leaf>> {
    let _guard = tch::no_grad_guard();
    let parameters = parameters(config);
    let sizes: Vec<Vec<i64>> = parameters.iter().map(|parameter| shard_size(parameter, &mesh.tp)).collect();
    let (spans, _, count) = spans(&parameters, sizes.iter().map(|size| size.iter().product()));
    let flat = Tensor::empty([count], (kind, mesh.device));
    let leaf = |(parameter, (size, (start, length))): (&Parameter, (&Vec<i64>, (i64, i64)))| {
        let value = flat.narrow(0, start, length).view_(&size[..]);
        value.shallow_clone().copy_(&shard(&full(parameter)?, parameter.shard, &mesh.tp));
        Ok(Leaf { value, gradient: None })
    };
    parameters.iter().zip(sizes.iter().zip(spans)).map(leaf).collect()
}

/// Initial values of a parameter, from its own ChaCha stream keyed by RNG seed and name.
fn initial(parameter: &Parameter, seed: u64) -> Tensor {
    let Some(std) = parameter.init_std else { return Tensor::ones(&parameter.shape, (Kind::Float, Device::Cpu)) };
    if std == 0.0 {
        return Tensor::zeros(&parameter.shape, (Kind::Float, Device::Cpu));
    }
    let mut key = Sha256::new();
    key.update(seed.to_le_bytes());
    key.update(parameter.name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(key.finalize().into());
    let count = parameter.shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            let value: f64 = StandardNormal.sample(&mut rng);
            (value * std) as f32
        })
        .collect();
    Tensor::from_slice(&values).view_(&parameter.shape[..])
}
