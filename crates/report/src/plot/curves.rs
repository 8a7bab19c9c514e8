//! Lines with bands, one panel per facet with a shared legend.

use anyhow::Result;
use plotters::prelude::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{Area, Axis};
use super::{Canvas, Key, Line, TEACHER, WIDTH, bold, draw, heading, heading_height, nothing, stroke, write};

/// Up to this number of lines, a panel draws them thicker and their bands darker.
const FEW: usize = 4;

/// x, mean, lowest and highest.
pub type Point = (f64, f64, f64, f64);

/// A cell's line.
pub struct Series {
    pub points: Vec<Point>,
    pub style: (RGBColor, Line),
    /// Whether each point gets a dot.
    pub dots: bool,
}

pub struct Panel {
    pub title: String,
    pub series: Vec<Series>,
    /// Runs that did not finish, as thin lines.
    pub broken: Vec<(Vec<(f64, f64)>, RGBColor)>,
    /// Horizontal lines.
    pub lines: Vec<(f64, Line)>,
    pub x: Axis,
    pub y: Axis,
}

/// Names of a plot's axes.
pub struct Names<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// The text if there is nothing to draw.
    pub empty: &'a str,
}

/// Mean, lowest and highest at each x of the finite among `points`.
pub fn over_seeds(mut points: Vec<(f64, f64)>) -> Vec<Point> {
    points.retain(|(x, y)| x.is_finite() && y.is_finite());
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let near = points.chunk_by(|a, b| a.0 == b.0);
    near.map(|near| {
        let values = || near.iter().map(|point| point.1);
        let mean = values().sum::<f64>() / near.len() as f64;
        (near[0].0, mean, values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    })
    .collect()
}

/// The lowest and the highest of `values`.
pub fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.filter(|value| value.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)))
}

/// All panels: a single one takes the whole width, several are in two columns.
pub fn draw_panels(id: &str, title: &str, names: &Names, panels: &[Panel], keys: &[Key]) -> Result<String> {
    let columns = if panels.len() > 1 { 2 } else { 1 };
    let tall = if columns == 1 { 346 } else { 300 };
    let rows = panels.len().div_ceil(columns).max(1) as i32;
    let height = heading_height(keys) + 4 + rows * tall;
    draw(id, title, height, |canvas| {
        let top = heading(canvas, title, keys)?;
        if panels.iter().all(|panel| panel.series.is_empty() && panel.broken.is_empty()) {
            return nothing(canvas, names.empty, height);
        }
        let wide = WIDTH / columns as i32;
        for (at, panel) in panels.iter().enumerate() {
            let (column, row) = ((at % columns) as i32, (at / columns) as i32);
            let (left, from) = (column * wide, top + row * tall);
            let titled = if panel.title.is_empty() { 0 } else { 22 };
            if titled > 0 {
                write(canvas, &panel.title, bold(13), (left + 66, from + 4), (HPos::Left, VPos::Top))?;
            }
            let place = (left + 66, left + wide - 20, from + 4 + titled, from + tall - 56);
            draw_panel(canvas, panel, names, place)?;
        }
        Ok(())
    })
}

fn draw_panel(canvas: &Canvas, panel: &Panel, names: &Names, (left, right, top, bottom): (i32, i32, i32, i32)) -> Result<()> {
    if panel.series.is_empty() && panel.broken.is_empty() {
        let middle = ((left + right) / 2, (top + bottom) / 2);
        return write(canvas, names.empty, super::font(12, TEACHER), middle, (HPos::Center, VPos::Center));
    }
    let area = Area { canvas, left, right, top, bottom, x: panel.x, y: panel.y };
    area.grid_y(names.y)?;
    area.grid_x(names.x)?;
    for (value, line) in &panel.lines {
        stroke(canvas, area.place(area.x.low, *value), area.place(area.x.high, *value), TEACHER, 3, *line)?;
    }
    let few = panel.series.len() <= FEW;
    for Series { points, style: (colour, _), .. } in &panel.series {
        let band: Vec<(f64, f64, f64)> = points.iter().map(|&(x, _, low, high)| (x, low, high)).collect();
        area.band(&band, *colour, if few { 0.16 } else { 0.07 })?;
    }
    for (points, colour) in &panel.broken {
        area.path(points, *colour, 2, 0.6, Line::Solid)?;
    }
    for Series { points, style: (colour, line), dots } in &panel.series {
        let path: Vec<(f64, f64)> = points.iter().map(|&(x, mean, ..)| (x, mean)).collect();
        area.path(&path, *colour, if few { 4 } else { 3 }, 1.0, *line)?;
        for (x, y) in path.into_iter().filter(|(x, y)| *dots && x.is_finite() && y.is_finite()) {
            area.dot(x, y, if few { 4 } else { 3 }, *colour, *line)?;
        }
    }
    Ok(())
}
