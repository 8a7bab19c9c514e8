//! Runs the command line, prints the final error, and sets the exit code.

use std::process::ExitCode;

use anyhow::anyhow;
use hydrometer::cli::{self, terminal};
use hydrometer::shortage::{first_words, shortage};
use hydrometer::{dist, guard};

fn main() -> ExitCode {
    dist::exit::skip_teardown();
    dist::memory::keep_freed();
    let ended = match guard::outermost(cli::run) {
        Ok(ended) => ended.and_then(|code| terminal::finish().map(|()| code)),
        Err(panic) => Err(match shortage(&panic.message) {
            Some(_) => anyhow!(panic.message),
            None => anyhow!("internal error: {} ({})", first_words(&panic.message), panic.place),
        }),
    };
    ended.unwrap_or_else(|error| {
        match shortage(&format!("{error:#}")) {
            Some(shortage) => terminal::error(&anyhow!("{shortage}; {CURE}")),
            None => terminal::error(&error),
        }
        cli::exit_code(&error)
    })
}

/// Remedy if a subcommand runs out of memory. `run` handles its jobs itself, with more specific remedies.
const CURE: &str = "try a shorter context, a smaller batch or a smaller model, or a machine with more memory";
