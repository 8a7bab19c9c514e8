//! Errors that are the user's to mend, apart from ours.

use std::fmt;

/// Bad input: one sentence with the place and what to do. Ends the program with exit code 2 before any work starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserError(pub String);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// A [`UserError`] as an `anyhow::Error`, from a format string.
#[macro_export]
macro_rules! user_error {
    ($($arg:tt)*) => { anyhow::Error::new($crate::UserError(format!($($arg)*))) };
}
