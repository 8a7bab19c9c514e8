//! The parts of an experiment that texts can quote, and the errors of markers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hydrometer_record::checked::Checked;
use serde_json::Value;

use super::comparison::Comparison;

/// The quotable data of one experiment.
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
    /// The marker is valid, but the results contradict the text beside it.
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

/// The relative path from the folder of `file` to `to`, for a link.
pub fn link(file: &Path, to: &Path) -> Result<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = |path: &Path| path.canonicalize().with_context(|| format!("cannot read {}", path.display()));
    let (from, to) = (whole(folder)?, whole(to)?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| "..".to_string());
    let down = to.components().skip(shared).map(|part| part.as_os_str().to_string_lossy().into_owned());
    Ok(up.chain(down).collect::<Vec<_>>().join("/"))
}
