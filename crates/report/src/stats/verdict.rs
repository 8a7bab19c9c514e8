//! The verdict of an interval on an expectation.

use serde::{Deserialize, Serialize};

/// The verdict on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The interval lies on the expected side.
    Supported,
    /// The interval lies on the other side.
    Refuted,
    /// The interval contains both sides, or there is none.
    Inconclusive,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// The verdict on "the value is below 0" from an interval of the value. An end at 0 is inconclusive.
pub fn below_zero(low: f64, high: f64) -> Verdict {
    match (high < 0.0, low > 0.0) {
        (true, _) => Verdict::Supported,
        (_, true) => Verdict::Refuted,
        _ => Verdict::Inconclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_decides_only_where_it_lies_on_one_side() {
        assert_eq!(below_zero(-2.0, -1.0), Verdict::Supported);
        assert_eq!(below_zero(1.0, 2.0), Verdict::Refuted);
        assert_eq!(below_zero(-1.0, 1.0), Verdict::Inconclusive);
        assert_eq!(below_zero(-1.0, 0.0), Verdict::Inconclusive);
        assert_eq!(below_zero(f64::NAN, f64::NAN), Verdict::Inconclusive);
    }
}
