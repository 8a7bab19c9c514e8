//! The Polars frames of an experiment, as Parquet in its results folder.
//!
//! A frame is built from plain rows and read back into them, so its schema is defined once, here. Files appear by atomic rename.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{replace_file, unreadable};
use hydrometer_base::guard::caught;
use hydrometer_base::shortage::first_words;
use hydrometer_base::user_error;
use polars::prelude::*;
use polars_io::SerReader;
use polars_io::prelude::{ParquetCompression, ParquetReader, ParquetWriter};

use super::imports::ImportRow;
use super::metric::{Item, METRICS, Metric, Scores};
use super::rows::{Field, frame_rows};

/// The frames of one experiment.
#[derive(Clone, Debug)]
pub struct Frames {
    /// One row per run: students, teachers and the baseline.
    pub runs: DataFrame,
    /// One row per training step.
    pub curves: DataFrame,
    /// One row per evaluation.
    pub evals: DataFrame,
    /// One row per document at a run's final evaluation.
    pub documents: DataFrame,
    /// One row per split of the data and per recorded teacher; `None` in results that predate this frame.
    pub imports: Option<DataFrame>,
    /// One row per text that a model wrote for a task; `None` without tasks.
    pub generations: Option<DataFrame>,
    /// One row per prompt and score of a task; `None` without tasks.
    pub scores: Option<DataFrame>,
}

/// Names of the frames; their files end in `.parquet`. Writing, reading, hashing and verifying follow this list.
pub const NAMES: [&str; 7] = ["runs", "curves", "evals", "documents", IMPORTS, GENERATIONS, SCORES];
/// The frame that older results do not have.
pub const IMPORTS: &str = "imports";
/// The frames that only results of experiments with tasks have.
pub const GENERATIONS: &str = "generations";
pub const SCORES: &str = "scores";
/// The frames that may be absent.
pub const OPTIONAL: [&str; 3] = [IMPORTS, GENERATIONS, SCORES];

/// Maximum number of rows per byte of a frame's file. More mean that the stored number of rows is damaged: not even constant
/// columns compress that well.
const ROWS_PER_BYTE: u64 = 4096;

/// The remedy for a damaged frame.
const CURE: &str = "write it again with `hydrometer run`, or restore it from git if it is committed";

/// The file of the frame `name`.
pub fn file_of(name: &str) -> String {
    format!("{name}.parquet")
}

impl Frames {
    /// The frames with their names, in the order of [`NAMES`], without an absent optional one.
    pub fn named(&self) -> Vec<(&'static str, &DataFrame)> {
        let Self { runs, curves, evals, documents, imports, generations, scores } = self;
        let always = [runs, curves, evals, documents].map(Some);
        let all = always.into_iter().chain([imports, generations, scores].map(Option::as_ref));
        NAMES.into_iter().zip(all).filter_map(|(name, frame)| Some((name, frame?))).collect()
    }

    /// Writes one file per frame into `folder`; returns the paths.
    pub fn write(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        let Self { runs, curves, evals, documents, imports, generations, scores } = self;
        let optional = [imports, generations, scores].map(Option::as_mut);
        let frames = [runs, curves, evals, documents].map(Some).into_iter().chain(optional);
        let there = NAMES.into_iter().zip(frames).filter_map(|(name, frame)| Some((name, frame?)));
        there
            .map(|(name, frame)| {
                let path = folder.join(file_of(name));
                replace_file(&path, |file: &mut File| {
                    ParquetWriter::new(file).with_compression(ParquetCompression::Zstd(None)).finish(frame)?;
                    Ok(())
                })?;
                Ok(path)
            })
            .collect()
    }

    /// Reads the frames of `folder`. An error if a column is missing, or has a null where a value is required.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| read_frame(folder, name);
        let optional = |name: &str| folder.join(file_of(name)).exists().then(|| read(name)).transpose();
        let [runs, curves, evals, documents, ..] = NAMES;
        Ok(Self {
            runs: read(runs)?,
            curves: read(curves)?,
            evals: read(evals)?,
            documents: read(documents)?,
            imports: optional(IMPORTS)?,
            generations: optional(GENERATIONS)?,
            scores: optional(SCORES)?,
        })
    }
}

/// Reads the frame `name` of `folder` and checks that its rows have the expected types. Damage is an error that names the file.
pub fn read_frame(folder: &Path, name: &str) -> Result<DataFrame> {
    let path = folder.join(file_of(name));
    let frame = read_parquet(&path)?;
    let checked = match name {
        "runs" => RunRow::rows(&frame).and_then(|_| axes_of(&frame).map(drop)),
        "curves" => CurveRow::rows(&frame).map(drop),
        "evals" => EvalRow::rows(&frame).map(drop),
        "documents" => DocumentRow::rows(&frame).map(drop),
        GENERATIONS => GenerationRow::rows(&frame).map(drop),
        SCORES => ScoreRow::rows(&frame).map(drop),
        _ => ImportRow::rows(&frame).map(drop),
    };
    checked.map_err(|error| user_error!("{} is damaged: {error:#}; {CURE}", path.display()))?;
    Ok(frame)
}

