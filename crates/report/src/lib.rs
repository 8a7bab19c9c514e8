//! Tables, plots and pages: a pure function of the frames folder. The same frames give the same bytes.

mod block;
mod cell;
pub mod claim;
pub mod claims;
mod comparison;
mod difference;
mod evidence;
mod findings;
pub mod input;
mod markdown;
pub mod material;
mod metrics;
pub mod numbers;
mod page;
mod plot;
mod png;
pub mod pooled;
pub mod quote;
mod scores;
pub mod stats;
pub mod table;
mod task;
#[cfg(test)]
mod tests;
mod texts;
mod verdict;
pub mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hydrometer_base::fs::replace_bytes;
use hydrometer_record::frames::Frames;
use hydrometer_record::provenance::Provenance;

pub use cell::{AxisValue, Cell, Difference, Estimate, NllDifference, Reference, SeedResult};
use claim::Claim;
pub use comparison::{Comparison, comparison};
pub use task::{ScoreDifference, TaskArm, TaskComparison, TaskReference};

/// The file of the decided claims, if the experiment has any.
pub const CLAIMS: &str = "claims.json";

/// Renders the report from the frames and `provenance.json` of `folder` and decides `claims`. Returns the files with their paths
/// relative to the folder, always in the same order; writes nothing.
pub fn render(folder: &Path, claims: &[Claim]) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let provenance = Provenance::read(folder)?;
    let frames = Frames::read(folder)?;
    let input = input::read(&frames)?;
    let comparison = comparison::compare(&input, &evidence::Evidence::read(&frames)?, &provenance);
    let outcomes = claims::decide(claims, &frames)?;
    let pooled = pooled::over_data(&comparison);
    let plots = plot::all(&input, &comparison, &provenance)?;
    let mut files = Vec::new();
    if !outcomes.is_empty() {
        files.push((PathBuf::from(CLAIMS), claims::json(&provenance.experiment, &outcomes)?));
    }
    for plot in &plots {
        files.push((Path::new("plots").join(format!("{}.svg", plot.name)), plot.svg.clone().into_bytes()));
        files.push((Path::new("plots").join(format!("{}.png", plot.name)), png::render(&plot.svg)?));
    }
    let sides = texts::side_by_side(&frames, &input, &comparison)?;
    let report = markdown::report(&input, &comparison, &pooled, &provenance, &outcomes, &plots, &sides);
    files.push(("report.md".into(), report.into_bytes()));
    let page = page::report(&input, &comparison, &pooled, &provenance, &outcomes, &plots, &sides);
    files.push(("report.html".into(), page.into_bytes()));
    Ok(files)
}

/// Writes the files of [`render`] into `folder`; returns the paths.
pub fn write(folder: &Path, claims: &[Claim]) -> Result<Vec<PathBuf>> {
    let files = render(folder, claims)?;
    let plots = folder.join("plots");
    std::fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    // Removes plots of arms or numbers that no longer exist, which would pass for results.
    for path in std::fs::read_dir(&plots).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let ours = path.extension().is_some_and(|kind| kind == "svg" || kind == "png");
        if ours && !files.iter().any(|(name, _)| folder.join(name) == path) {
            let _ = std::fs::remove_file(&path);
        }
    }
    if claims.is_empty() {
        // Removes the claims of an experiment that no longer has any.
        let _ = std::fs::remove_file(folder.join(CLAIMS));
    }
    files
        .into_iter()
        .map(|(name, bytes)| {
            let path = folder.join(name);
            replace_bytes(&path, &bytes)?;
            Ok(path)
        })
        .collect()
}
