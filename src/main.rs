//! Parse, dispatch, exit code.

use std::process::ExitCode;

use hydrometer::{cli, terminal};

fn main() -> ExitCode {
    let ended = cli::run().and_then(|code| terminal::finish().map(|()| code));
    ended.unwrap_or_else(|error| {
        terminal::error(&error);
        cli::exit_code(&error)
    })
}
