//! Rows of estimates with their intervals, one panel per facet.

use anyhow::Result;
use hydrometer_base::units::shorten;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Area, Axis};
use super::{
    GRID, INK, Key, Line, TEACHER, UNIT, WIDTH, bold, draw, drawing, font, heading, heading_height, nothing, stroke, text_width,
    write,
};

/// An arm's row.
pub struct Row {
    pub name: String,
    pub style: (RGBColor, Line),
    /// Mean and interval; without them the row shows `missing`.
    pub found: Option<(f64, Option<(f64, f64)>)>,
    /// The mean as text at the right.
    pub value: String,
    pub missing: String,
    /// Single values, drawn below.
    pub dots: Vec<f64>,
}

/// A facet's rows with their own axis.
pub struct Panel {
    pub title: String,
    pub rows: Vec<Row>,
    pub x: Axis,
    /// Lines across all rows.
    pub lines: Vec<(f64, Line)>,
}

/// All panels, one below the other.
pub fn draw_panels(id: &str, title: &str, axis: &str, panels: &[Panel], keys: &[Key], empty: &str) -> Result<String> {
    let crowded = panels.iter().map(|panel| panel.rows.len()).sum::<usize>() > 8;
    let (row, below) = if crowded { (30, 9) } else { (46, 13) };
    let titled = |panel: &Panel| if panel.title.is_empty() { 0 } else { 26 };
    let tall = |panel: &Panel| titled(panel) + row * panel.rows.len().max(2) as i32 + 62;
    let height = heading_height(keys) + 4 + panels.iter().map(tall).sum::<i32>();
    draw(id, title, height, |canvas| {
        let mut top = heading(canvas, title, keys)?;
        if panels.iter().all(|panel| panel.rows.iter().all(|row| row.found.is_none())) {
            return nothing(canvas, empty, height);
        }
        let shown: Vec<Vec<String>> =
            panels.iter().map(|panel| panel.rows.iter().map(|row| shorten(&row.name, 34)).collect()).collect();
        let left = shown.iter().flatten().map(|name| text_width(name, 13)).max().unwrap_or(0) + 30;
        let values = panels.iter().flat_map(|panel| &panel.rows).map(|row| text_width(&row.value, 13)).max().unwrap_or(0);
        for (panel, names) in panels.iter().zip(&shown) {
            let (from, to) = (top + 4 + titled(panel), top + tall(panel) - 58);
            if !panel.title.is_empty() {
                write(canvas, &panel.title, bold(13), (16, top + 8), (HPos::Left, VPos::Top))?;
            }
            top += tall(panel);
            let y = Axis::over(0.0, panel.rows.len() as f64, 0.0);
            let area = Area { canvas, left, right: WIDTH - 24 - values, top: from, bottom: to, x: panel.x, y };
            area.grid_x(axis)?;
            for (value, line) in &panel.lines {
                stroke(canvas, area.place(*value, area.y.low), area.place(*value, area.y.high), TEACHER, 3, *line)?;
            }
            for (at, (row, name)) in panel.rows.iter().zip(names).enumerate() {
                draw_row(&area, row, name, panel.rows.len() as f64 - at as f64 - 0.5, below)?;
            }
        }
        Ok(())
    })
}

fn draw_row(area: &Area, row: &Row, name: &str, place: f64, below: i32) -> Result<()> {
    let (canvas, left, (colour, line)) = (area.canvas, area.left, row.style);
    let (_, y) = area.place(area.x.low, place);
    write(canvas, name, font(13, INK), (left - 14, y / UNIT), (HPos::Right, VPos::Center))?;
    stroke(canvas, (left * UNIT, y), (area.right * UNIT, y), GRID, 2, Line::Solid)?;
    let Some((mean, interval)) = row.found else {
        return write(canvas, &row.missing, font(12, TEACHER), (left + 8, y / UNIT - 9), (HPos::Left, VPos::Center));
    };
    if let Some((low, high)) = interval {
        let (from, to) = (area.place(low, place).0, area.place(high, place).0);
        stroke(canvas, (from, y), (to, y), colour, 5, line)?;
        for end in [from, to] {
            stroke(canvas, (end, y - 5 * UNIT), (end, y + 5 * UNIT), colour, 4, Line::Solid)?;
        }
    }
    // Single values are drawn below the interval, so that they hide neither it nor the mean.
    for value in &row.dots {
        let (x, _) = area.place(*value, place);
        canvas.draw(&Circle::new((x, y + below * UNIT), 3 * UNIT, colour.mix(0.55).filled())).map_err(drawing)?;
    }
    let (middle, _) = area.place(mean, place);
    canvas.draw(&Circle::new((middle, y), 6 * UNIT, colour.filled())).map_err(drawing)?;
    canvas.draw(&Circle::new((middle, y), 5 * UNIT / 2, WHITE.filled())).map_err(drawing)?;
    write(canvas, &row.value, font(13, INK), (area.right + 12, y / UNIT), (HPos::Left, VPos::Center))
}
