//! Parse, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use hydrometer::cli::{Cli, exit_code};
use hydrometer::guard;
use hydrometer::shortage::{first_words, shortage};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match guard::outermost(|| cli.run()) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            match shortage(&format!("{error:#}")) {
                Some(shortage) => eprintln!("hydrometer: {shortage}; {CURE}"),
                None => eprintln!("hydrometer: {error:#}"),
            }
            exit_code(&error)
        }
        Err(panic) => {
            match shortage(&panic.message) {
                Some(shortage) => eprintln!("hydrometer: {shortage}; {CURE}"),
                None => eprintln!("hydrometer: internal error: {} ({})", first_words(&panic.message), panic.place),
            }
            ExitCode::FAILURE
        }
    }
}

/// Where a verb runs out of memory; `run` knows more of its jobs and says more.
const CURE: &str = "try a shorter context, a smaller batch or a smaller model, or a machine with more memory";
