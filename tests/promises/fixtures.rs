//! Checkpoints that transformers wrote (tests/fixtures/make_checkpoints.py), and ranks as threads.

use std::path::{Path, PathBuf};
use std::thread;

use hydrometer::dist::Mesh;
use hydrometer::dist::c10d::Store;
use tch::Device;

/// One or more checkpoints of every family; the script describes their peculiarities.
pub const CHECKPOINTS: [&str; 7] = ["llama", "smollm2", "qwen2", "qwen3", "gpt2", "opt-norm-before", "opt-norm-after"];

pub fn folder(checkpoint: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(checkpoint)
}

/// Runs `work` on `tp` tensor-parallel ranks, each in a thread; returns the results by rank.
pub fn on_ranks<T: Send>(tp: usize, work: impl Fn(&Mesh) -> T + Sync) -> Vec<T> {
    on_ranks_of(tp, false, work)
}

/// [`on_ranks`] with or without sequence parallelism.
pub fn on_ranks_of<T: Send>(tp: usize, sequence_parallel: bool, work: impl Fn(&Mesh) -> T + Sync) -> Vec<T> {
    let (store, work) = (Store::in_process(), &work);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..tp)
            .map(|rank| {
                let store = store.clone();
                scope.spawn(move || {
                    let mesh = Mesh::join(&store, rank, tp, 1, Device::Cpu).unwrap();
                    work(&Mesh { sequence_parallel, ..mesh })
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
