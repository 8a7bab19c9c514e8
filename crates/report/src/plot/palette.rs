//! The colour and line style of an arm, the same in all plots.

use hydrometer_record::provenance::Provenance;
use plotters::prelude::RGBColor;

use super::{FAINT, Line};
use crate::cell::Cell;
use crate::comparison::Comparison;

/// Okabe & Ito 2008, "Color Universal Design", without its yellow, which is faint on white. Not everyone can distinguish more
/// colours, so further arms reuse them with dashed lines, and with rings instead of dots.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x33, 0x33, 0x33),
];
const LINES: [Line; 3] = [Line::Solid, Line::Dashed, Line::Dotted];

/// Colour and line of each arm of a facet: its method's colour, lighter for each further arm of the method.
pub struct Palette(Vec<(String, RGBColor, Line)>);

impl Palette {
    pub fn of(comparison: &Comparison, provenance: &Provenance) -> Self {
        let mut methods: Vec<&str> = provenance.methods.iter().map(|method| method.name.as_str()).collect();
        let mut arms: Vec<&Cell> = Vec::new();
        for cell in &comparison.cells {
            if !methods.contains(&cell.method.as_str()) {
                methods.push(&cell.method);
            }
            if !arms.iter().any(|known| known.arm == cell.arm) {
                arms.push(cell);
            }
        }
        let style = |(at, cell): (usize, &&Cell)| {
            let method = methods.iter().position(|name| *name == cell.method).unwrap_or(0);
            let before = arms[..at].iter().filter(|other| other.method == cell.method).count();
            let of_method = arms.iter().filter(|other| other.method == cell.method).count();
            let white = 0.6 * before as f64 / of_method.max(1) as f64;
            let RGBColor(r, g, b) = COLOURS[method % COLOURS.len()];
            let mix = |part: u8| (f64::from(part) * (1.0 - white) + 255.0 * white).round() as u8;
            (cell.arm.clone(), RGBColor(mix(r), mix(g), mix(b)), LINES[method / COLOURS.len() % LINES.len()])
        };
        Self(arms.iter().enumerate().map(style).collect())
    }

    pub(super) fn style(&self, cell: &Cell) -> (RGBColor, Line) {
        self.0.iter().find(|(name, ..)| *name == cell.arm).map_or((FAINT, Line::Solid), |(_, colour, line)| (*colour, *line))
    }

    /// `#RRGGBB`, in capitals as in the plots.
    pub fn hex(&self, cell: &Cell) -> String {
        let (RGBColor(r, g, b), _) = self.style(cell);
        format!("#{r:02X}{g:02X}{b:02X}")
    }

    pub fn is_dashed(&self, cell: &Cell) -> bool {
        self.style(cell).1 != Line::Solid
    }
}
