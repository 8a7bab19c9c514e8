//! The names of a claim's arms in sentences.

use std::collections::BTreeMap;

use anyhow::Result;
use hydrometer_record::frames::{Frames, RunRow, axes_of};

use super::Claim;
use super::expectation::Side;
use crate::cell::{AxisValue, values};

/// The names of a claim's arms: the method, with the swept values in which the arms differ.
#[derive(Clone, Debug)]
pub struct Arms {
    pub a: String,
    pub b: String,
    /// The swept values that both arms share, such as `tokens=200k`.
    pub common: String,
}

/// The method and swept values of every run.
pub struct Points(BTreeMap<String, (String, Vec<AxisValue>)>);

impl Points {
    pub fn read(frames: &Frames) -> Result<Self> {
        let axes = axes_of(&frames.runs)?;
        let point = |(at, row): (usize, RunRow)| {
            let value = |(axis, values): &(String, Vec<Option<String>>)| {
                Some(AxisValue { axis: axis.clone(), value: values[at].clone()? })
            };
            (row.run, (row.method, axes.iter().filter_map(value).collect()))
        };
        Ok(Self(RunRow::rows(&frames.runs)?.into_iter().enumerate().map(point).collect()))
    }

    /// The method of `runs`, and those of its swept values that not all runs of the method share.
    fn of(&self, runs: &[String]) -> Option<(String, Vec<AxisValue>)> {
        let (method, axes) = runs.iter().find_map(|run| self.0.get(run))?;
        let varies = |axis: &&AxisValue| self.0.values().any(|(other, axes)| other == method && !axes.contains(axis));
        Some((method.clone(), axes.iter().filter(varies).cloned().collect()))
    }

    pub fn arms(&self, claim: &Claim) -> Arms {
        let (a, b) = (self.of(&claim.a), self.of(&claim.b));
        let of = |arm: &Option<(String, Vec<AxisValue>)>| arm.as_ref().map_or_else(Vec::new, |(_, axes)| axes.clone());
        let (of_a, of_b) = (of(&a), of(&b));
        let alone = a.is_none() || b.is_none();
        let (common, own): (Vec<AxisValue>, Vec<AxisValue>) = of_a.iter().cloned().partition(|axis| alone || of_b.contains(axis));
        let of_b: Vec<AxisValue> = of_b.into_iter().filter(|axis| !of_a.contains(axis)).collect();
        let (common, of_b) = if a.is_none() { (of_b, Vec::new()) } else { (common, of_b) };
        let name = |arm: Option<(String, Vec<AxisValue>)>, side: &str, own: &[AxisValue]| {
            arm.map_or_else(|| side.to_string(), |(method, _)| format!("{method} {}", values(own)).trim_end().to_string())
        };
        Arms { a: name(a, "a", &own), b: name(b, "b", &of_b), common: values(&common) }
    }
}

impl Arms {
    pub fn name(&self, side: Side) -> &str {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// An expectation as written, with the arms' names in place of `a` and `b`.
    pub fn in_expression(&self, expect: &str) -> String {
        let named = |part: &str| match part.rsplit_once('(') {
            Some((before, inner)) => {
                let inner = inner.trim_end_matches(')');
                let (side, task) = inner.find(',').map_or((inner, ""), |comma| inner.split_at(comma));
                match side.trim() {
                    "a" => format!("{before}({}{task})", self.a),
                    "b" => format!("{before}({}{task})", self.b),
                    _ => part.to_string(),
                }
            }
            None => part.to_string(),
        };
        expect.split_inclusive(')').map(named).collect::<String>().replace('*', "×")
    }
}
