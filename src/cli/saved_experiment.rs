//! What `report` and `verify` need to know about an experiment. Its frames and provenance are enough: the checkpoints and data
//! that the experiment file names may be missing.

use std::path::PathBuf;

use anyhow::Result;
use hydrometer_base::UserError;
use hydrometer_record::frames::{Frames, RunRow};
use hydrometer_record::provenance::Provenance;
use hydrometer_report::claim::Claim;

use super::Common;
use crate::experiment::name_of;
use crate::note;

/// An experiment that has results.
pub struct SavedExperiment {
    pub name: String,
    pub results: PathBuf,
    pub claims: Vec<Claim>,
    /// The run ids of its students.
    pub runs: Vec<String>,
}

impl Common {
    /// The experiment, resolved from its file. If what the file names is missing, the experiment as it was resolved when it was
    /// run, provided that the file has not changed since.
    pub fn known(&self) -> Result<SavedExperiment> {
        let error = match self.read() {
            Err(error) if error.is::<UserError>() => error,
            loaded => {
                let experiment = loaded?;
                let results = self.results(&experiment);
                let runs = experiment.students.iter().map(|student| student.run.to_string()).collect();
                return Ok(SavedExperiment { name: experiment.name, results, claims: experiment.claims, runs });
            }
        };
        match self.as_it_was_run()? {
            Some(known) => {
                note!("{error:#}; not needed here: claims and runs are taken from when it was run");
                Ok(known)
            }
            None => Err(error),
        }
    }

    fn as_it_was_run(&self) -> Result<Option<SavedExperiment>> {
        let Ok(name) = name_of(&self.experiment) else { return Ok(None) };
        let results = self.results_of(&name);
        let Ok(provenance) = Provenance::read(&results) else { return Ok(None) };
        let same = std::fs::read_to_string(&self.experiment).is_ok_and(|text| text == provenance.experiment_toml);
        // Older versions did not record claims in the provenance.
        let complete = !provenance.claims.is_empty() || !provenance.experiment_toml.contains("[[claim]]");
        if !same || !complete || provenance.smoke != self.smoke {
            return Ok(None);
        }
        let Ok(frames) = Frames::read(&results) else { return Ok(None) };
        let students = RunRow::rows(&frames.runs)?.into_iter().filter(|row| row.planned && row.role == "student");
        let (claims, runs) =
            (provenance.claims.iter().map(Claim::of).collect::<Result<_>>()?, students.map(|row| row.run).collect());
        Ok(Some(SavedExperiment { name, results, claims, runs }))
    }
}
