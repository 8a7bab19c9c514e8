//! Suggestions for an unknown name: the nearest known name, or a list of all.

use crate::text::{quoted, shown};

/// Maximum number of names that a message lists.
const LISTED: usize = 40;
/// Longest word, in characters, that is taken for a misspelt key.
const MISSPELT_MAX: usize = 60;

/// `unknown tail "bukket"; did you mean "bucket"?`
pub fn unknown(what: &str, found: &str, known: &[&str]) -> String {
    format!("unknown {what} {}; {}", quoted(found), suggestion(found, known))
}

/// `unknown key "objctive" in [method.soft-ce]; did you mean "objective"?`
pub fn unknown_key(found: &str, within: &str, known: &[&str]) -> String {
    format!("unknown key {} in {}; {}", quoted(found), shown(within), suggestion(found, known))
}

fn suggestion(found: &str, known: &[&str]) -> String {
    let short_enough = found.chars().count() <= MISSPELT_MAX;
    let nearest = known
        .iter()
        .filter(|candidate| short_enough && candidate.len() <= MISSPELT_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(found, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3);
    match nearest {
        Some((_, candidate)) => format!("did you mean {candidate:?}?"),
        None => {
            let listed: Vec<String> = known.iter().take(LISTED).map(|name| shown(name)).collect();
            let more = known.len() - listed.len();
            format!("known are {}{}", listed.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() })
        }
    }
}
