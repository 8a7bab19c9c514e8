//! The cost of an experiment, computed before it runs: tokens and FLOPs of students and teachers, by formula (see
//! [`hydrometer_torch::model::ModelConfig::forward_flops_per_token`]).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Experiment, Student};

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
    /// Forward passes of the teachers; targets that several runs share are counted once.
    pub teacher_forward_flops: f64,
}

impl Budget {
    pub fn of(experiment: &Experiment) -> Self {
        let mut budget = Self { runs: experiment.students.len(), ..Self::default() };
        for student in &experiment.students {
            budget.tokens = budget.tokens.saturating_add(student.recipe.tokens);
            budget.train_flops += student.recipe.train_flops();
        }
        for (index, teacher) in experiment.teachers.iter().enumerate() {
            budget.teacher_tokens = budget.teacher_tokens.saturating_add(teacher.recipe.tokens);
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

/// Number of target tokens that teacher number `teacher` scores. Runs of one seed read the same sequences in the same order, so
/// the longest of them covers the others. An upper bound: different seeds may read the same sequences.
pub fn answers(experiment: &Experiment, teacher: usize) -> u64 {
    longest_by_seed(experiment.students.iter().filter(|student| student.trained_teacher() == Some(teacher)))
}

/// The sum over seeds of the tokens of the longest of `students` with that seed.
pub fn longest_by_seed<'a>(students: impl Iterator<Item = &'a Student>) -> u64 {
    let mut longest: BTreeMap<u64, u64> = BTreeMap::new();
    for student in students {
        let tokens = longest.entry(student.seed).or_default();
        *tokens = student.recipe.tokens.max(*tokens);
    }
    longest.values().fold(0, |sum: u64, tokens| sum.saturating_add(*tokens))
}
