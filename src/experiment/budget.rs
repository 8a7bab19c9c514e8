//! What an experiment costs before it is run: tokens and FLOPs of students and teachers, by formula (see
//! [`crate::model::ModelConfig::forward_flops_per_token`]).

use std::collections::BTreeSet;

use serde::Serialize;

use super::Experiment;

/// Sums over an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    pub runs: usize,
    /// Target tokens of the students.
    pub tokens: u64,
    pub train_flops: f64,
    /// Target tokens that the teachers are trained on.
    pub teacher_tokens: u64,
    pub teacher_train_flops: f64,
    /// Passes of the teachers, answers that runs share counted once.
    pub teacher_forward_flops: f64,
}

impl Budget {
    pub fn of(experiment: &Experiment) -> Self {
        let mut budget = Self { runs: experiment.students.len(), ..Self::default() };
        for student in &experiment.students {
            budget.tokens += student.recipe.tokens;
            budget.train_flops += student.recipe.train_flops();
        }
        for (index, teacher) in experiment.teachers.iter().enumerate() {
            budget.teacher_tokens += teacher.recipe.tokens;
            budget.teacher_train_flops += teacher.recipe.train_flops();
            let forward = teacher.recipe.model.forward_flops_per_token(teacher.recipe.data.context);
            budget.teacher_forward_flops += forward * answers(experiment, index) as f64;
        }
        budget
    }

    pub fn flops(&self) -> f64 {
        self.train_flops + self.teacher_train_flops + self.teacher_forward_flops
    }
}

/// Target tokens that teacher number `teacher` answers for: runs with the same tokens, batch and seed ask the same. More than an
/// epoch of the data asks again for what is kept, so this is the most it can be.
pub fn answers(experiment: &Experiment, teacher: usize) -> u64 {
    let mine = experiment.students.iter().filter(|student| student.teacher == Some(teacher));
    let asked: BTreeSet<(u64, u64, u64)> = mine.map(|s| (s.recipe.tokens, s.recipe.batch, s.recipe.seed)).collect();
    asked.into_iter().map(|(tokens, ..)| tokens).sum()
}
