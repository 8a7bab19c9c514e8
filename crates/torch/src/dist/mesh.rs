//! The mesh of ranks: tensor parallel (innermost, because these ranks communicate most) × data parallel.

use std::env;

use anyhow::{Result, ensure};
use hydrometer_base::user_error;
use tch::Device;

use super::c10d::{Backend, Group, Store};
use super::collective::ProcessGroup;

/// This rank's position in the mesh, and its process groups.
pub struct Mesh {
    /// Ranks that hold shards of the same model replica.
    pub tp: ProcessGroup,
    /// Ranks that hold the same shard and see different rows of the batch.
    pub dp: ProcessGroup,
    pub world: ProcessGroup,
    pub device: Device,
    /// Sequence parallelism: tensor-parallel ranks divide the tokens among them where each would otherwise compute the same.
    pub sequence_parallel: bool,
}

impl Mesh {
    /// A mesh of this process alone.
    pub fn single(device: Device) -> Self {
        Self {
            tp: ProcessGroup::single(),
            dp: ProcessGroup::single(),
            world: ProcessGroup::single(),
            device,
            sequence_parallel: false,
        }
    }

    /// Joins `tp × dp` ranks through `store` as global rank `rank` (`tp` varies fastest).
    pub fn join(store: &Store, rank: usize, tp: usize, dp: usize, device: Device) -> Result<Self> {
        let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
        let (tp_rank, dp_rank) = (rank % tp, rank / tp);
        let axis = |name: String, rank, size| -> Result<ProcessGroup> {
            if size == 1 {
                return Ok(ProcessGroup::single());
            }
            Ok(ProcessGroup::of(Group::join(store, backend, &name, rank, size)?, rank, size))
        };
        Ok(Self {
            tp: axis(format!("tp/{dp_rank}"), tp_rank, tp)?,
            dp: axis(format!("dp/{tp_rank}"), dp_rank, dp)?,
            world: axis("world".into(), rank, tp * dp)?,
            device,
            sequence_parallel: false,
        })
    }

    /// The mesh described by torchrun's environment variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`);
    /// a single process if `WORLD_SIZE` is unset.
    pub fn from_env(tp: usize, dp: usize, device: Device) -> Result<Self> {
        let number = |name: &str| -> Result<usize> {
            let cure = "start all ranks with torchrun, or unset WORLD_SIZE for a process that is alone";
            let value = env::var(name).map_err(|_| user_error!("WORLD_SIZE is set, but {name} is not; {cure}"))?;
            value.parse().map_err(|_| user_error!("{name} is {value:?}, which is not a number; {cure}"))
        };
        if env::var_os("WORLD_SIZE").is_none() {
            ensure!(tp * dp == 1, "tp {tp} × dp {dp} needs {} processes, but WORLD_SIZE is not set", tp * dp);
            return Ok(Self::single(device));
        }
        let (rank, world) = (number("RANK")?, number("WORLD_SIZE")?);
        ensure!(
            tp * dp == world && rank < world,
            user_error!(
                "this is rank {rank} of {world} by RANK and WORLD_SIZE, which is not a rank of tp {tp} × dp {dp}; \
                start as many ranks as that, or unset WORLD_SIZE for a process that is alone"
            )
        );
        if world == 1 {
            return Ok(Self::single(device));
        }
        let device = match device {
            Device::Cuda(first) => Device::Cuda(first + number("LOCAL_RANK")?),
            other => other,
        };
        let host = env::var("MASTER_ADDR").unwrap_or_else(|_| "127.0.0.1".into());
        let port = number("MASTER_PORT")?;
        let port = u16::try_from(port).map_err(|_| user_error!("MASTER_PORT is {port}, which is not a port"))?;
        // torchrun (like our scheduler) serves the store from its agent; otherwise rank 0 serves it.
        let agent = env::var("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|value| value == "True");
        let store = if rank == 0 && !agent { Store::serve_on(&host, port)? } else { Store::connect(&host, port)? };
        Self::join(&store, rank, tp, dp, device)
    }

    /// Whether this rank writes the shared output.
    pub fn is_first(&self) -> bool {
        self.world.rank == 0
    }
}
