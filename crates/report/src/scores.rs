//! How values of scores are shown.

use hydrometer_base::units::{fixed, signed};
use hydrometer_record::metric::Unit;
use hydrometer_score::Score;

pub fn unit(score: Score) -> Unit {
    match score {
        Score::Correct(_) | Score::PassAt { .. } | Score::Truncated => Unit::Share,
        Score::TeacherNll => Unit::NatsPerToken,
        Score::Rouge(_) | Score::Distinct1 | Score::Distinct2 | Score::ExposureBias => Unit::Dimensionless,
    }
}

/// Decimals of a value, after the change to percent.
pub fn digits(score: Score) -> usize {
    if unit(score) == Unit::Share { 1 } else { 3 }
}

/// A value with its decimals and unit: `41.5%`.
pub fn value(score: Score, value: f64) -> String {
    let unit = unit(score);
    format!("{}{}", fixed(unit.factor() * value, digits(score)), unit.sign())
}

/// A difference with its decimals and without a unit; of shares, in percentage points.
pub fn difference(score: Score, value: f64) -> String {
    signed(unit(score).factor() * value, digits(score))
}

/// The unit of a difference, for notes.
pub fn unit_of_difference(score: Score) -> &'static str {
    match unit(score) {
        Unit::Share => "in percentage points",
        Unit::NatsPerToken => "in nats per token",
        Unit::BitsPerByte | Unit::Dimensionless => "on the scale of the score",
    }
}
