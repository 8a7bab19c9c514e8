//! Names that an experiment gives: to itself, its arms, teachers and claims. A name is shown and becomes part of a folder's name; it
//! is never a path.

use std::path::Path;

use anyhow::Result;

use crate::text::{escaped, is_hidden, quoted};
use crate::user_error;

/// Longest name of a folder, in bytes.
const FOLDER_MAX: usize = 255;
/// What is kept of a longer one: how it begins, and the seed and the hash in which it ends.
const HEAD: usize = 150;
const TAIL: usize = 60;

/// The name of the experiment in `path`: that of the file, less its ending. Errors where it cannot name a folder of results.
pub fn experiment(path: &Path) -> Result<String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let why = match name.trim() {
        "" | "." | ".." => format!("{} cannot name one", quoted(&name)),
        _ => match name.chars().find(|&c| is_hidden(c)) {
            Some(c) => format!("this name holds the control character {}", escaped(c)),
            None => return Ok(name),
        },
    };
    let shown = path.display();
    Err(user_error!("{shown}: an experiment and its folder of results are called as its file, but {why}; rename the file"))
}

/// Errors where `name`, of a thing that is called `what` and written as `example`, cannot be shown as it is.
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

/// `name` as that of a folder: what a file system might not like becomes `_`, and what is too long for one loses its middle.
pub fn file_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._=+-".contains(c) { c } else { '_' }).collect();
    match clean.as_str() {
        // The folder itself, or the one above.
        "" | "." | ".." => "_".repeat(clean.len().max(1)),
        long if long.len() > FOLDER_MAX => format!("{}...{}", &long[..HEAD], &long[long.len() - TAIL..]),
        _ => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_one_component_that_any_file_system_takes_and_clean_ones_are_kept() {
        assert_eq!(file_name("soft-ce-top_k=5+x.y-s0-0123abcd"), "soft-ce-top_k=5+x.y-s0-0123abcd");
        assert_eq!(file_name("cache-x/../../evil-k5-0123abcd"), "cache-x_.._.._evil-k5-0123abcd");
        assert_eq!(file_name("a\\b\0c\u{1b}d|<é>"), "a_b_c_d____");
        assert_eq!(["", ".", "..", "..."].map(file_name), ["_", "_", "__", "..."]);
        let long = |middle: &str| file_name(&format!("{}{middle}-s0-0123abcd", "x".repeat(5000)));
        assert!(long("").len() <= FOLDER_MAX && long("").ends_with("-s0-0123abcd"), "{}", long(""));
        assert_ne!(
            file_name(&format!("{}-s0-0123abcd", "x".repeat(300))),
            file_name(&format!("{}-s0-0123abce", "x".repeat(300)))
        );
        assert_eq!(file_name(&"x".repeat(FOLDER_MAX)), "x".repeat(FOLDER_MAX));
    }

    #[test]
    fn a_file_whose_name_cannot_name_a_folder_names_no_experiment() {
        assert_eq!(experiment(Path::new("a/b c.toml")).unwrap(), "b c");
        for bad in ["..toml", "...toml", "a/bad\u{1b}.toml", " .toml", "x\u{202e}.toml", "a\nb.toml"] {
            let error = experiment(Path::new(bad)).unwrap_err();
            assert!(error.is::<crate::UserError>() && error.to_string().contains("rename the file"), "{bad:?}: {error}");
        }
    }
}
