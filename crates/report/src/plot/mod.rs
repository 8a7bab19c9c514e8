//! Plots as SVG with real text. An arm has one colour everywhere.

mod axis;
mod budget;
mod curves;
mod difference;
mod final_perplexity;
mod forest;
mod loss;
mod palette;
mod perplexity;

use std::sync::Once;

use anyhow::{Result, anyhow};
use hydrometer_base::text::visible;
use hydrometer_base::units::html;
use hydrometer_record::provenance::Provenance;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::comparison::Comparison;
use super::input::Input;
use super::png::{BOLD, FAMILY, REGULAR};

/// A finished plot.
pub struct Plot {
    pub name: &'static str,
    pub title: String,
    pub caption: String,
    pub svg: String,
}

pub use palette::Palette;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Drawing units per CSS pixel; the backend only supports whole units.
const UNIT: i32 = 4;
const WIDTH: i32 = 860;
const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
const FAINT: RGBColor = RGBColor(0x5f, 0x66, 0x6e);
const GRID: RGBColor = RGBColor(0xe4, 0xe6, 0xe9);
const TEACHER: RGBColor = RGBColor(0x77, 0x77, 0x77);

/// The plots of a report in order, without those that would show nothing new.
pub fn all(input: &Input, comparison: &Comparison, provenance: &Provenance) -> Result<Vec<Plot>> {
    let palette = Palette::of(comparison, provenance);
    let plots = [
        difference::plot(comparison, &palette)?,
        Some(final_perplexity::plot(comparison, &palette)?),
        Some(perplexity::plot(input, comparison, &palette)?),
        budget::against_data(comparison, &palette)?,
        Some(budget::against_flops(input, comparison, &palette)?),
        Some(loss::hard(input, comparison, &palette)?),
        loss::own(input, comparison, &palette)?,
    ];
    Ok(plots.into_iter().flatten().collect())
}

/// An entry of a legend.
struct Key {
    name: String,
    colour: RGBColor,
    line: Line,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Solid,
    Dashed,
    Dotted,
}

impl Line {
    /// Stroke and gap in CSS pixels.
    fn pattern(self) -> (i32, i32) {
        match self {
            Self::Solid => (1, 0),
            Self::Dashed => (7, 5),
            Self::Dotted => (2, 4),
        }
    }
}

fn register_fonts() {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let _ = plotters::style::register_font(FAMILY, FontStyle::Normal, REGULAR);
        let _ = plotters::style::register_font(FAMILY, FontStyle::Bold, BOLD);
    });
}

/// Draws on a white canvas of `height` CSS pixels and returns its SVG.
fn draw(name: &str, title: &str, height: i32, paint: impl FnOnce(&Canvas<'_>) -> Result<()>) -> Result<String> {
    register_fonts();
    let (width, tall) = ((WIDTH * UNIT) as u32, (height * UNIT) as u32);
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (width, tall)).into_drawing_area();
        canvas.fill(&WHITE).map_err(drawing)?;
        paint(&canvas)?;
        canvas.present().map_err(drawing)?;
    }
    let drawn = format!("<svg width=\"{width}\" height=\"{tall}\"");
    let id = format!("plot-{name}-title");
    let sized = format!("<svg width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"{id}\"");
    let svg = svg
        .replacen(&drawn, &sized, 1)
        .replace(&format!("font-family=\"{FAMILY}\""), &format!("font-family=\"{FAMILY}, Helvetica, Arial, sans-serif\""));
    let head = svg.find('>').map_or(0, |at| at + 1);
    Ok(format!("{}\n<title id=\"{id}\">{}</title>{}", &svg[..head], html(title), &svg[head..]))
}

fn drawing<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}

fn font(size: i32, colour: RGBColor) -> TextStyle<'static> {
    // The backend writes a font size of `size / 1.24`.
    let style = TextStyle::from((FAMILY, f64::from(size * UNIT) * 1.24));
    TextStyle { color: colour.to_backend_color(), ..style }
}

fn bold(size: i32) -> TextStyle<'static> {
    TextStyle::from((FAMILY, f64::from(size * UNIT) * 1.24, FontStyle::Bold)).color(&INK)
}

/// Writes `text` with its anchor at (`x`, `y`) CSS pixels.
fn write(canvas: &Canvas<'_>, text: &str, style: TextStyle<'_>, at: (i32, i32), anchor: (HPos, VPos)) -> Result<()> {
    let style = style.pos(Pos::new(anchor.0, anchor.1));
    canvas.draw(&Text::new(visible(text), (at.0 * UNIT, at.1 * UNIT), style)).map_err(drawing)
}

/// A straight line in drawing units.
fn stroke(canvas: &Canvas<'_>, from: (i32, i32), to: (i32, i32), colour: RGBColor, width: i32, line: Line) -> Result<()> {
    let style = colour.stroke_width((width * UNIT / 2).max(1) as u32);
    if line == Line::Solid {
        return canvas.draw(&PathElement::new(vec![from, to], style)).map_err(drawing);
    }
    let (dash, gap) = line.pattern();
    let length = f64::from(to.0 - from.0).hypot(f64::from(to.1 - from.1));
    let at = |along: f64| {
        let part = (along / length).min(1.0);
        let mix = |a: i32, b: i32| (f64::from(a) + f64::from(b - a) * part).round() as i32;
        (mix(from.0, to.0), mix(from.1, to.1))
    };
    let mut along = 0.0;
    while along < length {
        canvas.draw(&PathElement::new(vec![at(along), at(along + f64::from(dash * UNIT))], style)).map_err(drawing)?;
        along += f64::from((dash + gap) * UNIT);
    }
    Ok(())
}

/// Width of `text` in CSS pixels.
fn text_width(text: &str, size: i32) -> i32 {
    register_fonts();
    let ((left, _), (right, _)) = font(size, INK).font.layout_box(text).unwrap_or_default();
    // `font` enlarges the text by this factor.
    (f64::from((right - left) / UNIT) / 1.24).ceil() as i32 + 1
}

/// The position of each entry of a legend, and its shortened name.
fn legend(keys: &[Key]) -> Vec<((i32, i32), String)> {
    let (mut x, mut y) = (16, 54);
    let place = |key: &Key| {
        let name = hydrometer_base::units::shorten(&key.name, 60);
        let width = 24 + 6 + text_width(&name, 12) + 18;
        if x > 16 && x + width > WIDTH - 8 {
            (x, y) = (16, y + 20);
        }
        let at = (x, y);
        x += width;
        (at, name)
    };
    keys.iter().map(place).collect()
}

/// Height of title and legend in CSS pixels.
fn heading_height(keys: &[Key]) -> i32 {
    legend(keys).last().map_or(44, |((_, y), _)| y + 18)
}

/// Draws title and legend above the plot; returns the CSS pixel where they end.
fn heading(canvas: &Canvas<'_>, title: &str, keys: &[Key]) -> Result<i32> {
    write(canvas, title, bold(16), (16, 16), (HPos::Left, VPos::Top))?;
    for (key, ((x, y), name)) in keys.iter().zip(legend(keys)) {
        stroke(canvas, (x * UNIT, y * UNIT), ((x + 24) * UNIT, y * UNIT), key.colour, 5, key.line)?;
        write(canvas, &name, font(12, INK), (x + 30, y), (HPos::Left, VPos::Center))?;
    }
    Ok(heading_height(keys))
}

/// Writes in the middle of the plot that there is nothing to draw.
fn nothing(canvas: &Canvas<'_>, text: &str, height: i32) -> Result<()> {
    write(canvas, text, font(14, FAINT), (WIDTH / 2, height / 2), (HPos::Center, VPos::Center))
}
