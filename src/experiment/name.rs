//! Names of experiments, arms, teachers and claims. A name is displayed and becomes part of a folder's name; it is never a path.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::text::{escaped, is_hidden, quoted};
use hydrometer_base::user_error;

/// The name of the experiment in `path`: the file's name without its extension. An error if it cannot name a results folder.
pub fn experiment(path: &Path) -> Result<String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let why = match name.trim() {
        "" | "." | ".." => format!("{} cannot name a folder", quoted(&name)),
        _ => match name.chars().find(|&c| is_hidden(c)) {
            Some(c) => format!("this name holds the control character {}", escaped(c)),
            None => return Ok(name),
        },
    };
    let shown = path.display();
    Err(user_error!("{shown}: the experiment and its results folder are named after this file, but {why}; rename the file"))
}

/// An error if `name` is empty or contains a control character. Messages call the named thing `what` and suggest `example`.
pub fn check(name: &str, what: &str, example: &str, at: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(user_error!("{at}: this {what} has no name; write e.g. {example}"));
    }
    match name.chars().find(|&c| is_hidden(c)) {
        Some(c) => {
            let (name, c) = (quoted(name), escaped(c));
            Err(user_error!("{at}: the name of the {what} {name} holds the control character {c}; leave it out"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_whose_names_cannot_name_a_folder_are_refused() {
        assert_eq!(experiment(Path::new("a/b c.toml")).unwrap(), "b c");
        for bad in ["..toml", "...toml", "a/bad\u{1b}.toml", " .toml", "x\u{202e}.toml", "a\nb.toml"] {
            let error = experiment(Path::new(bad)).unwrap_err();
            assert!(
                error.is::<hydrometer_base::UserError>() && error.to_string().contains("rename the file"),
                "{bad:?}: {error}"
            );
        }
    }
}
