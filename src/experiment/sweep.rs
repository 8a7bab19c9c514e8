//! `[sweep]`: the axes that multiply the arms, and the points that are left out.
//!
//! Every arm is crossed with every axis of `grid` and with `zip`, which is one more axis. Then each `[[sweep.when]]`, in the
//! order of the file, crosses its own axes with only the points that it selects. Then `[[sweep.skip]]` removes points. A key
//! that does not apply to an arm's objective does not multiply the arm.

use std::collections::BTreeSet;

use anyhow::Result;
use hydrometer_base::user_error;
use toml_edit::{Item, TableLike};

use super::axis::{Axis, Values};
use super::keys::{self, Place};
use super::selector::Selector;
use super::source::{Setting, Source, SourceSpan};

/// Maximum number of points of an arm.
const POINTS_MAX: usize = 100_000;

/// `[sweep]` as read.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    axes: Vec<Axis>,
    whens: Vec<(Selector, Vec<Axis>)>,
    skips: Vec<(Selector, String)>,
}

/// What the sweep needs to know about an arm.
pub struct Arm<'a> {
    pub name: &'a str,
    /// Its settings before the sweep.
    pub setting: &'a dyn Fn(&str) -> Option<&'a Setting>,
    /// Whether a key applies to it.
    pub applies: &'a dyn Fn(&str) -> bool,
}

/// An arm at one point of the sweep.
#[derive(Clone, Debug)]
pub struct Point {
    pub values: Values,
    /// Why it is left out, if it is.
    pub skipped: Option<String>,
}

/// The parts of the table that applied to some arm, to find those that never do.
#[derive(Debug, Default)]
pub struct UsedBlocks {
    keys: BTreeSet<String>,
    whens: BTreeSet<usize>,
    skips: BTreeSet<usize>,
}

impl Sweep {
    pub fn read(source: &Source, item: Option<&Item>) -> Result<Self> {
        let Some(item) = item else { return Ok(Self::default()) };
        let table = item.as_table_like();
        let table = table.ok_or_else(|| user_error!("{}: [sweep] must be a table", source.place(item.span()).0))?;
        if let Some((key, inner)) = table.iter().find(|(key, _)| keys::find(Place::Sweep, key).is_none()) {
            let at = source.place(table.key(key).and_then(|key| key.span()).or_else(|| inner.span())).0;
            return Err(user_error!("{at}: {}", keys::unknown_in(Place::Sweep, key, "[sweep]")));
        }
        let axes = axes(source, table, "sweep")?;
        no_key_twice(&axes)?;
        let mut whens = Vec::new();
        for (when, at) in source.list(table.get("when"), "sweep.when")? {
            let own = axes_of_when(source, when, &at)?;
            no_key_twice(&axes.iter().chain(&own).cloned().collect::<Vec<_>>())?;
            whens.push((Selector::read(source, when, at, "[[sweep.when]]", &keys::names(Place::When))?, own));
        }
        let mut skips = Vec::new();
        for (skip, at) in source.list(table.get("skip"), "sweep.skip")? {
            let because = skip.get("because").map(|item| {
                let text = item.as_str().map(str::to_string);
                text.ok_or_else(|| user_error!("{}: because must be a string", source.place(item.span()).0))
            });
            let because = because.ok_or_else(|| user_error!("{}: say why, e.g. because = \"diverged in the pilot\"", at.0))??;
            skips.push((Selector::read(source, skip, at, "[[sweep.skip]]", &keys::names(Place::Skip))?, because));
        }
        Ok(Self { axes, whens, skips })
    }

