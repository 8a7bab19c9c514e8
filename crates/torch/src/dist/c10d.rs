//! Safe wrappers around the C++ shim: c10d stores and groups, and ATen entry points that tch does not expose.
//!
//! Soundness of every `unsafe` below: tch's `C_tensor` is an `at::Tensor`, so its pointer may be read as one; every pointer
//! passed in comes from a live `&Tensor` and is used only during the call; every pointer returned is a fresh heap `at::Tensor`,
//! which tch then owns and frees.

use anyhow::{Result, anyhow};
use cxx::SharedPtr;
use tch::Tensor;

#[cxx::bridge(namespace = "hydrometer")]
mod ffi {
    unsafe extern "C++" {
        include!("c10d.h");

        #[namespace = "at"]
        type Tensor;
        type Store;
        type Group;

        fn tcp_store(host: &str, port: u16, is_server: bool, timeout_ms: i64) -> Result<SharedPtr<Store>>;
        fn hash_store() -> SharedPtr<Store>;
        fn tcp_store_port(store: &Store) -> Result<u16>;
        fn gloo_group(store: &Store, name: &str, rank: i32, size: i32, timeout_ms: i64) -> Result<SharedPtr<Group>>;
        fn nccl_group(store: &Store, name: &str, rank: i32, size: i32, timeout_ms: i64) -> Result<SharedPtr<Group>>;

        unsafe fn all_reduce_sum(group: &Group, tensor: *mut Tensor) -> Result<()>;
        unsafe fn all_gather(group: &Group, input: *const Tensor, output: *mut Tensor) -> Result<()>;

        unsafe fn copy_to_group(group: &SharedPtr<Group>, input: *const Tensor) -> Result<*mut Tensor>;
        unsafe fn reduce_from_group(group: &SharedPtr<Group>, input: *const Tensor) -> Result<*mut Tensor>;
        unsafe fn gather_rows(group: &SharedPtr<Group>, input: *const Tensor, partial_gradients: bool) -> Result<*mut Tensor>;
        unsafe fn reduce_to_rows(group: &SharedPtr<Group>, input: *const Tensor) -> Result<*mut Tensor>;
        unsafe fn backward(output: *const Tensor, gradient: *const Tensor) -> Result<()>;
        unsafe fn set_gradient(parameter: *const Tensor, gradient: *const Tensor) -> Result<()>;
        unsafe fn fused_adamw(
            param: *const Tensor,
            grad: *const Tensor,
            exp_avg: *const Tensor,
            exp_avg_sq: *const Tensor,
            step: *const Tensor,
            settings: AdamwSettings,
            grad_scale: *const Tensor,
        ) -> Result<()>;

        fn cpu_capability() -> String;
        fn torch_config() -> String;
        fn torch_version() -> String;
    }

    /// Hyper-parameters of one AdamW update.
    #[derive(Clone, Copy, Debug)]
    struct AdamwSettings {
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    }
}

pub use ffi::AdamwSettings;

/// How long a rank waits for its peers before it gives up, in milliseconds. A dead peer is noticed at once (its socket
/// closes); this bounds the wait for one that hangs.
const TIMEOUT_MS: i64 = 10 * 60 * 1000;

// SAFETY: c10d stores guard their state with mutexes, and torch itself shares them between threads.
unsafe impl Send for ffi::Store {}
unsafe impl Sync for ffi::Store {}
// SAFETY: a group may be used from one thread at a time. `Group` below is not `Clone` outside this module, and its owner calls it
// from one thread.
unsafe impl Send for ffi::Group {}
unsafe impl Sync for ffi::Group {}

/// A c10d key-value store, through which ranks find each other.
#[derive(Clone)]
pub struct Store(SharedPtr<ffi::Store>);

impl Store {
    /// Starts a server on a free port of this host, which [`Store::port`] returns.
    pub fn serve() -> Result<Self> {
        Ok(Self(ffi::tcp_store("127.0.0.1", 0, true, TIMEOUT_MS)?))
    }

    /// Starts a server on `port`, as rank 0 does in a torchrun-style launch without an agent store.
    pub fn serve_on(host: &str, port: u16) -> Result<Self> {
        Ok(Self(ffi::tcp_store(host, port, true, TIMEOUT_MS)?))
    }

    /// Connects to the server at `host:port`.
    pub fn connect(host: &str, port: u16) -> Result<Self> {
        Ok(Self(ffi::tcp_store(host, port, false, TIMEOUT_MS)?))
    }

