//! The deciding quantity: nats per token of every cell minus the reference's.

use anyhow::Result;
use hydrometer_base::units::{fixed, signed};

use super::axis::Axis;
use super::forest::{Panel, Row, draw_panels};
use super::{Line, Palette, Plot};
use crate::cell::{Cell, NllDifference};
use crate::comparison::Comparison;

/// One row per cell with its interval over seeds and documents; absent if nothing was paired.
pub fn plot(comparison: &Comparison, palette: &Palette) -> Result<Option<Plot>> {
    let nll = |cell: &Cell| -> Option<NllDifference> { cell.difference.as_ref()?.nll };
    if comparison.cells.iter().all(|cell| nll(cell).is_none()) {
        return Ok(None);
    }
    let title = format!("Difference from {} on the same documents", comparison.reference);
    let panel = |(title, cells): (String, Vec<&Cell>)| {
        let others: Vec<&Cell> = cells.into_iter().filter(|cell| cell.method != comparison.reference).collect();
        let ends = || others.iter().filter_map(|cell| nll(cell)).flat_map(|found| [found.low, found.high]).chain([0.0]);
        let x = Axis::over(ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max), 0.04);
        let row = |cell: &&Cell| Row {
            name: cell.arm.clone(),
            style: palette.style(cell),
            found: nll(cell).map(|found| (found.mean, Some((found.low, found.high)))),
            value: nll(cell).map_or(String::new(), |found| signed(found.mean, 3)),
            missing: "nothing to compare".into(),
            dots: Vec::new(),
        };
        Panel { title, rows: others.iter().map(row).collect(), x, lines: vec![(0.0, Line::Solid)] }
    };
    let panels: Vec<Panel> = comparison.facets().into_iter().map(panel).collect();
    let axis = format!("nats per token less {}'s, lower is better", comparison.reference);
    let svg = draw_panels("difference", &title, &axis, &panels, &[], "nothing to compare")?;
    let level = fixed(comparison.level * 100.0, 0);
    let caption = format!(
        "Held-out nats per token less {}'s after training, paired by seed and document: the mean (ring) and its {level}% interval over \
         seeds and documents (bar). A bar that crosses 0 decides nothing; one that leaves it out does, for its own comparison.",
        comparison.reference
    );
    Ok(Some(Plot { name: "difference", title, caption, svg }))
}
