//! `hydrometer export`: exports frames to formats other than Parquet, or the weights of a run to a Hugging Face folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hydrometer_record::checked::Checked;
use hydrometer_record::export::csv::Csv;
use hydrometer_record::export::tensorboard::TensorBoard;
use hydrometer_record::export::{self, export};
use hydrometer_report::CLAIMS;
use hydrometer_report::numbers::Numbers;
use serde_json::json;

use super::{Output, export_checkpoint, place, results_of, terminal};
use crate::{note, say};

#[derive(Args, Debug)]
pub struct Export {
    /// A results folder, or an experiment file that was run; for hf, a run id or its beginning.
    #[arg(value_name = "RESULTS|RUN")]
    of: String,
    /// Format to export to.
    #[arg(long, value_enum, default_value = "hf")]
    format: Format,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The folder that contains the run.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One CSV file per frame.
    Csv,
    /// Every number of the report by name, in one file `EXPERIMENT.json`, for texts that quote them.
    Json,
    /// One folder of events per run, for `tensorboard --logdir DIR`.
    Tensorboard,
    /// The weights of a finished run as a Hugging Face folder.
    Hf,
}

impl Export {
    pub fn export(&self, output: Output) -> Result<ExitCode> {
        let claims = |folder: &Path| std::fs::read_to_string(folder.join(CLAIMS)).ok();
        let numbers = Numbers { claims: results_of(Path::new(&self.of)).ok().and_then(|folder| claims(&folder)) };
        let format: &dyn export::Export = match self.format {
            Format::Csv => &Csv,
            Format::Json => &numbers,
            Format::Tensorboard => &TensorBoard,
            Format::Hf => {
                let run = export_checkpoint::export(&self.of, &self.runs, &self.out)?;
                match output {
                    Output::Json => terminal::json(&json!({ "run": run, "folder": self.out })),
                    Output::Human => say!("{run} was exported to {}", self.out.display()),
                }
                return Ok(ExitCode::SUCCESS);
            }
        };
        let folder = results_of(Path::new(&self.of))?;
        let results = Checked::read(&folder)?;
        if let Some(warning) = results.warning(&folder) {
            note!("{warning}");
        }
        place::folder(&self.out, "output", "--out DIR")?;
        let files = export(format, &results, &self.out)?;
        match output {
            Output::Json => terminal::json(&json!({ "files": files, "changed_frames": results.changed })),
            Output::Human => files.iter().for_each(|file| say!("{}", file.display())),
        }
        Ok(ExitCode::SUCCESS)
    }
}
