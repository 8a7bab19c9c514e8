//! `UserError`: errors that the user can correct, as opposed to internal errors.

use std::fmt;

/// Bad input: one sentence that gives the place and the cure. The program exits with code 2 before any work starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError(pub String);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// Makes an `anyhow::Error` that holds a [`UserError`], from a format string.
#[macro_export]
macro_rules! user_error {
    ($($arg:tt)*) => { anyhow::Error::new($crate::UserError(format!($($arg)*))) };
}
