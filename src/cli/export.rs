//! `hydrometer export`: the frames for programs that read no Parquet.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Output, results_of};
use crate::record::export::csv::Csv;
use crate::record::export::tensorboard::TensorBoard;
use crate::record::export::{self, export};

#[derive(Args, Debug)]
pub struct Export {
    /// A folder of results, or an experiment file that was run.
    #[arg(value_name = "RESULTS")]
    results: PathBuf,
    #[arg(long, value_enum)]
    format: Format,
    /// Where the files go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A file a frame.
    Csv,
    /// A folder of events a run: `tensorboard --logdir DIR`.
    Tensorboard,
}

impl Export {
    pub fn export(&self, output: Output) -> Result<ExitCode> {
        let format: &dyn export::Export = match self.format {
            Format::Csv => &Csv,
            Format::Tensorboard => &TensorBoard,
        };
        let files = export(format, &results_of(&self.results)?, &self.out)?;
        match output {
            Output::Json => println!("{:#}", json!({ "files": files })),
            Output::Human => files.iter().for_each(|file| println!("{}", file.display())),
        }
        Ok(ExitCode::SUCCESS)
    }
}
