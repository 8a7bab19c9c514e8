//! Claims: statements that results are tested against, and the runs that decide them.

pub mod arms;
pub mod expectation;
pub mod finding;
pub mod measure;

use anyhow::{Result, anyhow};
use hydrometer_record::provenance::ClaimNote;

use self::expectation::Expectation;

/// A claim with the runs that it selects: one point of the sweep for each arm, over its seeds.
#[derive(Clone, Debug)]
pub struct Claim {
    pub id: String,
    /// The claim in one sentence.
    pub says: String,
    /// As written.
    pub expect: String,
    pub expectation: Expectation,
    /// Coverage of the interval that decides the claim.
    pub level: f64,
    /// Runs of the first arm.
    pub a: Vec<String>,
    /// Runs of the second arm; none if the expectation does not use it.
    pub b: Vec<String>,
}

impl Claim {
    pub fn note(&self) -> ClaimNote {
        let Self { id, says, expect, level, a, b, .. } = self.clone();
        ClaimNote { id, says, expect, level, a, b }
    }

    /// The claim of `note`.
    pub fn of(note: &ClaimNote) -> Result<Self> {
        let expectation = Expectation::parse(&note.expect).map_err(|misread| anyhow!("claim {:?}: {}", note.id, misread.what))?;
        let ClaimNote { id, says, expect, level, a, b } = note.clone();
        Ok(Self { id, says, expect, expectation, level, a, b })
    }
}
