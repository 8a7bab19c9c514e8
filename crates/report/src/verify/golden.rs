//! Goldens: the exact results of an experiment's smoke tier on processors of one family, in both number formats.
//!
//! A golden is text: one line per series, each number as the shortest decimal that reads back to the same bits, and a checksum of
//! everything at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hydrometer_base::fs::{replace_bytes, sha256_hex};
use hydrometer_base::numerics::{NUMERICS, family, settings};
use hydrometer_record::frames::{Frames, RunRow};
use hydrometer_record::provenance::cpu_model;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::numerics::{Agreement, Series, What, agreement, series, statuses};

/// `results/goldens/EXPERIMENT/FAMILY.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    pub experiment: String,
    /// Version of the arithmetic.
    pub numerics: u32,
    pub cpu_family: String,
    /// The processor that it was made on, and the settings that restricted it, for display.
    pub cpu: String,
    /// CPU threads of each run.
    pub threads: i64,
    pub libtorch: String,
    pub runs: BTreeMap<String, Run>,
}

/// The results of a run. A number that is not finite is null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub precision: String,
    pub status: String,
    /// One value per step, from step 1.
    pub loss: Vec<Option<f64>>,
    pub hard_loss: Vec<Option<f64>>,
    pub grad_norm: Vec<Option<f64>>,
    /// Steps done, split, and nats per token of each evaluation.
    pub nll: Vec<(i64, String, Option<f64>)>,
    /// One value per document at the last evaluation, in the order of the split.
    pub nll_sum: BTreeMap<String, Vec<Option<f64>>>,
}

/// A golden as read.
#[derive(Clone, Debug)]
pub struct Read {
    pub path: PathBuf,
    pub golden: Golden,
    /// Whether the file is exactly what [`Golden::write`] wrote.
    pub whole: bool,
}

/// The path of the golden of `family` in the folder of an experiment's goldens.
pub fn file(folder: &Path, family: &str) -> PathBuf {
    folder.join(format!("{family}.json"))
}