/// Reads a Parquet file. The reader may panic on a damaged one.
fn read_parquet(path: &Path) -> Result<DataFrame> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let size = file.metadata().map_err(|error| unreadable(path, error))?.len();
    let read = || -> PolarsResult<DataFrame> {
        let mut reader = ParquetReader::new(file);
        let metadata = reader.get_metadata()?;
        // The reader allocates memory for the stored number of rows before it reads any.
        let rows = [metadata.num_rows].into_iter().chain(metadata.row_groups.iter().map(|group| group.num_rows()));
        if let Some(rows) = rows.into_iter().find(|rows| *rows as u64 > size.saturating_mul(ROWS_PER_BYTE)) {
            polars_bail!(ComputeError: "it claims {rows} rows in {size} bytes");
        }
        reader.finish()
    };
    let damaged = |why: String| user_error!("{} is damaged: {}; {CURE}", path.display(), first_words(&why));
    match caught(read) {
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(panic) => Err(damaged(panic)),
    }
}

frame_rows! {
    /// A run of an experiment. Swept axes follow as further columns (see [`runs_frame`]).
    RunRow {
        run: String,
        experiment: String,
        /// `student`, `teacher` or `baseline`.
        role: String,
        /// The arm: a method's name, a teacher's name, or `unigram`.
        method: String,
        seed: i64,
        /// `ok`, `failed`, `diverged`, `interrupted` or `new`.
        status: String,
        /// Whether the experiment file planned this run when the frames were written. Runs planned earlier keep their rows, but
        /// are in no table.
        planned: bool,
        /// Parameters, tied ones counted once.
        params: Option<i64>,
        /// Target tokens trained on.
        tokens: i64,
        updates: i64,
        wall_s: Option<f64>,
        tokens_per_s: Option<f64>,
        train_flops: f64,
        /// The teacher's training and its pass over the targets, before sharing among arms.
        teacher_flops: f64,
        precision: String,
        tp: Option<i64>,
        dp: Option<i64>,
        threads: Option<i64>,
        /// Most input tokens of a pass of one data-parallel rank.
        pass_tokens: Option<i64>,
        device: Option<String>,
        /// Slope of the logged loss along its gradient, over the gradient's norm, before the first update.
        gradient_check: Option<f64>,
        /// The same before the last update.
        last_gradient_check: Option<f64>,
        error: Option<String>,
    }
}

frame_rows! {
    /// A training step. Losses in nats per target token of the global batch.
    CurveRow {
        run: String,
        step: i64,
        tokens: i64,
        /// The arm's own objective.
        loss: f64,
        /// Cross-entropy on the labels, whatever the objective.
        hard_loss: f64,
        lr: f64,
        /// Before clipping.
        grad_norm: f64,
        tokens_per_s: f64,
        /// Mean Σ w_j of the teacher's top-k targets.
        retained_mass: Option<f64>,
        /// Mean −Σ w_j log w_j of the teacher's top-k targets, in nats.
        teacher_entropy: Option<f64>,
        /// Mean logsumexp of the student's logits; shows their drift.
        mean_lse: f64,
    }
}

/// An evaluation on held-out text, with one column per metric, on hard labels whatever the arm trained on. Fidelity is measured
/// only at the last evaluation of a student with a teacher.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalRow {
    pub run: String,
    pub step: i64,
    pub tokens: i64,
    pub split: String,
    pub scores: Scores,
}

frame_rows! {
    /// The columns of an [`EvalRow`] before its metrics.
    EvalKey { run: String, step: i64, tokens: i64, split: String }
}

impl EvalRow {
    /// The frame of these rows, in this order.
    pub fn frame(rows: &[Self]) -> PolarsResult<DataFrame> {
        let key = |row: &Self| EvalKey { run: row.run.clone(), step: row.step, tokens: row.tokens, split: row.split.clone() };
        let mut frame = EvalKey::frame(&rows.iter().map(key).collect::<Vec<_>>())?;
        for Item { metric, name, required, .. } in &METRICS {
            let values = rows.iter().map(|row| row.scores[*metric]);
            let column = match required {
                true => Column::new((*name).into(), values.map(|value| value.unwrap_or(f64::NAN)).collect::<Vec<_>>()),
                false => Column::new((*name).into(), values.collect::<Vec<_>>()),
            };
            frame.with_column(column)?;
        }
        Ok(frame)
    }

    /// The rows of a frame, in its order. Other columns are ignored.
    pub fn rows(frame: &DataFrame) -> Result<Vec<Self>> {
        let row = |EvalKey { run, step, tokens, split }| Self { run, step, tokens, split, scores: Scores::default() };
        let mut rows: Vec<Self> = EvalKey::rows(frame)?.into_iter().map(row).collect();
        for Item { metric, name, required, .. } in &METRICS {
            let column: Vec<Option<f64>> = match required {
                true => <f64 as Field>::column(frame, name)?.into_iter().map(Some).collect(),
                false => Field::column(frame, name)?,
            };
            rows.iter_mut().zip(column).for_each(|(row, value)| row.scores[*metric] = value);
        }
        Ok(rows)
    }

