//! Linear and logarithmic axes with their own ticks, and the plot area that they span.

use anyhow::Result;
use hydrometer_base::units::quantity;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Canvas, FAINT, GRID, INK, Line, UNIT, drawing, font, stroke, write};

/// A range of values on a scale.
#[derive(Clone, Copy)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    log: bool,
}

impl Axis {
    /// The range from `low` to `high`, widened if it is empty, and by the fraction `margin` of its length at both ends.
    pub fn over(low: f64, high: f64, margin: f64) -> Self {
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        let (low, high) =
            if high > low { (low, high) } else { (low - low.abs().max(1.0) * 0.05, low + low.abs().max(1.0) * 0.05) };
        let extra = (high - low) * margin;
        Self { low: low - extra, high: high + extra, log: false }
    }

    /// As [`Axis::over`], but logarithmic if the values span more than a factor of four.
    pub fn adaptive(low: f64, high: f64, margin: f64) -> Self {
        if low > 0.0 && high / low > 4.0 {
            let extra = (high / low).powf(margin);
            Self { low: low / extra, high: high * extra, log: true }
        } else {
            Self::over(low, high, margin)
        }
    }

    pub fn is_log(&self) -> bool {
        self.log
    }

    /// The position of `value` between the ends, from 0 to 1; values outside are clamped.
    fn part(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        part.clamp(0.0, 1.0)
    }

    /// Round values inside the range, about `count` of them.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.log {
            // The densest digits that leave room for the labels.
            let inside = |digits: &[f64]| -> Vec<f64> {
                let all = (-12..27).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
                all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
            };
            let sets: [&[f64]; 5] =
                [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], &[1.0, 2.0, 3.0, 5.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
            return sets.into_iter().map(inside).find(|ticks| ticks.len() <= count).unwrap_or_else(|| {
                let all = inside(&[1.0]);
                all.iter().copied().step_by(all.len().div_ceil(count.max(1)).max(1)).collect()
            });
        }
        let rough = (self.high - self.low) / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(rough);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last.min(first + 40)).map(|at| at as f64 * step).collect()
    }
}

/// The plot area: CSS pixels of its edges and its two axes.
pub struct Area<'c, 'b> {
    pub canvas: &'c Canvas<'b>,
    pub left: i32,
    pub right: i32,
    pub top: i32,
    pub bottom: i32,
    pub x: Axis,
    pub y: Axis,
}

impl Area<'_, '_> {
    /// Drawing units of a point.
    pub fn place(&self, x: f64, y: f64) -> (i32, i32) {
        let mix = |from: i32, to: i32, part: f64| (f64::from(from * UNIT) + f64::from((to - from) * UNIT) * part).round() as i32;
        (mix(self.left, self.right, self.x.part(x)), mix(self.bottom, self.top, self.y.part(y)))
    }

    /// Vertical grid lines with their ticks and the axis's name below.
    pub fn grid_x(&self, name: &str) -> Result<()> {
        for tick in self.x.ticks(((self.right - self.left) / 75).clamp(3, 8) as usize) {
            let (x, _) = self.place(tick, self.y.low);
            stroke(self.canvas, (x, self.top * UNIT), (x, self.bottom * UNIT), GRID, 2, Line::Solid)?;
            write(self.canvas, &tick_label(tick), font(12, FAINT), (x / UNIT, self.bottom + 8), (HPos::Center, VPos::Top))?;
        }
        stroke(self.canvas, self.place(self.x.low, self.y.low), self.place(self.x.high, self.y.low), FAINT, 2, Line::Solid)?;
        let middle = (self.left + self.right) / 2;
        write(self.canvas, name, font(12, INK), (middle, self.bottom + 30), (HPos::Center, VPos::Top))
    }

    /// Horizontal grid lines with their ticks and the axis's name at the side.
    pub fn grid_y(&self, name: &str) -> Result<()> {
        for tick in self.y.ticks(((self.bottom - self.top) / 34).clamp(3, 8) as usize) {
            let (_, y) = self.place(self.x.low, tick);
            stroke(self.canvas, (self.left * UNIT, y), (self.right * UNIT, y), GRID, 2, Line::Solid)?;
            write(self.canvas, &tick_label(tick), font(12, FAINT), (self.left - 8, y / UNIT), (HPos::Right, VPos::Center))?;
        }
        let turned = font(12, INK).transform(FontTransform::Rotate270);
        write(self.canvas, name, turned, (self.left - 54, (self.top + self.bottom) / 2), (HPos::Center, VPos::Top))
    }

