//! The origin of an experiment's numbers: written beside its frames, read by the report.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use hydrometer_base::fs::{sha256_file, unreadable};
use hydrometer_base::numerics::UNRECORDED;
use hydrometer_base::user_error;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::frames::{NAMES, file_of};

/// The file's name in a folder of results.
pub const FILE: &str = "provenance.json";

/// `provenance.json` of a results folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    pub experiment: String,
    pub question: String,
    pub hypothesis: String,
    pub revision: String,
    /// Whether the `[smoke]` tier was run.
    pub smoke: bool,
    /// Arms in the order of the file.
    pub methods: Vec<MethodNote>,
    /// The arm that others are compared with.
    pub reference: String,
    /// The split that `nll` and `perplexity` are measured on.
    pub split: String,
    pub data: String,
    pub student: String,
    pub teachers: Vec<String>,
    pub version: String,
    /// Commit of the code, `-dirty` appended when the tree had changes; absent outside a git checkout.
    pub commit: Option<String>,
    pub cargo_lock_sha256: Option<String>,
    pub libtorch: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub os: String,
    pub device: String,
    pub argv: Vec<String>,
    /// Seconds since the Unix epoch when the last run of the experiment ended.
    pub finished_at: i64,
    /// The experiment file, verbatim.
    pub experiment_toml: String,
    /// Its claims with the runs that they select, so that they can be decided without its data and checkpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimNote>,
    /// SHA-256 of each frame's file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub frames: BTreeMap<String, String>,
    /// Checksums of the runs and columns of each frame, which show what changed in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fingerprints: BTreeMap<String, Fingerprint>,
    /// Runs whose rows were carried over from earlier frames, and the origin of those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<CarriedRuns>,
    /// Version of the arithmetic: the oldest of any run in the tables. Absent in results that predate this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numerics: Option<u32>,
    /// The processor's family, on which the exact bits depend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_family: Option<String>,
    /// Environment variables that made libtorch use other kernels than it would choose for the processor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_settings: BTreeMap<String, String>,
}

/// Runs from earlier frames whose rows were carried over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarriedRuns {
    pub commit: Option<String>,
    pub cpu: String,
    pub finished_at: i64,
    pub runs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<u32>,
}

/// The origin of the rows of `runs`, according to the provenance of the `earlier` frames.
pub fn kept_from(earlier: &Provenance, runs: &[String]) -> Vec<CarriedRuns> {
    let older = earlier.kept.iter().map(|kept| CarriedRuns { runs: shared(&kept.runs, runs), ..kept.clone() });
    let mut all: Vec<CarriedRuns> = older.filter(|kept| !kept.runs.is_empty()).collect();
    let rest: Vec<String> = runs.iter().filter(|run| !all.iter().any(|kept| kept.runs.contains(run))).cloned().collect();
    if !rest.is_empty() {
        let Provenance { commit, cpu, finished_at, numerics, .. } = earlier.clone();
        all.push(CarriedRuns { commit, cpu, finished_at, runs: rest, numerics });
    }
    all
}

fn shared(some: &[String], others: &[String]) -> Vec<String> {
    some.iter().filter(|run| others.contains(run)).cloned().collect()
}

impl Provenance {
    /// Reads `provenance.json` of a results folder. An error if a field that every provenance has is missing.
    pub fn read(results: &Path) -> Result<Self> {
        let path = results.join(FILE);
        let text = std::fs::read(&path).map_err(|error| unreadable(&path, error))?;
        Self::parse(&text).map_err(|error| {
            user_error!(
                "{} is damaged: {error:#}; write it again with `hydrometer run`, or restore it from git if it is committed",
                path.display()
            )
        })
    }

    /// Version of the arithmetic that made the numbers.
    pub fn numerics(&self) -> u32 {
        self.numerics.unwrap_or(UNRECORDED)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let found: serde_json::Value = serde_json::from_slice(text)?;
        let known = serde_json::to_value(Self::default())?;
        let fields = found.as_object().ok_or_else(|| anyhow!("it is not a JSON object"))?;
        if let Some(missing) = known.as_object().into_iter().flatten().find(|(key, _)| !fields.contains_key(*key)) {
            return Err(anyhow!("it lacks `{}`", missing.0));
        }
        Ok(serde_json::from_value(found)?)
    }
}

/// A claim as stored beside the frames, for readers without the experiment's data and checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimNote {
    pub id: String,
    pub says: String,
    pub expect: String,
    pub level: f64,
    pub a: Vec<String>,
    pub b: Vec<String>,
}

/// An arm as the report names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodNote {
    pub name: String,
    /// The objective in a few words, e.g. `soft-ce on top-20 of big, tail bucket`.
    pub objective: String,
}

/// The SHA-256 of each frame's file in `results`, by the file's name. Missing files are left out.
pub fn frame_hashes(results: &Path) -> BTreeMap<String, String> {
    let hash = |name: &str| Some((file_of(name), sha256_file(&results.join(file_of(name))).ok()?));
    NAMES.into_iter().filter_map(hash).collect()
}

/// The processor's name.
pub fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}