    /// Nats per predicted token.
    pub fn nll(&self) -> f64 {
        self.scores[Metric::Nll].unwrap_or(f64::NAN)
    }

    pub fn perplexity(&self) -> f64 {
        self.scores[Metric::Perplexity].unwrap_or(f64::NAN)
    }
}

frame_rows! {
    /// A held-out document at a run's final evaluation.
    DocumentRow { run: String, split: String, document: String, nll_sum: f64, tokens: i64 }
}

frame_rows! {
    /// A text that a model wrote for a task.
    GenerationRow {
        run: String,
        /// Number of updates before it.
        step: i64,
        task: String,
        /// Id of the prompt.
        prompt: String,
        sample: i64,
        /// What the model read, after the template.
        input: String,
        text: String,
        /// New tokens, an end token included.
        tokens: i64,
        /// Why it ended: one of [`FINISHES`].
        finish: String,
    }
}

frame_rows! {
    /// A score of a task at one prompt.
    ScoreRow { run: String, step: i64, task: String, prompt: String, score: String, value: f64 }
}

/// Why a text can have ended.
pub const FINISHES: [&str; 4] = ["end-token", "stop", "length", "context"];

/// Prefix of a swept axis whose name is already a column: `tokens` is the number that a run was trained on, `swept_tokens` the
/// value in the sweep, as written.
pub const SWEPT: &str = "swept_";

/// The swept axes of a runs frame under the names of the experiment file, each with its value in every row.
pub fn axes_of(runs: &DataFrame) -> Result<Vec<(String, Vec<Option<String>>)>> {
    let known = RunRow::frame(&[])?;
    let names = runs.columns().iter().map(|column| column.name().as_str()).filter(|name| known.column(name).is_err());
    names.map(|name| Ok((name.strip_prefix(SWEPT).unwrap_or(name).to_string(), Field::column(runs, name)?))).collect()
}

/// The runs frame: `rows` plus one text column per swept axis.
pub fn runs_frame(rows: &[RunRow], axes: &[(String, Vec<Option<String>>)]) -> PolarsResult<DataFrame> {
    let mut frame = RunRow::frame(rows)?;
    for (axis, values) in axes {
        let name = if frame.column(axis).is_err() { axis.clone() } else { format!("{SWEPT}{axis}") };
        frame.with_column(Column::new(name.as_str().into(), values.clone()))?;
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/frames.md");

    /// Name and type of the columns in the table of a frame.
    fn documented(name: &str) -> Vec<(String, String)> {
        let (_, rest) = PAGE.split_once(&format!("\n## {name}.parquet\n")).unwrap_or_else(|| panic!("no {name}"));
        let section = rest.split("\n## ").next().unwrap_or_default();
        let cells = |line: &str| -> Option<(String, String)> {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().trim_end_matches('`').to_string(), cells.next()?.trim().to_string()))
        };
        section.lines().filter_map(cells).collect()
    }

    #[test]
    fn every_column_is_documented_with_its_type_and_in_order() {
        let frames = [
            RunRow::frame(&[]),
            CurveRow::frame(&[]),
            EvalRow::frame(&[]),
            DocumentRow::frame(&[]),
            ImportRow::frame(&[]),
            GenerationRow::frame(&[]),
            ScoreRow::frame(&[]),
        ];
        for (name, frame) in NAMES.into_iter().zip(frames) {
            let frame = frame.unwrap();
            let columns = frame.columns().iter().map(|column| (column.name().to_string(), column.dtype().to_string()));
            assert_eq!(documented(name), columns.collect::<Vec<_>>(), "docs/frames.md, {name}.parquet");
        }
    }

    #[test]
    fn rows_survive_a_round_trip_and_older_frames_may_lack_newer_columns() {
        let row = |run: &str| EvalRow {
            run: run.into(),
            step: 1,
            tokens: 10,
            split: "valid".into(),
            scores: Scores::of([
                (Metric::Nll, 0.1 + 0.2),
                (Metric::Perplexity, f64::INFINITY),
                (Metric::BitsPerByte, 1.0),
                (Metric::TokenAccuracy, 0.5),
                (Metric::KlToTeacher, 2.0),
                (Metric::Top1Agreement, 0.5),
            ]),
        };
        let rows = vec![row("a"), row("b")];
        let frame = EvalRow::frame(&rows).unwrap();
        assert_eq!(EvalRow::rows(&frame).unwrap(), rows);
        assert!(EvalRow::rows(&frame.drop("ece").unwrap()).unwrap() == rows, "a nullable column may be absent");
        assert!(EvalRow::rows(&frame.drop("nll").unwrap()).is_err());
    }

    #[test]
    fn a_swept_axis_becomes_a_column_without_replacing_another() {
        let axis = |name: &str| (name.to_string(), Vec::new());
        let frame = runs_frame(&[], &[axis("tokens"), axis("top_k")]).unwrap();
        let names: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
        assert_eq!(names[names.len() - 2..], ["swept_tokens", "top_k"]);
    }
}
