//! Tables, plots and pages: a pure function of the frames folder. The same frames give the same bytes.

mod comparison;
mod findings;
pub(crate) mod format;
mod input;
mod markdown;
mod page;
mod plot;
mod png;
pub mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use comparison::{AxisValue, Cell, Comparison, Difference, Estimate, Reference, SeedResult, comparison};

use crate::record::frames::Frames;
use crate::record::provenance::Provenance;
use crate::record::store::replace_bytes;

/// Reads the frames and `provenance.json` of `folder`; writes `plots/`, `report.md` and `report.html` into it and returns the
/// paths, always in the same order.
pub fn write(folder: &Path) -> Result<Vec<PathBuf>> {
    let path = folder.join("provenance.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let provenance: Provenance = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let frames = Frames::read(folder)?;
    let input = input::read(&frames)?;
    let comparison = comparison::compare(&input, &provenance);
    let plots = plot::all(&input, &comparison, &provenance)?;

    let plot_folder = folder.join("plots");
    std::fs::create_dir_all(&plot_folder).with_context(|| format!("cannot create {}", plot_folder.display()))?;
    let mut paths = Vec::new();
    let mut put = |path: PathBuf, bytes: &[u8]| -> Result<()> {
        replace_bytes(&path, bytes)?;
        paths.push(path);
        Ok(())
    };
    for plot in &plots {
        put(plot_folder.join(format!("{}.svg", plot.name)), plot.svg.as_bytes())?;
        put(plot_folder.join(format!("{}.png", plot.name)), &png::render(&plot.svg)?)?;
    }
    put(folder.join("report.md"), markdown::report(&input, &comparison, &provenance, &plots).as_bytes())?;
    put(folder.join("report.html"), page::report(&input, &comparison, &provenance, &plots).as_bytes())?;
    Ok(paths)
}
