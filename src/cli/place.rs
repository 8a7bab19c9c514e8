//! Places that a flag names to write to: looked at before any work is done for them.

use std::path::Path;

use anyhow::Result;

use crate::record::store::writable;
use crate::user_error;

/// Makes `folder`, which `flag` names, and makes sure that files can be made in it; `what` it is the folder of.
pub fn folder(folder: &Path, what: &str, flag: &str) -> Result<()> {
    writable(folder, &format!("the {what} folder"), &format!("choose another with {flag}"))
}

/// Makes sure that `file`, which `flag` names, can be made or replaced. What is no file, e.g. a device, is not replaced by one.
pub fn file(file: &Path, flag: &str) -> Result<()> {
    let shown = file.display();
    if file.is_dir() || file.file_name().is_none() {
        return Err(user_error!("{shown} is a folder; choose another {flag}"));
    }
    if file.exists() && !file.is_file() {
        return Err(user_error!("{shown} is no file that could be replaced; choose another {flag}"));
    }
    match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            Err(user_error!("there is no folder {}; make it, or choose another {flag}", parent.display()))
        }
        parent => folder(parent.unwrap_or(Path::new(".")), "output", flag),
    }
}