    /// A line through the finite points, clipped at the top of the plot.
    pub fn path(&self, points: &[(f64, f64)], colour: RGBColor, width: i32, opacity: f64, line: Line) -> Result<()> {
        let points = self.below_top(points);
        let style = colour.mix(opacity).stroke_width((width * UNIT / 2) as u32);
        let placed: Vec<(i32, i32)> = points.into_iter().map(|(x, y)| self.place(x, y)).collect();
        if placed.len() < 2 {
            return Ok(());
        }
        for dash in dashes(&placed, line) {
            self.canvas.draw(&PathElement::new(dash, style)).map_err(drawing)?;
        }
        Ok(())
    }

    fn below_top(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let mut kept = Vec::new();
        for (at, &(x, y)) in finite.iter().enumerate() {
            if let Some(&(x0, y0)) = at.checked_sub(1).and_then(|before| finite.get(before))
                && (y0 > self.y.high) != (y > self.y.high)
            {
                kept.push((x0 + (x - x0) * (self.y.high - y0) / (y - y0), self.y.high));
            }
            if y <= self.y.high {
                kept.push((x, y));
            }
        }
        kept
    }

    /// The band between two lines over the same x.
    pub fn band(&self, points: &[(f64, f64, f64)], colour: RGBColor, opacity: f64) -> Result<()> {
        let finite = || points.iter().filter(|(x, low, high)| x.is_finite() && low.is_finite() && high.is_finite());
        let mut outline: Vec<(i32, i32)> = finite().map(|&(x, low, _)| self.place(x, low)).collect();
        outline.extend(finite().rev().map(|&(x, _, high)| self.place(x, high)));
        if outline.len() < 4 {
            return Ok(());
        }
        self.canvas.draw(&Polygon::new(outline, colour.mix(opacity))).map_err(drawing)
    }

    /// A dot of `radius` CSS pixels; a ring if the arm's lines are dashed.
    pub fn dot(&self, x: f64, y: f64, radius: i32, colour: RGBColor, line: Line) -> Result<()> {
        let at = self.place(x, y);
        self.canvas.draw(&Circle::new(at, radius * UNIT, colour.filled())).map_err(drawing)?;
        if line == Line::Solid {
            return Ok(());
        }
        self.canvas.draw(&Circle::new(at, (radius * UNIT) / 2, WHITE.filled())).map_err(drawing)
    }
}

/// The strokes of a polyline drawn as `line`.
fn dashes(points: &[(i32, i32)], line: Line) -> Vec<Vec<(i32, i32)>> {
    let (dash, gap) = line.pattern();
    if line == Line::Solid {
        return vec![points.to_vec()];
    }
    let (mut all, mut stroke) = (Vec::new(), vec![points[0]]);
    let (mut drawn, mut left) = (true, f64::from(dash * UNIT));
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let length = f64::from(x1 - x0).hypot(f64::from(y1 - y0));
        let mut along = 0.0;
        while length - along > left {
            along += left;
            let mix = |a: i32, b: i32| (f64::from(a) + f64::from(b - a) * along / length).round() as i32;
            let here = (mix(x0, x1), mix(y0, y1));
            if drawn {
                stroke.push(here);
                all.push(std::mem::take(&mut stroke));
            } else {
                stroke = vec![here];
            }
            drawn = !drawn;
            left = f64::from(UNIT * if drawn { dash } else { gap });
        }
        left -= length - along;
        if drawn {
            stroke.push((x1, y1));
        }
    }
    if drawn && stroke.len() > 1 {
        all.push(stroke);
    }
    all
}

fn tick_label(value: f64) -> String {
    if value != 0.0 && value.abs() < 1.0 {
        let text = format!("{value:.3}");
        return text.trim_end_matches('0').replace('-', "−");
    }
    // Ticks of a narrow range differ in late digits: 85.25 must not be shown as 85.2.
    if value.abs() < 1000.0 {
        let text = format!("{value:.3}");
        return text.trim_end_matches('0').trim_end_matches('.').replace('-', "−");
    }
    quantity(value)
}
