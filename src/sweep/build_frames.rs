//! Builds the frames of an experiment from its journals.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::run_id::recipe_of;
use hydrometer_record::frames::{CurveRow, DocumentRow, EvalRow, Frames, GenerationRow, RunRow, ScoreRow, axes_of, runs_frame};
use hydrometer_record::journal::{self, EvaluationEvent, Event, ScoreEvent, TextEvent};
use hydrometer_record::run_status::RunStatus;

use crate::experiment::Experiment;
use crate::sweep::ending::Ending;
use crate::sweep::job::{Writer, baselines, cache_place, fidelity_run, fidelity_teacher, journal_path, recording_place, writers};
use crate::train::recipe::TrainRecipe;

/// An experiment's frames.
pub struct BuiltFrames {
    pub frames: Frames,
    /// Runs whose rows were carried over from earlier frames.
    pub kept: Vec<String>,
    /// The oldest version of the arithmetic among the runs that were read and the caches that taught them; `None` if no run was
    /// read.
    pub numerics: Option<u32>,
}

/// Reads every run of `experiment` under `runs`: students in the order of the plan, then teachers, then baselines. A run without
/// a journal keeps the rows that it has in `earlier`; runs of `earlier` that are no longer planned come last.
pub fn build_frames(experiment: &Experiment, runs: &Path, earlier: Option<&Frames>) -> Result<BuiltFrames> {
    let earlier = earlier.map(Rows::read).transpose()?.unwrap_or_default();
    let mut rows = Rows::default();
    let none = || vec![None; experiment.axes.len()];
    for student in &experiment.students {
        let value = |axis: &String| student.axes.iter().find(|(key, _)| key == axis).map(|(_, value)| value.clone());
        let axes = experiment.axes.iter().map(value).collect();
        rows.add(experiment, runs, &student.run, ("student", &student.method), &student.recipe, axes, &earlier)?;
        if let Some(teacher) = fidelity_teacher(experiment, student) {
            rows.add_fidelity(&student.run, &runs.join(fidelity_run(student, &experiment.teachers[teacher])))?;
        }
    }
    for teacher in &experiment.teachers {
        rows.add(experiment, runs, &teacher.run, ("teacher", &teacher.name), &teacher.recipe, none(), &earlier)?;
    }
    for (run, student) in baselines(experiment) {
        rows.add(experiment, runs, &run, ("baseline", "unigram"), &student.recipe, none(), &earlier)?;
    }
    // Targets stay in a cache, so every pass that ever added to it counts.
    let recordings = experiment.recordings.iter().map(|recording| recording_place(runs, recording));
    for place in experiment.teachers.iter().map(|teacher| cache_place(runs, teacher)).chain(recordings) {
        let events = journal::read(&journal_path(&place.folder))?;
        let started = events.iter().filter_map(|event| match event {
            Event::Started { numerics, .. } => Some(*numerics),
            _ => None,
        });
        rows.numerics = rows.numerics.into_iter().chain(started).min();
    }
    rows.axes = experiment.axes.clone();
    for (at, row) in earlier.runs.iter().enumerate() {
        // A run that was only renamed is the same run.
        if row.status != RunStatus::New.in_frames() && !rows.runs.iter().any(|known| recipe_of(&known.run) == recipe_of(&row.run))
        {
            rows.runs.push(RunRow { planned: false, ..row.clone() });
            rows.carry_over(&row.run, &earlier);
            let values = earlier.axes.iter().zip(&earlier.values[at]);
            let mut mine = vec![None; rows.axes.len()];
            for (axis, value) in values.filter(|(_, value)| value.is_some()) {
                match rows.axes.iter().position(|known| known == axis) {
                    Some(place) => mine[place] = value.clone(),
                    None => {
                        rows.axes.push(axis.clone());
                        mine.push(value.clone());
                    }
                }
            }
            rows.values.push(mine);
        }
    }
    for writer in writers(experiment) {
        rows.add_texts(&writer, &runs.join(&writer.run))?;
    }
    let tasks = !experiment.tasks.is_empty() || !rows.scores.is_empty();
    let values = |axis: usize| rows.values.iter().map(|values| values.get(axis).cloned().flatten()).collect();
    let axes: Vec<(String, Vec<Option<String>>)> =
        rows.axes.iter().enumerate().map(|(at, axis)| (axis.clone(), values(at))).collect();
    let frames = Frames {
        runs: runs_frame(&rows.runs, &axes)?,
        curves: CurveRow::frame(&rows.curves)?,
        evals: EvalRow::frame(&rows.evals)?,
        documents: DocumentRow::frame(&rows.documents)?,
        imports: None,
        generations: tasks.then(|| GenerationRow::frame(&rows.generations)).transpose()?,
        scores: tasks.then(|| ScoreRow::frame(&rows.scores)).transpose()?,
    };
    Ok(BuiltFrames { frames, kept: rows.kept, numerics: rows.numerics })
}