    /// A store for ranks that are threads of this process.
    pub fn in_process() -> Self {
        Self(ffi::hash_store())
    }

    /// The port of a TCP store.
    pub fn port(&self) -> Result<u16> {
        Ok(ffi::tcp_store_port(&self.0)?)
    }
}

/// The communication library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Gloo,
    Nccl,
}

/// A process group of at least two ranks.
pub struct Group(SharedPtr<ffi::Group>);

impl Group {
    /// Joins group `name` as `rank` of `size`; returns when all ranks have joined.
    pub fn join(store: &Store, backend: Backend, name: &str, rank: usize, size: usize) -> Result<Self> {
        let (rank, size) = (i32::try_from(rank)?, i32::try_from(size)?);
        let group = match backend {
            Backend::Gloo => ffi::gloo_group(&store.0, name, rank, size, TIMEOUT_MS),
            Backend::Nccl => ffi::nccl_group(&store.0, name, rank, size, TIMEOUT_MS),
        };
        Ok(Self(group.map_err(|error| anyhow!("cannot join process group {name}: {}", error.what()))?))
    }

    /// Sums `tensor` over the ranks, in place.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<()> {
        Ok(unsafe { ffi::all_reduce_sum(&self.0, pointer(tensor).cast_mut()) }?)
    }

    /// Fills `output [size, ...]` with the `input [...]` of every rank.
    pub fn all_gather(&self, input: &Tensor, output: &Tensor) -> Result<()> {
        Ok(unsafe { ffi::all_gather(&self.0, pointer(input), pointer(output).cast_mut()) }?)
    }

    /// Megatron's *f*: identity forward, all-reduce backward.
    pub fn copy_to(&self, input: &Tensor) -> Result<Tensor> {
        let output = unsafe { ffi::copy_to_group(&self.0, pointer(input)) }?;
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }

    /// Megatron's *g*: all-reduce forward, identity backward.
    pub fn reduce_from(&self, input: &Tensor) -> Result<Tensor> {
        let output = unsafe { ffi::reduce_from_group(&self.0, pointer(input)) }?;
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }

    /// Gathers the rows `[m, ...]` of every rank into `[size·m, ...]`. Backward: this rank's rows of the gradient; with
    /// `partial_gradients` they are summed over the ranks, otherwise every rank is assumed to have the full gradient.
    pub fn gather_rows(&self, input: &Tensor, partial_gradients: bool) -> Result<Tensor> {
        let output = unsafe { ffi::gather_rows(&self.0, pointer(input), partial_gradients) }?;
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }

    /// Reduce-scatter: this rank's rows `[m, ...]` of the sum of `input [size·m, ...]` over the ranks. Backward: all-gather of
    /// the rows.
    pub fn reduce_to_rows(&self, input: &Tensor) -> Result<Tensor> {
        let output = unsafe { ffi::reduce_to_rows(&self.0, pointer(input)) }?;
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }
}

/// Runs autograd from `output` with `gradient` (same shape) flowing in.
pub fn backward(output: &Tensor, gradient: &Tensor) -> Result<()> {
    Ok(unsafe { ffi::backward(pointer(output), pointer(gradient)) }?)
}

/// Makes autograd accumulate the gradient of leaf `parameter` into `gradient` (same shape, type and device).
pub fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<()> {
    Ok(unsafe { ffi::set_gradient(pointer(parameter), pointer(gradient)) }?)
}

/// ATen's fused AdamW on one tensor, in place. `step` is a scalar tensor that the call increments; gradients are first divided by
/// the scalar `grad_scale`.
pub fn fused_adamw(
    param: &Tensor,
    grad: &Tensor,
    [exp_avg, exp_avg_sq, step]: [&Tensor; 3],
    settings: AdamwSettings,
    grad_scale: &Tensor,
) -> Result<()> {
    Ok(unsafe {
        ffi::fused_adamw(
            pointer(param),
            pointer(grad),
            pointer(exp_avg),
            pointer(exp_avg_sq),
            pointer(step),
            settings,
            pointer(grad_scale),
        )
    }?)
}

/// The instruction set that ATen's CPU kernels use, e.g. `AVX512`.
pub fn cpu_capability() -> String {
    ffi::cpu_capability()
}

/// libtorch's version, e.g. `2.11.0`.
pub fn torch_version() -> String {
    ffi::torch_version()
}

/// libtorch's build configuration, in several lines.
pub fn torch_config() -> String {
    ffi::torch_config()
}

fn pointer(tensor: &Tensor) -> *const ffi::Tensor {
    tensor.as_ptr().cast()
}
