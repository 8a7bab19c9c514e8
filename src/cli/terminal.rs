//! Standard output and standard error: everything the program prints goes through here.
//!
//! If the reader of standard output goes away (a closed pipe), further output is dropped and the work continues. Any other
//! failure to write to standard output is remembered and returned by [`finish`]. Failures to write to standard error are ignored.
//! Control characters in text from outside are escaped before they reach the terminal.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, anyhow};
use hydrometer_base::UserError;
use hydrometer_base::text::{is_hidden, sentence, visible, visible_block};
use serde_json::Value;

/// Prints a line on standard output, from a format string.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::cli::terminal::line(format_args!($($arg)*)) };
}

/// Prints a line on standard error, from a format string.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::cli::terminal::note(format_args!($($arg)*)) };
}

/// Whether standard output can still be written.
struct OutputState {
    /// The reader has gone away.
    gone: bool,
    /// The first other error.
    error: Option<io::Error>,
}

static OUTPUT_STATE: Mutex<OutputState> = Mutex::new(OutputState { gone: false, error: None });

/// Prints a line on standard output; line breaks inside it are escaped. See [`say!`](crate::say).
pub fn line(text: fmt::Arguments) {
    put(&format!("{}\n", visible(&text.to_string())));
}

/// Prints preformatted lines, such as a table.
pub fn block(text: &str) {
    put(&format!("{}\n", visible_block(text)));
}

/// Prints the JSON document of a subcommand run with `--output json`.
pub fn json(document: &Value) {
    let mut text = String::new();
    for c in format!("{document:#}\n").chars() {
        match c != '\n' && is_hidden(c) {
            // Such characters occur only in strings: serde_json itself escapes only C0 controls.
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
            false => text.push(c),
        }
    }
    put(&text);
}

/// Passes standard output to `write`, unescaped. If the reader goes away, this ends without an error.
pub fn stream(write: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) -> Result<()> {
    let written = write(&mut Output);
    match with_state(|state| state.gone || state.error.is_some()) {
        true => Ok(()),
        false => written,
    }
}

/// Prints a line on standard error, ignoring failures. See [`note!`](crate::note).
pub fn note(text: fmt::Arguments) {
    let _ = io::stderr().lock().write_all(format!("{}\n", sentence(&text.to_string())).as_bytes());
}

/// Prints why the program ends: a user error as one sentence, an internal error with its full text.
pub fn error(error: &anyhow::Error) {
    match error.chain().any(|cause| cause.is::<UserError>()) {
        true => note(format_args!("hydrometer: {error:#}")),
        false => {
            let lines = visible_block(&format!("hydrometer: {error:#}\n"));
            let _ = io::stderr().lock().write_all(lines.as_bytes());
        }
    }
}

/// Prints a message of clap: help on standard output, usage errors on standard error.
pub fn clap(message: &clap::Error) {
    let text = message.render();
    if message.use_stderr() {
        // Usage errors quote what the user typed.
        let lines = text.to_string().lines().map(|line| sentence(line) + "\n").collect::<String>();
        let _ = io::stderr().lock().write_all(lines.as_bytes());
    } else if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        put(&text.ansi().to_string());
    } else {
        put(&text.to_string());
    }
}

/// An error if some output could not be written, other than because the reader went away.
pub fn finish() -> Result<()> {
    match with_state(|state| state.error.take()) {
        None => Ok(()),
        Some(error) => Err(anyhow!("cannot write to standard output: {error}")),
    }
}

fn with_state<T>(with: impl FnOnce(&mut OutputState) -> T) -> T {
    with(&mut OUTPUT_STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn put(text: &str) {
    let _ = Output.write_all(text.as_bytes()).and_then(|()| Output.flush());
}

/// Standard output, which remembers its first failure and accepts nothing after it.
struct Output;

impl Output {
    fn attempt<T>(&self, write: impl Fn(&mut io::StdoutLock) -> io::Result<T>) -> io::Result<T> {
        if with_state(|state| state.gone || state.error.is_some()) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        loop {
            match write(&mut io::stdout().lock()) {
                // Another process that shares the pipe may have set it to non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(5)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    let gone = kind == ErrorKind::BrokenPipe || hung_up(&error);
                    with_state(|state| match gone {
                        true => state.gone = true,
                        false => state.error = Some(error),
                    });
                    return Err(kind.into());
                }
                written => return written,
            }
        }
    }
}

/// Whether `error` comes from a terminal that has been closed.
fn hung_up(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    let is_device = || -> io::Result<bool> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(out.metadata()?.file_type().is_char_device())
    };
    error.raw_os_error() == Some(EIO) && is_device().unwrap_or(false)
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(|out| out.flush())
    }
}