#[derive(Default)]
struct Rows {
    runs: Vec<RunRow>,
    curves: Vec<CurveRow>,
    evals: Vec<EvalRow>,
    documents: Vec<DocumentRow>,
    generations: Vec<GenerationRow>,
    scores: Vec<ScoreRow>,
    axes: Vec<String>,
    /// The axis values of each run. A row may be shorter than `axes`, because axes can be added after it.
    values: Vec<Vec<Option<String>>>,
    /// Runs whose rows were carried over from earlier frames.
    kept: Vec<String>,
    /// The oldest version of the arithmetic among the other runs.
    numerics: Option<u32>,
}

impl Rows {
    fn read(frames: &Frames) -> Result<Self> {
        let (axes, columns): (Vec<String>, Vec<_>) = axes_of(&frames.runs)?.into_iter().unzip();
        let runs = RunRow::rows(&frames.runs)?;
        let values = (0..runs.len()).map(|at| columns.iter().map(|column| column[at].clone()).collect()).collect();
        Ok(Self {
            runs,
            curves: CurveRow::rows(&frames.curves)?,
            evals: EvalRow::rows(&frames.evals)?,
            documents: DocumentRow::rows(&frames.documents)?,
            generations: frames.generations.as_ref().map_or(Ok(Vec::new()), GenerationRow::rows)?,
            scores: frames.scores.as_ref().map_or(Ok(Vec::new()), ScoreRow::rows)?,
            axes,
            values,
            kept: Vec::new(),
            numerics: None,
        })
    }

    /// Copies the rows of `run` from `other`, except for the one in `runs`.
    fn carry_over(&mut self, run: &str, other: &Self) {
        self.curves.extend(other.curves.iter().filter(|row| row.run == run).cloned());
        self.evals.extend(other.evals.iter().filter(|row| row.run == run).cloned());
        self.documents.extend(other.documents.iter().filter(|row| row.run == run).cloned());
        self.generations.extend(other.generations.iter().filter(|row| row.run == run).cloned());
        self.scores.extend(other.scores.iter().filter(|row| row.run == run).cloned());
        self.kept.push(run.into());
    }

