//! Claims: what an experiment is held to, and the runs that decide it.

pub mod arms;
pub mod expectation;
pub mod finding;

use anyhow::{Result, anyhow};
use hydrometer_record::provenance::ClaimNote;

use self::expectation::Expectation;

/// A claim with the runs it selects: of each arm one point of the sweep, over its seeds.
#[derive(Clone, Debug)]
pub struct Claim {
    pub id: String,
    /// In a sentence.
    pub says: String,
    /// As written.
    pub expect: String,
    pub expectation: Expectation,
    /// Coverage of the interval that decides.
    pub level: f64,
    /// Runs of the first arm.
    pub a: Vec<String>,
    /// Runs of the second arm; none where the expectation does not ask for it.
    pub b: Vec<String>,
}

impl Claim {
    pub fn note(&self) -> ClaimNote {
        let Self { id, says, expect, level, a, b, .. } = self.clone();
        ClaimNote { id, says, expect, level, a, b }
    }

    /// The claim that `note` was made of.
    pub fn of(note: &ClaimNote) -> Result<Self> {
        let expectation = Expectation::parse(&note.expect).map_err(|misread| anyhow!("claim {:?}: {}", note.id, misread.what))?;
        let ClaimNote { id, says, expect, level, a, b } = note.clone();
        Ok(Self { id, says, expect, expectation, level, a, b })
    }
}
