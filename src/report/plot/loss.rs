//! Training loss against tokens.

use anyhow::Result;

use super::axis::{Area, Axis};
use super::{Key, Line, Palette, Plot, WIDTH, draw, heading, legend_rows, nothing};
use crate::report::comparison::{Comparison, mean};
use crate::report::input::{Input, Run};

/// Steps that a running mean spans, as a part of the run.
const WINDOW: f64 = 0.02;

/// The labels' cross-entropy during training: mean over seeds with the band from the lowest to the highest seed.
pub fn plot(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Training loss";
    let mut keys = Vec::new();
    let mut cells = Vec::new();
    let mut broken = Vec::new();
    for cell in &comparison.cells {
        let colour = palette.colour(&cell.label);
        let runs = || cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| !run.steps.is_empty());
        let finished: Vec<Vec<(f64, f64)>> = runs().filter(|run| run.ok()).map(smooth).collect();
        broken.extend(runs().filter(|run| !run.ok()).map(|run| (smooth(run), colour)));
        if runs().next().is_some() {
            keys.push(Key { name: cell.label.clone(), colour, line: Line::Solid });
        }
        cells.push((over_seeds(&finished), colour));
    }
    let drawn = || cells.iter().flat_map(|(band, _)| band.iter().map(|&(x, _, low, high)| (x, low, high)));
    let unfinished = || broken.iter().flat_map(|(line, _)| line.iter().map(|&(x, y)| (x, y, y)));
    let mut all: Vec<(f64, f64, f64)> = drawn().collect();
    if all.is_empty() {
        all = unfinished().collect();
    }
    all.retain(|(x, low, high)| x.is_finite() && low.is_finite() && high.is_finite());
    let height = 420 + 20 * legend_rows(&keys);
    let last = all.iter().map(|point| point.0).chain(unfinished().map(|point| point.0)).fold(0.0, f64::max);
    let low = all.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let top = |from: f64| all.iter().filter(|point| point.0 >= from * last).map(|point| point.2).fold(low, f64::max);
    // The first steps fall from log V and would press the rest flat.
    let cut = top(0.0) - low > 2.0 * (top(0.05) - low) && top(0.05) > low;
    let high = if cut { top(0.05) } else { top(0.0) };

    let svg = draw("loss", title, height, |canvas| {
        let top = heading(canvas, title, &keys)?;
        if all.is_empty() {
            return nothing(canvas, "no training steps", height);
        }
        let (x, y) = (Axis::over(0.0, last, 0.0), Axis::over(low, high, 0.03));
        let area = Area { canvas, left: 66, right: WIDTH - 24, top: top + 4, bottom: height - 58, x, y };
        area.grid_y("hard-label loss, nats per token")?;
        area.grid_x("target tokens trained on")?;
        for (points, colour) in &cells {
            let band: Vec<(f64, f64, f64)> = points.iter().map(|&(x, _, low, high)| (x, low, high)).collect();
            area.band(&band, *colour)?;
        }
        for (points, colour) in &broken {
            area.path(points, *colour, 2, 0.6)?;
        }
        for (points, colour) in &cells {
            let line: Vec<(f64, f64)> = points.iter().map(|&(x, mean, ..)| (x, mean)).collect();
            area.path(&line, *colour, 4, 1.0)?;
            if let [(x, y)] = line[..] {
                area.dot(x, y, 4, *colour, 1.0)?;
            }
        }
        Ok(())
    })?;
    let mut caption =
        "Cross-entropy on the labels while training, whatever the arm's own objective: running mean over 2% of the \
                       steps, averaged over seeds; the band spans the lowest and the highest seed."
            .to_string();
    if cut {
        caption.push_str(" The first steps lie above the plot.");
    }
    if !broken.is_empty() {
        caption.push_str(" A thin line is a run that did not finish.");
    }
    Ok(Plot { name: "loss", title: title.into(), caption, svg })
}

/// The trailing running mean of a run's loss, thinned to what a plot can show.
fn smooth(run: &Run) -> Vec<(f64, f64)> {
    let window = ((run.steps.len() as f64 * WINDOW).ceil() as usize).max(1);
    let every = run.steps.len().div_ceil(400).max(1);
    let point = |at: usize| {
        let near = &run.steps[(at + 1).saturating_sub(window)..=at];
        (run.steps[at].tokens, mean(near.iter().map(|step| step.hard_loss)).unwrap_or(f64::NAN))
    };
    (0..run.steps.len()).filter(|at| at % every == 0 || at + 1 == run.steps.len()).map(point).collect()
}

/// Mean, lowest and highest over seeds at each number of tokens.
fn over_seeds(lines: &[Vec<(f64, f64)>]) -> Vec<(f64, f64, f64, f64)> {
    let mut points: Vec<(f64, f64)> = lines.iter().flatten().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
        .chunk_by(|a, b| a.0 == b.0)
        .map(|near| {
            let values = || near.iter().map(|point| point.1);
            let mean = values().sum::<f64>() / near.len() as f64;
            (near[0].0, mean, values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        })
        .collect()
}
