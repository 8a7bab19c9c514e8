//! What a text may quote of an experiment, and why a marker is wrong.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hydrometer_record::checked::Checked;
use serde_json::Value;

use super::comparison::Comparison;

/// What is known of one experiment.
pub struct Material {
    pub folder: PathBuf,
    pub results: Checked,
    pub numbers: Value,
    pub comparison: Comparison,
    /// The text of its `claims.json`.
    pub claims: Option<String>,
}

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MarkerError {
    pub reason: String,
    /// The marker is right, but the results do not bear out what stands beside it.
    pub contradicted: bool,
}

impl MarkerError {
    pub fn wrong(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), contradicted: false }
    }

    pub fn contradicted(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), contradicted: true }
    }
}

/// The way to `to` from the folder of `file`, as a link in it says it.
pub fn link(file: &Path, to: &Path) -> Result<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = |path: &Path| path.canonicalize().with_context(|| format!("cannot read {}", path.display()));
    let (from, to) = (whole(folder)?, whole(to)?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| "..".to_string());
    let down = to.components().skip(shared).map(|part| part.as_os_str().to_string_lossy().into_owned());
    Ok(up.chain(down).collect::<Vec<_>>().join("/"))
}
