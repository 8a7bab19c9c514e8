//! From the journals of an experiment to its frames.

use std::path::Path;

use anyhow::Result;

use super::frames::{CurveRow, DocumentRow, EvalRow, Frames, RunRow, runs_frame};
use super::journal::{self, Event};
use crate::experiment::Experiment;
use crate::experiment::recipe::TrainRecipe;
use crate::sweep::job::{Status, baselines, journal_path};

/// Reads every run of `experiment` under `runs`: students in the order of the plan, then teachers, then the baseline.
pub fn freeze(experiment: &Experiment, runs: &Path) -> Result<Frames> {
    let mut rows = Rows::default();
    for student in &experiment.students {
        rows.add(experiment, runs, &student.run, "student", &student.method, &student.recipe);
    }
    let students = rows.runs.len();
    for teacher in &experiment.teachers {
        rows.add(experiment, runs, &teacher.run, "teacher", &teacher.name, &teacher.recipe);
    }
    for (run, student) in baselines(experiment) {
        rows.add(experiment, runs, &run, "baseline", "unigram", &student.recipe);
    }
    let axes: Vec<(String, Vec<Option<String>>)> = experiment
        .axes
        .iter()
        .map(|axis| {
            let value = |student: &crate::experiment::Student| {
                student.axes.iter().find(|(key, _)| key == axis).map(|(_, value)| value.clone())
            };
            let mut values: Vec<Option<String>> = experiment.students.iter().map(value).collect();
            values.resize(values.len() + rows.runs.len() - students, None);
            (axis.clone(), values)
        })
        .collect();
    Ok(Frames {
        runs: runs_frame(&rows.runs, &axes)?,
        curves: CurveRow::frame(&rows.curves)?,
        evals: EvalRow::frame(&rows.evals)?,
        documents: DocumentRow::frame(&rows.documents)?,
    })
}

#[derive(Default)]
struct Rows {
    runs: Vec<RunRow>,
    curves: Vec<CurveRow>,
    evals: Vec<EvalRow>,
    documents: Vec<DocumentRow>,
}

impl Rows {
    fn add(&mut self, experiment: &Experiment, runs: &Path, run: &str, role: &str, method: &str, recipe: &TrainRecipe) {
        let events = journal::read(&journal_path(&runs.join(run)));
        let status = Status::of(&events);
        let trained = role != "baseline";
        let mut row = RunRow {
            run: run.into(),
            experiment: experiment.name.clone(),
            role: role.into(),
            method: method.into(),
            seed: recipe.seed as i64,
            status: status.name().into(),
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
            device: None,
            gradient_check: None,
            error: match status {
                Status::Failed(error) => Some(error),
                Status::Diverged(evidence) => Some(evidence),
                _ => None,
            },
        };
        let mut seconds = 0.0;
        for event in events {
            match event {
                Event::Started { device, tp, dp, threads, params, .. } => {
                    (row.device, row.params) = (Some(device), Some(params));
                    (row.tp, row.dp, row.threads) = (Some(tp), Some(dp), Some(threads));
                }
                Event::GradientChecked { slope } => row.gradient_check = Some(slope),
                Event::Step(step) => {
                    let fresh = step.tokens - row.tokens;
                    (row.tokens, row.updates) = (step.tokens, step.step);
                    seconds += step.seconds;
                    self.curves.push(CurveRow {
                        run: run.into(),
                        step: step.step,
                        tokens: step.tokens,
                        loss: step.loss,
                        hard_loss: step.hard_loss,
                        lr: step.lr,
                        grad_norm: step.grad_norm,
                        tokens_per_s: fresh as f64 / step.seconds,
                        retained_mass: step.retained_mass,
                        teacher_entropy: step.teacher_entropy,
                        mean_lse: step.mean_lse,
                    });
                }
                Event::Evaluated(found) => {
                    row.tokens = row.tokens.max(found.tokens);
                    self.evals.push(EvalRow {
                        run: run.into(),
                        step: found.step,
                        tokens: found.tokens,
                        split: found.split,
                        nll: found.nll,
                        perplexity: found.nll.exp(),
                        bits_per_byte: found.bits_per_byte,
                        token_accuracy: found.token_accuracy,
                        ece: Some(found.ece),
                        kl_to_teacher: None,
                    });
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
    }
}
