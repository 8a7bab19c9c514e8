//! Gathers the provenance of an experiment's numbers when its frames are written.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use hydrometer_base::fs::sha256_file;
use hydrometer_base::numerics::{self, NUMERICS, UNRECORDED};
use hydrometer_record::fingerprint::fingerprints;
use hydrometer_record::frames::{Frames, RunRow};
use hydrometer_record::provenance::{CarriedRuns, MethodNote, Provenance, cpu_model, frame_hashes};
use hydrometer_report::claim::Claim;
use hydrometer_torch::dist::c10d;

use super::schedule::Settings;
use crate::experiment::Experiment;

/// The provenance of this session and of the frames that it wrote into `results`. `kept` lists the runs whose rows were carried
/// over from earlier frames; `numerics` is the oldest version of the arithmetic among all other runs. Outside a git checkout the
/// commit is absent.
pub fn gather(
    experiment: &Experiment,
    settings: &Settings,
    results: &Path,
    kept: Vec<CarriedRuns>,
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

/// Memory of the machine in GB (10⁹ bytes).
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
    // Changed results do not make the code dirty: this session has just written them.
    let dirty = git(&["status", "--porcelain", "--", ".", ":!results"]).is_some_and(|text| !text.is_empty());
    Some(if dirty { format!("{hash}-dirty") } else { hash })
}
