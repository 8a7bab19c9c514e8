//! What must be known of an experiment to hold its results to its frames. The frames are enough for that: a checkpoint or data that the
//! file names, and that are not here, are not needed.

use std::path::PathBuf;

use anyhow::Result;
use hydrometer_base::UserError;
use hydrometer_record::frames::{Frames, RunRow};
use hydrometer_record::provenance::Provenance;
use hydrometer_report::claim::Claim;

use super::Common;
use crate::experiment::name_of;
use crate::note;

/// An experiment whose frames are looked at.
pub struct SavedExperiment {
    pub name: String,
    pub results: PathBuf,
    pub claims: Vec<Claim>,
    /// Its students.
    pub runs: Vec<String>,
}

impl Common {
    /// The experiment as its file says; where what it names is not here, as it was resolved when it was run, if the file is still
    /// the same.
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
                note!("{error:#}; not needed here: claims and runs are those of when it was run");
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
        // Before claims were kept with their runs, they were not there to be read.
        let whole = !provenance.claims.is_empty() || !provenance.experiment_toml.contains("[[claim]]");
        if !same || !whole || provenance.smoke != self.smoke {
            return Ok(None);
        }
        let Ok(frames) = Frames::read(&results) else { return Ok(None) };
        let students = RunRow::rows(&frames.runs)?.into_iter().filter(|row| row.planned && row.role == "student");
        let (claims, runs) =
            (provenance.claims.iter().map(Claim::of).collect::<Result<_>>()?, students.map(|row| row.run).collect());
        Ok(Some(SavedExperiment { name, results, claims, runs }))
    }
}
