//! Places that a flag names to write to: looked at before any work is done for them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::writable;
use hydrometer_base::user_error;

/// Makes `folder`, which `flag` names, and makes sure that files can be made in it; `what` it is the folder of.
pub fn folder(folder: &Path, what: &str, flag: &str) -> Result<()> {
    writable(folder, &format!("the {what} folder"), &format!("choose another with {flag}"))
}

/// Makes sure that `folder`, which `flag` names, is not inside the data folder `data`: what is written there would be read as data.
pub fn outside(folder: &Path, data: &Path, flag: &str) -> Result<()> {
    match whole(folder).starts_with(whole(data)) {
        true => Err(user_error!(
            "{} is inside the data folder {}, where it would be read as data; choose another with {flag}, or give the data a folder \
             of its own",
            folder.display(),
            data.display()
        )),
        false => Ok(()),
    }
}

/// The absolute path of what may not be there yet, without links as far as it is there.
fn whole(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(found), ..) => found,
        (Err(_), Some(parent), Some(name)) => whole(parent).join(name),
        _ => path,
    }
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