/// The golden in `folder` of this machine's family, else the first of another; `None` if there is none.
pub fn nearest(folder: &Path) -> Result<Option<Read>> {
    let own = file(folder, &family());
    if own.exists() {
        return Ok(Some(read(&own)?));
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let mut others: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    others.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    others.sort();
    others.first().map(|path| read(path)).transpose()
}

fn read(path: &Path) -> Result<Read> {
    let parse = || -> Result<Read> {
        let text = std::fs::read_to_string(path)?;
        let mut all: BTreeMap<String, Value> = serde_json::from_str(&text)?;
        all.remove("sha256");
        let golden: Golden = serde_json::from_value(Value::Object(all.into_iter().collect()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        ensure!(golden.cpu_family == stem, "its family is {}, which differs from its name", golden.cpu_family);
        // Compares the whole text, because different decimals can be the same number.
        let whole = text == golden.text()?;
        Ok(Read { path: path.to_path_buf(), golden, whole })
    };
    parse().with_context(|| format!("{} is damaged", path.display()))
}

impl Golden {
    /// The golden of `frames`, one of each precision, trained on this machine with this version of libtorch.
    pub fn of(experiment: &str, frames: &[Frames], libtorch: &str) -> Result<Self> {
        let mut golden = Self {
            experiment: experiment.into(),
            numerics: NUMERICS,
            cpu_family: family(),
            cpu: std::iter::once(cpu_model())
                .chain(settings().iter().map(|(name, value)| format!("{name}={value}")))
                .collect::<Vec<_>>()
                .join(" "),
            threads: threads(frames)?,
            libtorch: libtorch.into(),
            runs: BTreeMap::new(),
        };
        for frames in frames {
            let mut found = series(frames)?;
            for row in RunRow::rows(&frames.runs)?.into_iter().filter(|row| row.planned) {
                let series = found.remove(&row.run).unwrap_or_default();
                golden.runs.insert(row.run, Run::of(row.precision, row.status, &series));
            }
        }
        Ok(golden)
    }

    /// Whether runs of `threads` threads with this libtorch on this machine must give the same bits.
    pub fn is_exact(&self, threads: i64, libtorch: &str) -> bool {
        self.cpu_family == family() && self.threads == threads && self.libtorch == libtorch
    }

    /// Compares with `frames`, one of each precision, run by run.
    pub fn compare(&self, frames: &[Frames]) -> Result<Vec<Agreement>> {
        let (mut now, mut status) = (BTreeMap::new(), BTreeMap::new());
        for frames in frames {
            now.extend(series(frames)?);
            status.extend(statuses(frames)?);
        }
        let empty = Series::new();
        let strangers = status.keys().filter(|run| !self.runs.contains_key(*run));
        let strangers: Vec<Agreement> = strangers
            .map(|run| agreement(run.clone(), &empty, &empty, Some("the golden does not have this run".into())))
            .collect();
        let known = self.runs.iter().map(|(run, kept)| {
            let trouble = match status.get(run) {
                None => Some("the smoke tier no longer has this run".to_string()),
                Some(now) if *now != kept.status => Some(format!("it was {} and is now {now}", kept.status)),
                _ => None,
            };
            agreement(run.clone(), &kept.series(), now.get(run).unwrap_or(&empty), trouble)
        });
        Ok(known.chain(strangers).collect())
    }

    /// The text of its file.
    fn text(&self) -> Result<String> {
        let mut all = serde_json::to_value(self)?;
        all["sha256"] = sha256_hex(serde_json::to_string(self)?.as_bytes()).into();
        Ok(laid_out(&all, 0) + "\n")
    }

    /// Writes it into `folder`; returns its path.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = file(folder, &self.cpu_family);
        replace_bytes(&path, self.text()?.as_bytes())?;
        Ok(path)
    }
}

/// The threads of each run of `frames` that trains.
pub fn threads(frames: &[Frames]) -> Result<i64> {
    let mut all = Vec::new();
    for frames in frames {
        let trained = RunRow::rows(&frames.runs)?.into_iter().filter(|row| row.planned && row.role != "baseline");
        all.extend(trained.filter_map(|row| row.threads));
    }
    let first = *all.first().context("nothing was trained")?;
    ensure!(all.iter().all(|threads| *threads == first), "the runs had different numbers of threads");
    Ok(first)
}

impl Run {
    fn of(precision: String, status: String, series: &Series) -> Self {
        let mut run = Self { precision, status, ..Self::default() };
        for ((step, what), &value) in series {
            let value = Some(value).filter(|value| value.is_finite());
            match what {
                What::Loss => run.loss.push(value),
                What::HardLoss => run.hard_loss.push(value),
                What::GradNorm => run.grad_norm.push(value),
                What::Nll(split) => run.nll.push((*step, split.clone(), value)),
                What::Document(split, _) => run.nll_sum.entry(split.clone()).or_default().push(value),
            }
        }
        run
    }

    fn series(&self) -> Series {
        let number = |value: &Option<f64>| value.unwrap_or(f64::NAN);
        let mut all = Series::new();
        for (what, values) in [(What::Loss, &self.loss), (What::HardLoss, &self.hard_loss), (What::GradNorm, &self.grad_norm)] {
            all.extend((1..).zip(values).map(|(step, value)| ((step, what.clone()), number(value))));
        }
        let last = self.nll.iter().map(|(step, ..)| *step).max().unwrap_or(0);
        all.extend(self.nll.iter().map(|(step, split, value)| ((*step, What::Nll(split.clone())), number(value))));
        for (split, values) in &self.nll_sum {
            all.extend((1..).zip(values).map(|(at, value)| ((last, What::Document(split.clone(), at)), number(value))));
        }
        all
    }
}

/// JSON with one line per member of an object, and each list on one line.
fn laid_out(value: &Value, depth: usize) -> String {
    let Value::Object(members) = value else { return value.to_string() };
    let (inner, outer) = ("  ".repeat(depth + 1), "  ".repeat(depth));
    let line =
        |(name, value): (&String, &Value)| format!("{inner}{}: {}", Value::from(name.as_str()), laid_out(value, depth + 1));
    let lines: Vec<String> = members.iter().map(line).collect();
    if lines.is_empty() { "{}".into() } else { format!("{{\n{}\n{outer}}}", lines.join(",\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_golden_reads_back_to_the_same_bits_and_a_changed_digit_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let mut series = Series::new();
        for (step, loss) in [(1, 0.1 + 0.2), (2, f64::NAN), (10, 1e-300 / 3.0)] {
            series.insert((step.min(3), What::Loss), loss);
        }
        series.insert((3, What::Nll("valid".into())), 5.0 / 7.0);
        (1..=11).for_each(|at| {
            series.insert((3, What::Document("valid".into(), at)), at as f64 / 3.0);
        });
        let run = Run::of("f32".into(), "ok".into(), &series);
        let back = run.series();
        assert_eq!(back.keys().collect::<Vec<_>>(), series.keys().collect::<Vec<_>>());
        assert!(back.values().zip(series.values()).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        let golden = Golden {
            experiment: "lab".into(),
            numerics: NUMERICS,
            cpu_family: family(),
            cpu: "a processor".into(),
            threads: 2,
            libtorch: "2".into(),
            runs: [("run".to_string(), run)].into(),
        };
        assert!(golden.is_exact(2, "2") && !golden.is_exact(3, "2") && !golden.is_exact(2, "3"));
        let path = golden.write(folder.path()).unwrap();
        let found = nearest(folder.path()).unwrap().unwrap();
        assert_eq!((&found.golden, found.whole), (&golden, true));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n      \"loss\": [0.30000000000000004,null,"), "{text}");
        std::fs::write(&path, text.replace("0.30000000000000004", "0.30000000000000007")).unwrap();
        assert!(!nearest(folder.path()).unwrap().unwrap().whole);
        std::fs::rename(&path, file(folder.path(), "other-unit")).unwrap();
        assert!(format!("{:#}", nearest(folder.path()).unwrap_err()).contains("other-unit.json is damaged"));
    }
}
