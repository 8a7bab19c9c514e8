//! The metrics of a training step, one item each, and the conversion of a step of the journal into a row of the curves.

use super::frames::CurveRow;
use super::journal::Step;

/// A column of the curves.
pub struct StepMetric {
    /// Its column's name; in TensorBoard, after `train/`.
    pub column: &'static str,
    pub value: fn(&CurveRow) -> Option<f64>,
    /// The name and heading under which the report's diagnostics show it, if they do.
    pub diagnostic: Option<Diagnostic>,
}

#[derive(Clone, Copy)]
pub struct Diagnostic {
    /// In `export --format json`.
    pub name: &'static str,
    /// In the table.
    pub heading: &'static str,
}

const fn shown(name: &'static str, heading: &'static str) -> Option<Diagnostic> {
    Some(Diagnostic { name, heading })
}

/// In the order of the diagnostics.
pub static STEP_METRICS: [StepMetric; 9] = [
    StepMetric { column: "loss", value: |row| Some(row.loss), diagnostic: shown("own_loss", "own loss") },
    StepMetric { column: "hard_loss", value: |row| Some(row.hard_loss), diagnostic: shown("hard_loss", "hard loss") },
    StepMetric { column: "mean_lse", value: |row| Some(row.mean_lse), diagnostic: shown("mean_logsumexp", "mean logsumexp") },
    StepMetric { column: "retained_mass", value: |row| row.retained_mass, diagnostic: shown("retained_mass", "retained mass") },
    StepMetric {
        column: "teacher_entropy",
        value: |row| row.teacher_entropy,
        diagnostic: shown("teacher_entropy", "teacher entropy"),
    },
    StepMetric { column: "grad_norm", value: |row| Some(row.grad_norm), diagnostic: shown("gradient_norm", "gradient norm") },
    StepMetric { column: "lr", value: |row| Some(row.lr), diagnostic: None },
    StepMetric { column: "tokens", value: |row| Some(row.tokens as f64), diagnostic: None },
    StepMetric { column: "tokens_per_s", value: |row| Some(row.tokens_per_s), diagnostic: None },
];

impl CurveRow {
    /// The row of a step of `run`; `fresh` is the number of target tokens of this step alone.
    pub fn of_step(run: &str, step: &Step, fresh: i64) -> Self {
        let Step { step, tokens, loss, hard_loss, lr, grad_norm, seconds, retained_mass, teacher_entropy, mean_lse } = *step;
        let tokens_per_s = fresh as f64 / seconds;
        let run = run.to_string();
        Self { run, step, tokens, loss, hard_loss, lr, grad_norm, tokens_per_s, retained_mass, teacher_entropy, mean_lse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the columns of the frame. Each is found by its own value.
    #[test]
    fn every_numeric_column_of_the_curves_has_an_item_that_reads_it() {
        let step = Step {
            step: 1,
            tokens: 2,
            loss: 3.0,
            hard_loss: 4.0,
            lr: 5.0,
            grad_norm: 6.0,
            seconds: 0.5,
            retained_mass: Some(7.0),
            teacher_entropy: Some(8.0),
            mean_lse: 9.0,
        };
        let row = CurveRow::of_step("a", &step, 5);
        let frame = CurveRow::frame(std::slice::from_ref(&row)).unwrap();
        let numbers: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).skip(2).collect();
        for name in &numbers {
            let item = STEP_METRICS.iter().find(|item| item.column == *name).unwrap_or_else(|| panic!("no item for {name}"));
            let column = frame.column(name).unwrap().cast(&polars::prelude::DataType::Float64).unwrap();
            assert_eq!((item.value)(&row), column.f64().unwrap().get(0), "{name}");
        }
        assert_eq!(numbers.len(), STEP_METRICS.len());
    }
}
