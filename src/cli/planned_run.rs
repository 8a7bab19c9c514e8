//! A run as `plan` shows it.

use hydrometer_base::run_id::RunId;
use hydrometer_record::run_status::RunStatus;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
pub struct PlannedRun {
    pub run: RunId,
    pub name: String,
    /// `new` for every run that is still to do, including interrupted ones.
    pub status: RunStatus,
    pub seed: u64,
    pub axes: Map<String, Value>,
    pub tokens: u64,
    pub updates: u64,
    /// Most input tokens of a forward and backward pass.
    pub pass_tokens: usize,
    pub train_flops: f64,
    pub teacher_flops: f64,
}
