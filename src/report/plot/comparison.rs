//! Final perplexity of every cell.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Area, Axis};
use super::perplexity::reference_lines;
use super::{GRID, INK, Key, Line, Palette, Plot, TEACHER, UNIT, WIDTH, draw, drawing, font, heading, nothing, stroke};
use super::{text_width, write};
use crate::report::comparison::Comparison;
use crate::report::format::{fixed, perplexity as number, shorten};

const ROW: i32 = 46;

/// A row a cell: a dot a seed, the mean and its interval.
pub fn plot(comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Final held-out perplexity";
    let cells = &comparison.cells;
    let dots = || cells.iter().flat_map(|cell| cell.seeds.iter().map(|seed| seed.perplexity));
    let ends = || {
        let bounds = |cell: &crate::report::comparison::Cell| cell.perplexity.map(|e| [e.low, e.high]);
        cells.iter().filter_map(bounds).flatten().flatten().filter(|end| *end > 0.0)
    };
    let low = dots().chain(ends()).fold(f64::INFINITY, f64::min);
    let high = dots().chain(ends()).fold(f64::NEG_INFINITY, f64::max);
    let (lines, left_out) = reference_lines(comparison, low, high);
    let low = lines.iter().map(|line| line.1).fold(low, f64::min);
    let high = lines.iter().map(|line| line.1).fold(high, f64::max);
    let x = Axis::adaptive(low, high, 0.06);
    let scale = if x.is_log() { " The axis is logarithmic." } else { "" };
    let keys: Vec<Key> = lines.iter().map(|(name, _, line)| Key { name: name.clone(), colour: TEACHER, line: *line }).collect();
    let height = if keys.is_empty() { 44 } else { 76 } + ROW * cells.len().max(3) as i32 + 62;

    let svg = draw("comparison", title, height, |canvas| {
        let top = heading(canvas, title, &keys)?;
        if dots().next().is_none() {
            return nothing(canvas, "no evaluation of a finished run", height);
        }
        let names: Vec<String> = cells.iter().map(|cell| shorten(&cell.label, 34)).collect();
        let left = names.iter().map(|name| text_width(canvas, name, 13)).max().unwrap_or(0) + 30;
        let y = Axis::over(0.0, cells.len() as f64, 0.0);
        let area = Area { canvas, left, right: WIDTH - 84, top: top + 4, bottom: height - 58, x, y };
        area.grid_x("perplexity, lower is better")?;
        for (_, value, line) in &lines {
            stroke(canvas, area.place(*value, area.y.low), area.place(*value, area.y.high), TEACHER, 3, *line)?;
        }
        for (at, (cell, name)) in cells.iter().zip(&names).enumerate() {
            let row = cells.len() as f64 - at as f64 - 0.5;
            let colour = palette.colour(&cell.label);
            let (_, y) = area.place(area.x.low, row);
            write(canvas, name, font(13, INK), (left - 14, y / UNIT), (HPos::Right, VPos::Center))?;
            stroke(canvas, (left * UNIT, y), (area.right * UNIT, y), GRID, 2, Line::Solid)?;
            let Some(estimate) = cell.perplexity else {
                write(canvas, "no finished run", font(12, TEACHER), (left + 8, y / UNIT - 10), (HPos::Left, VPos::Center))?;
                continue;
            };
            let (middle, _) = area.place(estimate.mean, row);
            if let Some((low, high)) = estimate.low.zip(estimate.high) {
                let (from, to) = (area.place(low, row).0, area.place(high, row).0);
                stroke(canvas, (from, y), (to, y), colour, 5, Line::Solid)?;
                for end in [from, to] {
                    stroke(canvas, (end, y - 6 * UNIT), (end, y + 6 * UNIT), colour, 4, Line::Solid)?;
                }
            }
            // Seeds stand below the interval, where they hide neither it nor the mean.
            for seed in &cell.seeds {
                let (x, _) = area.place(seed.perplexity, row);
                canvas.draw(&Circle::new((x, y + 13 * UNIT), 7 * UNIT / 2, colour.mix(0.55).filled())).map_err(drawing)?;
            }
            canvas.draw(&Circle::new((middle, y), 6 * UNIT, colour.filled())).map_err(drawing)?;
            canvas.draw(&Circle::new((middle, y), 5 * UNIT / 2, WHITE.filled())).map_err(drawing)?;
            let value = number(estimate.mean);
            write(canvas, &value, font(13, INK), (area.right + 12, y / UNIT), (HPos::Left, VPos::Center))?;
        }
        Ok(())
    })?;
    let level = fixed(comparison.level * 100.0, 0);
    let caption = format!(
        "Perplexity on held-out text after training, lower is better: the mean over seeds (ring), its {level}% Student t interval \
         (bar), and each seed (dots below). Arms share seeds, so overlapping bars do not rule out a difference: see the paired \
         differences in the table.{scale}{left_out}"
    );
    Ok(Plot { name: "comparison", title: title.into(), caption, svg })
}
