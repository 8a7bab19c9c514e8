//! Perplexity against the budget: data, and FLOPs including the teacher's.

use anyhow::Result;
use hydrometer_base::units::fixed;
use hydrometer_record::frames::EvalRow;

use super::axis::Axis;
use super::curves::{Names, Panel, Point, Series, draw_panels, extent, over_seeds};
use super::perplexity::{arm_keys, evaluations};
use super::{Palette, Plot};
use crate::cell::{Cell, values};
use crate::comparison::Comparison;
use crate::input::{Input, Run};

/// The axis that sweeps the budget.
const TOKENS: &str = "tokens";

/// An arm at all budgets, and the facet without its budget.
struct Arm<'a> {
    facet: String,
    cells: Vec<&'a Cell>,
}

fn arms(comparison: &Comparison) -> Vec<Arm<'_>> {
    let mut all: Vec<Arm> = Vec::new();
    for cell in &comparison.cells {
        let rest: Vec<_> = cell.facet.iter().filter(|axis| axis.axis != TOKENS).cloned().collect();
        let facet = values(&rest);
        match all.iter_mut().find(|arm| arm.facet == facet && arm.cells[0].arm == cell.arm) {
            Some(arm) => arm.cells.push(cell),
            None => all.push(Arm { facet, cells: vec![cell] }),
        }
    }
    all
}

/// The final perplexity of each arm at each budget; absent if the experiment has only one.
pub fn against_data(comparison: &Comparison, palette: &Palette) -> Result<Option<Plot>> {
    let arms = arms(comparison);
    if arms.iter().all(|arm| arm.cells.len() < 2) {
        return Ok(None);
    }
    let title = "Final perplexity against data";
    let spent = |cell: &Cell| cell.tokens.map(|tokens| tokens as f64);
    let lines = arms.iter().map(|arm| (arm, ends(arm, spent))).collect();
    let svg = draw_arms(("data", title), "target tokens trained on", lines, palette)?;
    Ok(Some(Plot { name: "data", title: title.into(), caption: ends_caption(comparison, "the budget"), svg }))
}

/// The perplexity of each arm against all FLOPs spent on it: over its budgets if there are several, else during training.
pub fn against_flops(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Perplexity against total FLOPs, the teacher's counted";
    let arms = arms(comparison);
    let counted = "The teacher's training and its pass over the targets count whole for each arm that it teaches, from the start";
    let (lines, caption) = if arms.iter().any(|arm| arm.cells.len() > 1) {
        let spent = |cell: &Cell| cell.seeds.first().map(|seed| seed.total_flops);
        (arms.iter().map(|arm| (arm, ends(arm, spent))).collect(), ends_caption(comparison, "all FLOPs"))
    } else {
        let course = |arm: &Arm| {
            let found = evaluations(input, comparison, arm.cells[0]);
            let point = |(run, eval): &(&Run, &EvalRow)| {
                (run.teacher_flops + run.train_flops * eval.tokens as f64 / run.tokens.max(1) as f64, eval.perplexity())
            };
            over_seeds(found.iter().map(point).collect())
        };
        let caption = "Perplexity on held-out text at each evaluation: mean over the finished runs; the band spans the lowest and the highest seed.";
        (arms.iter().map(|arm| (arm, course(arm))).collect(), caption.to_string())
    };
    let svg = draw_arms(("flops", title), "FLOPs of student and teacher", lines, palette)?;
    let caption = format!("{caption} {counted}; axes that span more than a factor of four are logarithmic.");
    Ok(Plot { name: "flops", title: title.into(), caption, svg })
}

fn ends_caption(comparison: &Comparison, what: &str) -> String {
    let level = fixed(comparison.level * 100.0, 0);
    format!("What each arm ends at against {what}: mean over seeds, the band its {level}% Student t interval.")
}

/// The final perplexity of each of the arm's cells: budget, mean and interval.
fn ends(arm: &Arm, spent: impl Fn(&Cell) -> Option<f64>) -> Vec<Point> {
    let end = |cell: &&Cell| {
        let found = cell.perplexity?;
        let (low, high) = found.low.zip(found.high).unwrap_or((found.mean, found.mean));
        // An interval over few seeds may reach below the smallest possible perplexity.
        Some((spent(cell)?, found.mean, low.max(found.mean / 4.0), high.min(found.mean * 4.0)))
    };
    let mut points: Vec<Point> = arm.cells.iter().filter_map(end).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn draw_arms((id, title): (&str, &str), axis: &str, lines: Vec<(&Arm, Vec<Point>)>, palette: &Palette) -> Result<String> {
    let mut facets: Vec<(String, Vec<Series>)> = Vec::new();
    let mut drawn: Vec<&Cell> = Vec::new();
    for (arm, points) in lines {
        if !facets.iter().any(|(name, _)| *name == arm.facet) {
            facets.push((arm.facet.clone(), Vec::new()));
        }
        if points.is_empty() {
            continue;
        }
        drawn.push(arm.cells[0]);
        let series = Series { points, style: palette.style(arm.cells[0]), dots: true };
        if let Some((_, all)) = facets.iter_mut().find(|(name, _)| *name == arm.facet) {
            all.push(series);
        }
    }
    let panel = |(title, series): (String, Vec<Series>)| {
        let points = || series.iter().flat_map(|series| &series.points);
        let (left, right) = extent(points().map(|point| point.0));
        let (low, high) = extent(points().flat_map(|point| [point.2, point.3]));
        let (x, y) = (Axis::adaptive(left, right, 0.03), Axis::adaptive(low, high, 0.05));
        Panel { title, series, broken: Vec::new(), lines: Vec::new(), x, y }
    };
    let panels: Vec<Panel> = facets.into_iter().map(panel).collect();
    let names = Names { x: axis, y: "perplexity", empty: "no evaluation of a finished run" };
    draw_panels(id, title, &names, &panels, &arm_keys(drawn.into_iter(), palette))
}