    /// Every swept key once, in the order of the file.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for (key, _) in self.all_axes().flat_map(Axis::keys) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn all_axes(&self) -> impl Iterator<Item = &Axis> {
        self.axes.iter().chain(self.whens.iter().flat_map(|(_, axes)| axes))
    }

    /// The points of `arm`, the first axis slowest, including skipped ones; a single point without values if nothing is swept.
    pub fn points(&self, arm: &Arm, used: &mut UsedBlocks) -> Result<Vec<Point>> {
        let mut points: Vec<Values> = vec![Values::new()];
        for axis in &self.axes {
            points = cross(points, axis, arm, used)?;
        }
        for (index, (selector, axes)) in self.whens.iter().enumerate() {
            let mut next = Vec::new();
            for point in points {
                if !selected(selector, arm, &point) {
                    next.push(point);
                    continue;
                }
                used.whens.insert(index);
                let swept = |key: &String| point.iter().any(|(known, _)| known == key);
                let mine = axes.iter().flat_map(Axis::keys).find(|(key, _)| (arm.applies)(key) && swept(key));
                if let Some((key, at)) = mine {
                    return Err(user_error!("{}: another [[sweep.when]] sweeps {key} for {} too; keep one", at.0, arm.name));
                }
                let mut crossed = vec![point];
                for axis in axes {
                    crossed = cross(crossed, axis, arm, used)?;
                }
                next.extend(crossed);
                check_point_count(next.len(), &selector.at)?;
            }
            points = next;
        }
        let points = points.into_iter().map(|values| {
            let mut skipped = None;
            for (index, (selector, because)) in self.skips.iter().enumerate() {
                if selected(selector, arm, &values) {
                    used.skips.insert(index);
                    skipped.get_or_insert(because.clone());
                }
            }
            Point { values, skipped }
        });
        Ok(points.collect())
    }

    /// An error if a block matches no point of any arm, or if an axis applies to no arm.
    pub fn check_used(&self, used: &UsedBlocks, methods: &[&str]) -> Result<()> {
        let whens = self.whens.iter().map(|(selector, _)| selector).enumerate();
        let skips = self.skips.iter().map(|(selector, _)| selector).enumerate();
        let blocks = whens.map(|(index, selector)| ("when", used.whens.contains(&index), selector));
        for (what, found, selector) in blocks.chain(skips.map(|(index, s)| ("skip", used.skips.contains(&index), s))) {
            selector.check_methods(methods)?;
            if !found {
                let at = &selector.at.0;
                return Err(user_error!("{at}: this [[sweep.{what}]] matches no run: none has {selector}; correct or remove it"));
            }
        }
        match self.all_axes().flat_map(Axis::keys).find(|(key, _)| !used.keys.contains(key)) {
            Some((key, at)) => Err(user_error!("{}: {key} does not apply to the methods it is swept for; remove it", at.0)),
            None => Ok(()),
        }
    }
}

fn axes(source: &Source, table: &dyn TableLike, within: &str) -> Result<Vec<Axis>> {
    let mut axes = table.get("grid").map_or(Ok(Vec::new()), |item| Axis::grid(source, item, within))?;
    axes.extend(table.get("zip").map_or(Ok(None), |item| Axis::zip(source, item, within))?);
    Ok(axes)
}

fn axes_of_when(source: &Source, table: &dyn TableLike, at: &SourceSpan) -> Result<Vec<Axis>> {
    let axes = axes(source, table, "sweep.when")?;
    if axes.is_empty() {
        return Err(user_error!("{}: this [[sweep.when]] sweeps nothing; add e.g. grid = {{ top_k = [5, 20] }}", at.0));
    }
    Ok(axes)
}

fn no_key_twice(axes: &[Axis]) -> Result<()> {
    let keys: Vec<&(String, SourceSpan)> = axes.iter().flat_map(Axis::keys).collect();
    for (index, (key, at)) in keys.iter().enumerate() {
        if let Some((_, first)) = keys[..index].iter().find(|(known, _)| known == key) {
            let place = first.0.rsplit(':').nth(1).unwrap_or_default();
            return Err(user_error!("{}: {key} is swept twice, here and in line {place}; keep one", at.0));
        }
    }
    Ok(())
}

fn selected(selector: &Selector, arm: &Arm, point: &Values) -> bool {
    selector.matches(arm.name, |key| point.iter().find(|(k, _)| k == key).map(|(_, v)| v).or_else(|| (arm.setting)(key)))
}

fn cross(points: Vec<Values>, axis: &Axis, arm: &Arm, used: &mut UsedBlocks) -> Result<Vec<Values>> {
    let choices = axis.choices(arm.applies);
    let Some(first) = choices.first() else { return Ok(points) };
    used.keys.extend(first.iter().map(|(key, _)| key.clone()));
    check_point_count(points.len().saturating_mul(choices.len()), &axis.keys()[0].1)?;
    let with = |point: &Values, choice: &Values| -> Values { point.iter().chain(choice).cloned().collect() };
    Ok(points.iter().flat_map(|point| choices.iter().map(move |choice| with(point, choice))).collect())
}

fn check_point_count(points: usize, at: &SourceSpan) -> Result<()> {
    if points > POINTS_MAX {
        return Err(user_error!("{}: the sweep has more than {POINTS_MAX} combinations; use fewer values", at.0));
    }
    Ok(())
}
