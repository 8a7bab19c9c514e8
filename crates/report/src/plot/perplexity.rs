//! Held-out perplexity against tokens.

use anyhow::Result;
use hydrometer_base::units::perplexity as number;
use hydrometer_record::frames::EvalRow;

use super::axis::Axis;
use super::curves::{Names, Panel, Series, draw_panels, extent, over_seeds};
use super::{Key, Line, Palette, Plot, TEACHER};
use crate::cell::{Cell, Reference};
use crate::comparison::Comparison;
use crate::input::{Input, Run};

/// A reference's line is drawn if it leaves the arms at least this fraction of the axis.
const TEACHER_ROOM: f64 = 0.2;
const UNIGRAM_ROOM: f64 = 0.6;
/// With more arms than this, they need more of the axis to be distinguishable.
const CROWD: usize = 6;
const CROWD_ROOM: f64 = 0.8;

/// A legend entry for each arm that is drawn in some panel.
pub fn arm_keys<'a>(cells: impl Iterator<Item = &'a Cell>, palette: &Palette) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for cell in cells {
        let (colour, line) = palette.style(cell);
        if !keys.iter().any(|key| key.name == cell.arm) {
            keys.push(Key { name: cell.arm.clone(), colour, line });
        }
    }
    keys
}

/// The evaluations of a cell's finished runs, each with its run, without those before the first step, where all arms are equal.
pub fn evaluations<'a>(input: &'a Input, comparison: &'a Comparison, cell: &'a Cell) -> Vec<(&'a Run, &'a EvalRow)> {
    let runs = cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| run.ok());
    let mut all: Vec<(&Run, &EvalRow)> = runs.flat_map(|run| run.evals.iter().map(move |eval| (run, eval))).collect();
    all.retain(|(_, eval)| eval.split == comparison.split && eval.perplexity().is_finite());
    if all.iter().any(|(_, eval)| eval.tokens > 0) {
        all.retain(|(_, eval)| eval.tokens > 0);
    }
    all
}

/// Perplexity at each evaluation: mean over seeds with the band from the lowest to the highest seed.
pub fn plot(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Held-out perplexity during training";
    let (mut shown, mut left_out, mut log): (Vec<Key>, String, bool) = Default::default();
    let mut drawn: Vec<&Cell> = Vec::new();
    let mut panels = Vec::new();
    for (title, cells) in comparison.facets() {
        let mut series = Vec::new();
        for cell in cells {
            let points = evaluations(input, comparison, cell).iter().map(|(_, e)| (e.tokens as f64, e.perplexity())).collect();
            let points = over_seeds(points);
            if !points.is_empty() {
                series.push(Series { points, style: palette.style(cell), dots: true });
                drawn.push(cell);
            }
        }
        let points = || series.iter().flat_map(|series| &series.points);
        let (low, high) = extent(points().flat_map(|point| [point.2, point.3]));
        let (_, last) = extent(points().map(|point| point.0));
        let (lines, outside) = reference_lines(comparison, low, high);
        if !left_out.contains(&outside) {
            left_out.push_str(&outside);
        }
        for (name, _, line) in &lines {
            if !shown.iter().any(|key| key.name == *name) {
                shown.push(Key { name: name.clone(), colour: TEACHER, line: *line });
            }
        }
        let (low, high) = extent(lines.iter().map(|line| line.1).chain([low, high]));
        let y = Axis::adaptive(low, high, 0.05);
        log |= y.is_log();
        let lines = lines.into_iter().map(|(_, value, line)| (value, line)).collect();
        panels.push(Panel { title, series, broken: Vec::new(), lines, x: Axis::over(0.0, last * 1.01, 0.0), y });
    }
    let mut keys = arm_keys(drawn.into_iter(), palette);
    keys.extend(shown);
    let names = Names { x: "target tokens trained on", y: "perplexity", empty: "no evaluation of a finished run" };
    let svg = draw_panels("perplexity", title, &names, &panels, &keys)?;
    let scale = if log { " A vertical axis that spans more than a factor of four is logarithmic." } else { "" };
    let caption = format!(
        "Perplexity on held-out text at each evaluation: mean over the finished runs; the band spans the lowest and the highest \
         seed.{scale}{left_out}"
    );
    Ok(Plot { name: "perplexity", title: title.into(), caption, svg })
}

fn room_of(teacher: bool) -> f64 {
    if teacher { TEACHER_ROOM } else { UNIGRAM_ROOM }
}

/// The lines of teachers and baseline that leave enough room for `low` to `high`, and a sentence on the others.
pub fn reference_lines(comparison: &Comparison, low: f64, high: f64) -> (Vec<(String, f64, Line)>, String) {
    let (mut lines, mut left_out) = (Vec::new(), String::new());
    let span = |low: f64, high: f64| if high / low > 4.0 { (high / low).ln() } else { (high - low) / low };
    let data = span(low, high).max(0.01);
    let outside = if comparison.facets().len() > 1 { "Outside some panel" } else { "Outside the plot" };
    for reference in &comparison.references {
        let Reference { name, role, perplexity: Some(value), .. } = reference else { continue };
        let teacher = role == "teacher";
        let crowded = comparison.facets().iter().any(|(_, cells)| cells.len() > CROWD);
        let room = if crowded { CROWD_ROOM } else { room_of(teacher) };
        let title = if teacher { format!("{name} (teacher)") } else { name.clone() };
        if data >= room * span(low.min(*value), high.max(*value)) {
            lines.push((title, *value, if teacher { Line::Dashed } else { Line::Dotted }));
        } else {
            left_out.push_str(&format!(" {outside}: {title} at {}.", number(*value)));
        }
    }
    (lines, left_out)
}
