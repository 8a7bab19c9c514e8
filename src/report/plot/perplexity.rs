//! Held-out perplexity against tokens.

use anyhow::Result;
use plotters::prelude::RGBColor;

use super::axis::{Area, Axis};
use super::{Key, Line, Palette, Plot, TEACHER, WIDTH, draw, heading, legend_rows, nothing, stroke};
use crate::report::comparison::{Comparison, Reference};
use crate::report::format::perplexity as number;
use crate::report::input::Input;

/// A reference's line is drawn where it leaves the arms at least this part of the axis.
const TEACHER_ROOM: f64 = 0.2;
const UNIGRAM_ROOM: f64 = 0.6;

/// Perplexity at each evaluation: mean over seeds with the band from the lowest to the highest seed.
pub fn plot(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Held-out perplexity during training";
    let mut cells: Vec<(Vec<(f64, f64, f64, f64)>, RGBColor)> = Vec::new();
    let mut keys = Vec::new();
    for cell in &comparison.cells {
        let runs = cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| run.ok());
        let evals = runs.flat_map(|run| &run.evals).filter(|eval| eval.split == comparison.split);
        let mut points: Vec<(f64, f64)> = evals.map(|eval| (eval.tokens, eval.perplexity)).collect();
        points.retain(|(x, y)| x.is_finite() && y.is_finite());
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Before the first step every arm is the same.
        if points.iter().any(|point| point.0 > 0.0) {
            points.retain(|point| point.0 > 0.0);
        }
        if points.is_empty() {
            continue;
        }
        let over_seeds = points.chunk_by(|a, b| a.0 == b.0).map(|near| {
            let values = || near.iter().map(|point| point.1);
            let mean = values().sum::<f64>() / near.len() as f64;
            (near[0].0, mean, values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        });
        let colour = palette.colour(&cell.label);
        cells.push((over_seeds.collect(), colour));
        keys.push(Key { name: cell.label.clone(), colour, line: Line::Solid });
    }
    let points = || cells.iter().flat_map(|(points, _)| points);
    let low = points().map(|point| point.2).fold(f64::INFINITY, f64::min);
    let high = points().map(|point| point.3).fold(f64::NEG_INFINITY, f64::max);
    let last = points().map(|point| point.0).fold(0.0, f64::max);
    let (lines, left_out) = reference_lines(comparison, low, high);
    keys.extend(lines.iter().map(|(name, _, line)| Key { name: name.clone(), colour: TEACHER, line: *line }));
    let low = lines.iter().map(|line| line.1).fold(low, f64::min);
    let high = lines.iter().map(|line| line.1).fold(high, f64::max);
    let y = Axis::adaptive(low, high, 0.05);
    let scale = if y.is_log() { " The vertical axis is logarithmic." } else { "" };

    let height = 420 + 20 * legend_rows(&keys);
    let svg = draw("perplexity", title, height, |canvas| {
        let top = heading(canvas, title, &keys)?;
        if cells.is_empty() {
            return nothing(canvas, "no evaluation of a finished run", height);
        }
        let x = Axis::over(0.0, last * 1.01, 0.0);
        let area = Area { canvas, left: 66, right: WIDTH - 24, top: top + 4, bottom: height - 58, x, y };
        area.grid_y("perplexity")?;
        area.grid_x("target tokens trained on")?;
        for (_, value, line) in &lines {
            stroke(canvas, area.place(area.x.low, *value), area.place(area.x.high, *value), TEACHER, 3, *line)?;
        }
        for (points, colour) in &cells {
            let band: Vec<(f64, f64, f64)> = points.iter().map(|&(x, _, low, high)| (x, low, high)).collect();
            area.band(&band, *colour)?;
        }
        for (points, colour) in &cells {
            let line: Vec<(f64, f64)> = points.iter().map(|&(x, mean, ..)| (x, mean)).collect();
            area.path(&line, *colour, 4, 1.0)?;
            for (x, y) in line {
                area.dot(x, y, 4, *colour, 1.0)?;
            }
        }
        Ok(())
    })?;
    let caption = format!(
        "Perplexity on held-out text at each evaluation: mean over the finished runs; the band spans the lowest and the highest \
         seed.{scale}{left_out}"
    );
    Ok(Plot { name: "perplexity", title: title.into(), caption, svg })
}

/// The lines of teachers and baseline that leave room for `low` to `high`, and a sentence on those that do not.
pub fn reference_lines(comparison: &Comparison, low: f64, high: f64) -> (Vec<(String, f64, Line)>, String) {
    let (mut lines, mut left_out) = (Vec::new(), String::new());
    let span = |low: f64, high: f64| if high / low > 4.0 { (high / low).ln() } else { (high - low) / low };
    let data = span(low, high).max(0.01);
    for reference in &comparison.references {
        let Reference { name, role, perplexity: Some(value), .. } = reference else { continue };
        let teacher = role == "teacher";
        let room = if teacher { TEACHER_ROOM } else { UNIGRAM_ROOM };
        let title = if teacher { format!("{name} (teacher)") } else { name.clone() };
        if data >= room * span(low.min(*value), high.max(*value)) {
            lines.push((title, *value, if teacher { Line::Dashed } else { Line::Dotted }));
        } else {
            left_out.push_str(&format!(" Outside the plot: {title} at {}.", number(*value)));
        }
    }
    (lines, left_out)
}
