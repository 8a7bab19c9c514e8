//! What an experiment's numbers came from: written beside its frames, read back by the report.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::fingerprint::{Fingerprint, fingerprints};
use super::frames::{Frames, NAMES, RunRow, file_of};
use super::store::{sha256_file, unreadable};
use crate::dist::c10d;
use crate::experiment::Experiment;
use crate::experiment::claim::{Claim, ClaimNote};
use crate::numerics::{self, NUMERICS, UNRECORDED};
use crate::sweep::schedule::Settings;
use crate::user_error;

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
    /// The split that `nll` and `perplexity` come from.
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
    /// Its claims with the runs that they select, so that they can be decided where its data and checkpoints are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimNote>,
    /// SHA-256 of each frame's file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub frames: BTreeMap<String, String>,
    /// Checksums of the runs and columns of each frame's file, which name what changed in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fingerprints: BTreeMap<String, Fingerprint>,
    /// Runs whose rows earlier frames had, and where those came from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// Version of the arithmetic: the oldest that made a run in the tables. Absent in results from before it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numerics: Option<u32>,
    /// The processor's family, which decides bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_family: Option<String>,
    /// Variables of the environment that made libtorch compute in another way than the processor alone would.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_settings: BTreeMap<String, String>,
}

/// Runs of an earlier time whose rows were kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub commit: Option<String>,
    pub cpu: String,
    pub finished_at: i64,
    pub runs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<u32>,
}

/// Where the rows of `runs` came from, as the provenance beside the `earlier` frames tells.
pub fn kept_from(earlier: &Provenance, runs: &[String]) -> Vec<Kept> {
    let older = earlier.kept.iter().map(|kept| Kept { runs: shared(&kept.runs, runs), ..kept.clone() });
    let mut all: Vec<Kept> = older.filter(|kept| !kept.runs.is_empty()).collect();
    let rest: Vec<String> = runs.iter().filter(|run| !all.iter().any(|kept| kept.runs.contains(run))).cloned().collect();
    if !rest.is_empty() {
        let Provenance { commit, cpu, finished_at, numerics, .. } = earlier.clone();
        all.push(Kept { commit, cpu, finished_at, runs: rest, numerics });
    }
    all
}

fn shared(some: &[String], others: &[String]) -> Vec<String> {
    some.iter().filter(|run| others.contains(run)).cloned().collect()
}

impl Provenance {
    /// Reads `provenance.json` of a results folder. All fields that every provenance has must be there.
    pub fn read(results: &Path) -> Result<Self> {
        let path = results.join(FILE);
        let text = std::fs::read(&path).map_err(|error| unreadable(&path, error))?;
        Self::parse(&text).map_err(|error| {
            user_error!(
                "{} is damaged: {error:#}; `hydrometer run` writes it again, and git has those that are committed",
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
        let fields = found.as_object().ok_or_else(|| anyhow!("it is no JSON object"))?;
        if let Some(missing) = known.as_object().into_iter().flatten().find(|(key, _)| !fields.contains_key(*key)) {
            return Err(anyhow!("it lacks `{}`", missing.0));
        }
        Ok(serde_json::from_value(found)?)
    }
}

/// An arm as the report names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodNote {
    pub name: String,
    /// The objective in a few words, e.g. `soft-ce on top-20 of big, tail bucket`.
    pub objective: String,
}

/// What can be told of this run of the program and of the frames it wrote into `results`; `kept` came from earlier ones. Outside a
/// git checkout the commit is absent. `numerics` is the oldest version of the arithmetic among the runs that did not.
pub fn gather(
    experiment: &Experiment,
    settings: &Settings,
    results: &Path,
    kept: Vec<Kept>,
    numerics: Option<u32>,
) -> Result<Provenance> {
    let frames = Frames::read(results)?;
    let planned: Vec<String> = RunRow::rows(&frames.runs)?.into_iter().filter(|row| row.planned).map(|row| row.run).collect();
    let shown = kept.iter().filter(|kept| kept.runs.iter().any(|run| planned.contains(run)));
    let oldest = shown.map(|kept| kept.numerics.unwrap_or(UNRECORDED)).chain(numerics).min();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let methods = experiment.methods.iter().map(|m| MethodNote { name: m.name.clone(), objective: m.objective.clone() });
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let split = experiment.students.first().map_or(String::new(), |student| student.recipe.eval.on.clone());
    Ok(Provenance {
        experiment: experiment.name.clone(),
        question: experiment.question.clone(),
        hypothesis: experiment.hypothesis.clone(),
        revision: experiment.revision.clone(),
        smoke: experiment.smoke,
        methods: methods.collect(),
        reference: experiment.reference.clone(),
        split,
        data: experiment.data_name.clone(),
        student: experiment.student_name.clone(),
        teachers: experiment
            .teachers
            .iter()
            .map(|t| format!("{} ({}, {} tokens)", t.name, t.model, t.recipe.tokens))
            .chain(experiment.recordings.iter().map(|r| format!("{} ({})", r.name, r.origin.words())))
            .collect(),
        version: env!("CARGO_PKG_VERSION").into(),
        commit: commit(),
        cargo_lock_sha256: sha256_file(Path::new("Cargo.lock")).ok(),
        libtorch: c10d::torch_version(),
        cpu: cpu_model(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        memory_gb: memory_gb(),
        os: std::env::consts::OS.into(),
        device: settings.device.clone(),
        argv: std::iter::once("hydrometer".to_string()).chain(arguments).collect(),
        finished_at: now,
        experiment_toml: experiment.toml.clone(),
        claims: experiment.claims.iter().map(Claim::note).collect(),
        frames: frame_hashes(results),
        fingerprints: fingerprints(&frames)?,
        kept,
        numerics: Some(oldest.unwrap_or(NUMERICS)),
        cpu_family: Some(numerics::family()),
        cpu_settings: numerics::settings(),
    })
}

/// The SHA-256 of each frame's file in `results`, by the file's name; those that are not there are left out.
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

/// Memory of the machine in 10⁹ bytes.
pub fn memory_gb() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e9
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let hash = git(&["rev-parse", "HEAD"])?;
    // Results are what this run writes; they do not make the code dirty.
    let dirty = git(&["status", "--porcelain", "--", ".", ":!results"]).is_some_and(|text| !text.is_empty());
    Some(if dirty { format!("{hash}-dirty") } else { hash })
}