    /// Adds what `writer` wrote, from its journal in `folder`, and its scores, in place of rows that were carried over.
    fn add_texts(&mut self, writer: &Writer, folder: &Path) -> Result<()> {
        let events = journal::read(&journal_path(folder))?;
        if Ending::of_events(&events) != Ending::Done {
            return Ok(());
        }
        let (run, task) = (writer.model.to_string(), writer.task.name.clone());
        self.generations.retain(|row| (&row.run, &row.task) != (&run, &task));
        self.scores.retain(|row| (&row.run, &row.task) != (&run, &task));
        let step = if writer.recipe.is_untrained() { 0 } else { writer.recipe.updates() as i64 };
        for event in events {
            match event {
                Event::Wrote(TextEvent { prompt, sample, input, text, tokens, finish }) => self.generations.push(GenerationRow {
                    run: run.clone(),
                    step,
                    task: task.clone(),
                    prompt,
                    sample,
                    input,
                    text,
                    tokens,
                    finish,
                }),
                Event::Scored(ScoreEvent { prompt, score, value }) => {
                    self.scores.push(ScoreRow { run: run.clone(), step, task: task.clone(), prompt, score, value });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the fidelity that the job in `folder` has measured, if any, to the last evaluation of `run`.
    fn add_fidelity(&mut self, run: &str, folder: &Path) -> Result<()> {
        let last = self.evals.iter_mut().rev().find(|row| row.run == run);
        let found = journal::read(&journal_path(folder))?.into_iter().rev().find_map(|event| match event {
            Event::FidelityMeasured { scores, .. } => Some(scores),
            _ => None,
        });
        if let (Some(last), Some(found)) = (last, found) {
            last.scores.extend(&found);
        }
        Ok(())
    }

    /// Adds the rows of `run` from its journal; if it has none, those in `earlier`.
    #[expect(clippy::too_many_arguments, reason = "students, teachers and baselines differ in each of them")]
    fn add(
        &mut self,
        experiment: &Experiment,
        runs: &Path,
        run: &str,
        (role, method): (&str, &str),
        recipe: &TrainRecipe,
        axes: Vec<Option<String>>,
        earlier: &Self,
    ) -> Result<()> {
        self.values.push(axes);
        let events = journal::read(&journal_path(&runs.join(run)))?;
        if events.is_empty()
            && let Some(row) = earlier.runs.iter().find(|row| row.run == run && row.status != RunStatus::New.in_frames())
        {
            self.runs.push(RunRow { planned: true, method: method.into(), ..row.clone() });
            self.carry_over(run, earlier);
            return Ok(());
        }
        self.numerics = self.numerics.into_iter().chain(journal::numerics(&events)).min();
        let ending = Ending::of_events(&events);
        let trained = role != "baseline";
        let mut row = RunRow {
            run: run.into(),
            experiment: experiment.name.clone(),
            role: role.into(),
            method: method.into(),
            seed: recipe.seed as i64,
            status: ending.status().in_frames().into(),
            planned: true,
            params: None,
            tokens: 0,
            updates: 0,
            wall_s: None,
            tokens_per_s: None,
            train_flops: if trained { recipe.train_flops() } else { 0.0 },
            teacher_flops: if trained { recipe.teacher_flops() } else { 0.0 },
            precision: recipe.precision.name().into(),
            tp: None,
            dp: None,
            threads: None,
            pass_tokens: None,
            device: None,
            gradient_check: None,
            last_gradient_check: None,
            error: ending.error().map(String::from),
        };
        let mut seconds = 0.0;
        for event in events {
            match event {
                Event::Started { device, tp, dp, threads, params, pass_tokens, .. } => {
                    (row.device, row.params) = (Some(device), Some(params));
                    (row.tp, row.dp, row.threads, row.pass_tokens) = (Some(tp), Some(dp), Some(threads), pass_tokens);
                }
                Event::GradientChecked { updates: 0, slope } => row.gradient_check = slope,
                Event::GradientChecked { slope, .. } => row.last_gradient_check = slope,
                Event::Step(step) => {
                    let fresh = step.tokens - row.tokens;
                    (row.tokens, row.updates) = (step.tokens, step.step);
                    seconds += step.seconds;
                    self.curves.push(CurveRow::of_step(run, &step, fresh));
                }
                Event::Evaluation(found) => {
                    row.tokens = row.tokens.max(found.tokens);
                    let EvaluationEvent { step, tokens, split, scores } = found;
                    self.evals.push(EvalRow { run: run.into(), step, tokens, split, scores: scores.with_derived() });
                }
                Event::Document { split, document, nll_sum, tokens } => {
                    self.documents.push(DocumentRow { run: run.into(), split, document, nll_sum, tokens });
                }
                _ => {}
            }
        }
        if seconds > 0.0 {
            row.wall_s = Some(seconds);
            row.tokens_per_s = Some(row.tokens as f64 / seconds);
        }
        self.runs.push(row);
        Ok(())
    }
}
