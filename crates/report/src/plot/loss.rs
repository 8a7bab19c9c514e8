//! Training losses against tokens: on the labels, and each arm's own.

use anyhow::Result;
use hydrometer_base::mean::mean;
use hydrometer_record::frames::CurveRow;

use super::axis::Axis;
use super::curves::{Names, Panel, Series, draw_panels, extent, over_seeds};
use super::perplexity::arm_keys;
use super::{Palette, Plot};
use crate::cell::Cell;
use crate::comparison::Comparison;
use crate::input::{Input, Run};

/// Length of the running mean, as a fraction of the run's steps.
const WINDOW: f64 = 0.02;

/// The labels' cross-entropy during training: mean over seeds with the band from the lowest to the highest seed.
pub fn hard(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Plot> {
    let title = "Training loss on the labels";
    let names = Names { x: "target tokens trained on", y: "nats per token", empty: "no training steps" };
    let (svg, notes) = draw_losses(("loss", title), &names, input, (comparison, palette), |step| step.hard_loss)?;
    let caption = format!(
        "Cross-entropy on the labels while training, whatever the arm's own objective: running mean over 2% of the steps, averaged \
         over seeds; the band spans the lowest and the highest seed.{notes}"
    );
    Ok(Plot { name: "loss", title: title.into(), caption, svg })
}

/// The objective that each arm minimises; absent if all minimise the labels' cross-entropy.
pub fn own(input: &Input, comparison: &Comparison, palette: &Palette) -> Result<Option<Plot>> {
    let other = |step: &CurveRow| step.loss.is_finite() && step.loss != step.hard_loss;
    if !input.runs.iter().any(|run| run.role == "student" && run.steps.iter().any(other)) {
        return Ok(None);
    }
    let title = "Each arm's own objective";
    let names = Names { x: "target tokens trained on", y: "own objective", empty: "no training steps" };
    let (svg, notes) = draw_losses(("objective", title), &names, input, (comparison, palette), |step| step.loss)?;
    let caption = format!(
        "What each arm minimises, as it logs it while training: running mean over 2% of the steps, averaged over seeds. Levels of \
         different objectives do not compare, their courses do.{notes}"
    );
    Ok(Some(Plot { name: "objective", title: title.into(), caption, svg }))
}

fn draw_losses(
    (id, title): (&str, &str),
    names: &Names,
    input: &Input,
    (comparison, palette): (&Comparison, &Palette),
    value: fn(&CurveRow) -> f64,
) -> Result<(String, String)> {
    let (mut panels, mut drawn): (Vec<Panel>, Vec<&Cell>) = Default::default();
    let (mut any_cut, mut any_broken, mut log) = (false, false, false);
    for (title, cells) in comparison.facets() {
        let (mut series, mut broken) = (Vec::new(), Vec::new());
        for cell in cells {
            let style = palette.style(cell);
            let runs = || cell.runs.iter().map(|&at| &input.runs[at]).filter(|run| !run.steps.is_empty());
            let points = over_seeds(runs().filter(|run| run.ok()).flat_map(|run| smooth(run, value)).collect());
            broken.extend(runs().filter(|run| !run.ok()).map(|run| (smooth(run, value), style.0)));
            if runs().next().is_some() {
                drawn.push(cell);
            }
            if !points.is_empty() {
                series.push(Series { points, style, dots: false });
            }
        }
        let mut all: Vec<(f64, f64, f64)> =
            series.iter().flat_map(|series| &series.points).map(|&(x, _, low, high)| (x, low, high)).collect();
        let unfinished = || broken.iter().flat_map(|(line, _)| line.iter().copied());
        let (_, last) = extent(all.iter().map(|point| point.0).chain(unfinished().map(|point| point.0)));
        if all.is_empty() {
            all = unfinished().map(|(x, y)| (x, y, y)).filter(|point| point.1.is_finite()).collect();
        }
        let (low, highest) = extent(all.iter().flat_map(|point| [point.1, point.2]));
        let (_, later) = extent(all.iter().filter(|point| point.0 >= 0.05 * last).map(|point| point.2));
        let wide = Axis::adaptive(low, highest, 0.03);
        // The first steps start at log V and would flatten the rest of the plot.
        let cut = !wide.is_log() && highest - low > 2.0 * (later - low) && later > low;
        let y = if cut { Axis::over(low, later, 0.03) } else { wide };
        any_cut |= cut;
        any_broken |= !broken.is_empty();
        log |= y.is_log();
        let x = Axis::over(0.0, last, 0.0);
        panels.push(Panel { title, series, broken, lines: Vec::new(), x, y });
    }
    let svg = draw_panels(id, title, names, &panels, &arm_keys(drawn.into_iter(), palette))?;
    let notes = [
        (any_cut, " The first steps lie above the plot."),
        (log, " The vertical axis is logarithmic."),
        (any_broken, " A thin line is a run that did not finish."),
    ];
    Ok((svg, notes.iter().filter(|(holds, _)| *holds).map(|(_, note)| *note).collect()))
}

/// The trailing running mean of a run's loss, thinned to the resolution of a plot.
fn smooth(run: &Run, value: fn(&CurveRow) -> f64) -> Vec<(f64, f64)> {
    let window = ((run.steps.len() as f64 * WINDOW).ceil() as usize).max(1);
    let every = run.steps.len().div_ceil(400).max(1);
    let point = |at: usize| {
        let near = &run.steps[(at + 1).saturating_sub(window)..=at];
        (run.steps[at].tokens as f64, mean(near.iter().map(value)).unwrap_or(f64::NAN))
    };
    (0..run.steps.len()).filter(|at| at % every == 0 || at + 1 == run.steps.len()).map(point).collect()
}
