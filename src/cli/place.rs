//! Checks of output paths given by flags, made before any work starts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::writable;
use hydrometer_base::user_error;

/// Creates `folder`, given by `flag`, and checks that files can be created in it. `what` describes it in the error message.
pub fn folder(folder: &Path, what: &str, flag: &str) -> Result<()> {
    writable(folder, &format!("the {what} folder"), &format!("choose another with {flag}"))
}

/// Checks that `folder`, given by `flag`, is not inside the data folder `data`, where its files would be read as data.
pub fn outside(folder: &Path, data: &Path, flag: &str) -> Result<()> {
    match resolved(folder).starts_with(resolved(data)) {
        true => Err(user_error!(
            "{} is inside the data folder {}, where it would be read as data; choose another with {flag}, or give the data a folder \
             of its own",
            folder.display(),
            data.display()
        )),
        false => Ok(()),
    }
}

/// The absolute path of `path`, which need not exist; symbolic links in the part that exists are resolved.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(found), ..) => found,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path,
    }
}

/// Checks that `file`, given by `flag`, can be created or replaced. Anything but a regular file, e.g. a device, is not replaced.
pub fn file(file: &Path, flag: &str) -> Result<()> {
    let shown = file.display();
    if file.is_dir() || file.file_name().is_none() {
        return Err(user_error!("{shown} is a folder; choose another {flag}"));
    }
    if file.exists() && !file.is_file() {
        return Err(user_error!("{shown} is not a regular file and is not replaced; choose another {flag}"));
    }
    match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            Err(user_error!("there is no folder {}; create it, or choose another {flag}", parent.display()))
        }
        parent => folder(parent.unwrap_or(Path::new(".")), "output", flag),
    }
}
