//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use hydrometer::cli::{Cli, exit_code};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hydrometer: {error:#}");
            exit_code(&error)
        }
    }
}
