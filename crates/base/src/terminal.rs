//! Standard output and standard error. All that the program says goes through here.
//!
//! A reader that is gone ends the output, not the work: what is said after that is dropped. Any other failure to write to standard
//! output is kept and told by [`finish`]. Failures to write to standard error are nobody's to hear.
//! Whatever text of others is in what is said, it reaches the terminal with its control characters escaped.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::Value;

use crate::UserError;
use crate::text::{is_hidden, sentence, visible, visible_block};

/// Says a line on standard output, from a format string.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::terminal::line(format_args!($($arg)*)) };
}

/// Says a line on standard error, from a format string.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::terminal::note(format_args!($($arg)*)) };
}

/// How writing to standard output has gone.
struct Standing {
    /// Nobody reads it any more.
    gone: bool,
    /// Why it cannot be written.
    error: Option<io::Error>,
}

static STANDING: Mutex<Standing> = Mutex::new(Standing { gone: false, error: None });

/// A line on standard output; a line break inside it is escaped. See [`say!`](crate::say).
pub fn line(said: fmt::Arguments) {
    put(&format!("{}\n", visible(&said.to_string())));
}

/// Lines that we have laid out: a table.
pub fn block(text: &str) {
    put(&format!("{}\n", visible_block(text)));
}

/// The one document of a verb that is asked for JSON.
pub fn json(document: &Value) {
    let mut text = String::new();
    for c in format!("{document:#}\n").chars() {
        match c != '\n' && is_hidden(c) {
            // Only strings hold such characters: serde_json escapes no more than C0.
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}")),
            false => text.push(c),
        }
    }
    put(&text);
}

/// What `write` puts out, as it is. A reader that leaves ends it.
pub fn stream(write: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) -> Result<()> {
    let written = write(&mut Output);
    match standing(|standing| standing.gone || standing.error.is_some()) {
        true => Ok(()),
        false => written,
    }
}

/// A line on standard error, if anybody hears it. See [`note!`](crate::note).
pub fn note(said: fmt::Arguments) {
    let _ = io::stderr().lock().write_all(format!("{}\n", sentence(&said.to_string())).as_bytes());
}

/// Says why the program ends: the user's mistakes in a sentence, ours with whatever they hold.
pub fn error(error: &anyhow::Error) {
    match error.chain().any(|cause| cause.is::<UserError>()) {
        true => note(format_args!("hydrometer: {error:#}")),
        false => {
            let lines = visible_block(&format!("hydrometer: {error:#}\n"));
            let _ = io::stderr().lock().write_all(lines.as_bytes());
        }
    }
}

/// Says what clap has to say: help on standard output, mistakes on standard error.
pub fn clap(said: &clap::Error) {
    let text = said.render();
    if said.use_stderr() {
        // Mistakes quote what was typed.
        let lines = text.to_string().lines().map(|line| sentence(line) + "\n").collect::<String>();
        let _ = io::stderr().lock().write_all(lines.as_bytes());
    } else if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        put(&text.ansi().to_string());
    } else {
        put(&text.to_string());
    }
}

/// Whether all that was said could be written, or nobody wanted to read the rest.
pub fn finish() -> Result<()> {
    match standing(|standing| standing.error.take()) {
        None => Ok(()),
        Some(error) => Err(anyhow!("cannot write to standard output: {error}")),
    }
}

fn standing<T>(with: impl FnOnce(&mut Standing) -> T) -> T {
    with(&mut STANDING.lock().unwrap_or_else(PoisonError::into_inner))
}

fn put(text: &str) {
    let _ = Output.write_all(text.as_bytes()).and_then(|()| Output.flush());
}

/// Standard output, which remembers its first failure and takes nothing after it.
struct Output;

impl Output {
    fn attempt<T>(&self, write: impl Fn(&mut io::StdoutLock) -> io::Result<T>) -> io::Result<T> {
        if standing(|standing| standing.gone || standing.error.is_some()) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        loop {
            match write(&mut io::stdout().lock()) {
                // Whoever shares the pipe may have made it so that a write does not wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(5)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    let gone = kind == ErrorKind::BrokenPipe || hung_up(&error);
                    standing(|standing| match gone {
                        true => standing.gone = true,
                        false => standing.error = Some(error),
                    });
                    return Err(kind.into());
                }
                written => return written,
            }
        }
    }
}

/// Whether `error` is that of a terminal that has gone.
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
