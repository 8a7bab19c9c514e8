//! Final perplexity of every cell.

use anyhow::Result;
use hydrometer_base::units::{fixed, perplexity as number};

use super::axis::Axis;
use super::forest::{Panel, Row, draw_panels};
use super::perplexity::reference_lines;
use super::{Key, Palette, Plot, TEACHER};
use crate::cell::Cell;
use crate::comparison::Comparison;

/// One row per cell: one dot per seed, the mean and its interval.
pub fn plot(comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Final held-out perplexity";
    let (mut keys, mut left_out, mut log): (Vec<Key>, String, bool) = Default::default();
    let panel = |(title, cells): (String, Vec<&Cell>)| {
        let dots = cells.iter().flat_map(|cell| cell.seeds.iter().map(|seed| seed.perplexity));
        let ends = cells.iter().filter_map(|cell| cell.perplexity).flat_map(|found| [found.low, found.high]).flatten();
        let all: Vec<f64> = dots.chain(ends.filter(|end| *end > 0.0)).collect();
        let (low, high) =
            (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let (lines, outside) = reference_lines(comparison, low, high);
        for (name, _, line) in &lines {
            if !keys.iter().any(|key| key.name == *name) {
                keys.push(Key { name: name.clone(), colour: TEACHER, line: *line });
            }
        }
        if !left_out.contains(&outside) {
            left_out.push_str(&outside);
        }
        let low = lines.iter().map(|line| line.1).fold(low, f64::min);
        let high = lines.iter().map(|line| line.1).fold(high, f64::max);
        let x = Axis::adaptive(low, high, 0.06);
        log |= x.is_log();
        let row = |cell: &&Cell| Row {
            name: cell.arm.clone(),
            style: palette.style(cell),
            found: cell.perplexity.map(|found| (found.mean, found.low.zip(found.high))),
            value: cell.perplexity.map_or(String::new(), |found| number(found.mean)),
            missing: "no finished run".into(),
            dots: cell.seeds.iter().map(|seed| seed.perplexity).collect(),
        };
        Panel { title, rows: cells.iter().map(row).collect(), x, lines: lines.iter().map(|(_, x, line)| (*x, *line)).collect() }
    };
    let panels: Vec<Panel> = comparison.facets().into_iter().map(panel).collect();
    let empty = "no evaluation of a finished run";
    let svg = draw_panels("comparison", title, "perplexity, lower is better", &panels, &keys, empty)?;
    let level = fixed(comparison.level * 100.0, 0);
    let scale = if log { " A logarithmic axis." } else { "" };
    let caption = format!(
        "Perplexity on held-out text after training, lower is better: the mean over seeds (ring), its {level}% Student t interval \
         (bar), and each seed (dots below). Arms share seeds, so overlapping bars do not rule out a difference: see the paired \
         differences.{scale}{left_out}"
    );
    Ok(Plot { name: "comparison", title: title.into(), caption, svg })
}
