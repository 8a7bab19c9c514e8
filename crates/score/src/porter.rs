//! Porter's stemmer with NLTK's extensions, the default mode of `nltk.stem.PorterStemmer` that `rouge-score` uses.
//!
//! Rule by rule after M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980), and NLTK 3's changes of it. For words of ASCII
//! lower-case letters and digits; digits are consonants.

/// Forms that the rules would stem wrongly, with their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffixes and what replaces each if the stem before it has a vowel followed by a consonant.
type Rules = &'static [(&'static str, &'static str)];

const STEP_2: Rules = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

const STEP_3: Rules =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Suffixes that are removed after a stem of measure 2 or more.
const STEP_4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous",
    "ive", "ize",
];

/// The stem of `word`.
pub fn stem(word: &str) -> String {
    let irregular = IRREGULAR.iter().find(|(form, _)| *form == word);
    if let Some((_, stem)) = irregular {
        return stem.to_string();
    }
    if word.len() <= 2 {
        return word.to_string();
    }
    let word = step_1c(step_1b(step_1a(word)));
    let word = step_4(replace(step_2(word), STEP_3));
    step_5b(step_5a(word))
}

/// Whether each letter is a consonant: `y` is one at the start and after a vowel.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        let before = flags.last().copied();
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => before.is_none_or(|consonant| !consonant),
            _ => true,
        });
    }
    flags
}

/// The number of times that a consonant follows a vowel: m of \[C\](VC)^m\[V\].
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

fn last(word: &str) -> u8 {
    word.bytes().next_back().unwrap_or_default()
}

fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() >= 2 && letters[letters.len() - 2] == last(word) && consonants(word).last() == Some(&true)
}

/// Porter's *o: consonant, vowel, consonant other than w, x and y. NLTK adds words of a vowel and a consonant.
fn ends_in_cvc(word: &str) -> bool {
    match consonants(word)[..] {
        [.., true, false, true] => !b"wxy".contains(&last(word)),
        [false, true] => true,
        _ => false,
    }
}

/// Applies the first rule whose suffix `word` has; none of the others, even if the stem is too short for it.
fn replace(word: String, rules: Rules) -> String {
    let rule = rules.iter().find_map(|(suffix, new)| Some((word.strip_suffix(suffix)?, suffix, new)));
    match rule {
        // NLTK measures the stem of `logi` with its l.
        Some((stem, &"logi", new)) if measure(&format!("{stem}l")) > 0 => format!("{stem}{new}"),
        Some((stem, _, new)) if measure(stem) > 0 => format!("{stem}{new}"),
        _ => word,
    }
}

/// Plurals.
fn step_1a(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_string();
    }
    let cut = match word {
        _ if word.ends_with("sses") || word.ends_with("ies") => 2,
        _ if word.ends_with("ss") || !word.ends_with('s') => 0,
        _ => 1,
    };
    word[..word.len() - cut].to_string()
}

/// Past tenses and participles.
fn step_1b(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    let stems = ["ed", "ing"].into_iter().filter_map(|suffix| word.strip_suffix(suffix));
    let Some(stem) = stems.into_iter().find(|stem| has_vowel(stem)) else { return word };
    match stem {
        _ if ["at", "bl", "iz"].iter().any(|ending| stem.ends_with(ending)) => format!("{stem}e"),
        _ if ends_in_double_consonant(stem) => match last(stem) {
            b'l' | b's' | b'z' => stem.to_string(),
            _ => stem[..stem.len() - 1].to_string(),
        },
        _ if measure(stem) == 1 && ends_in_cvc(stem) => format!("{stem}e"),
        _ => stem.to_string(),
    }
}

/// `y` after a consonant becomes `i`, unless only one letter comes before it.
fn step_1c(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word,
    }
}

/// Double suffixes.
fn step_2(word: String) -> String {
    match word.strip_suffix("alli") {
        Some(stem) if measure(stem) > 0 => step_2(format!("{stem}al")),
        _ => replace(word, STEP_2),
    }
}

fn step_4(word: String) -> String {
    let Some((stem, suffix)) = STEP_4.iter().find_map(|suffix| Some((word.strip_suffix(suffix)?, *suffix))) else {
        return word;
    };
    let removed = measure(stem) > 1 && (suffix != "ion" || b"st".contains(&last(stem)));
    if removed { stem.to_string() } else { word }
}

/// A final `e`.
fn step_5a(word: String) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || measure(stem) == 1 && !ends_in_cvc(stem) => stem.to_string(),
        _ => word,
    }
}

/// A final double `l`.
fn step_5b(word: String) -> String {
    match word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        true => word[..word.len() - 1].to_string(),
        false => word,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Oracle: NLTK's stemmer, run by `tests/fixtures/scores/make_rouge.py`, which makes sure that the words reach every rule, both where
    /// it applies and where its condition fails.
    #[test]
    fn words_are_stemmed_as_by_nltk() {
        let table = include_str!("../../../tests/fixtures/scores/stems.tsv");
        let pairs: Vec<(&str, &str)> = table.lines().filter_map(|line| line.split_once('\t')).collect();
        assert!(pairs.len() > 3000);
        let wrong: Vec<_> = pairs.iter().filter(|(word, wanted)| stem(word) != *wanted).collect();
        assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), pairs.len());
    }

    proptest! {
        #[test]
        fn every_word_has_a_stem_that_is_no_longer(word in "[a-z0-9]{1,12}(ing|ed|s|ational|logi|ies|y|ll|e)?") {
            let stem = stem(&word);
            // `-e` may be put back after `-ed` and `-ing`, which are longer.
            prop_assert!(!stem.is_empty() && stem.len() <= word.len(), "{} {}", word, stem);
        }
    }
}
