//! distinct-n: the diversity of texts.

use std::collections::BTreeSet;

/// The number of different n-grams of `texts` together, divided by their number of words (Li et al. 2016, "A Diversity-Promoting Objective
/// Function for Neural Conversation Models"). Words are what white space separates, as written. An n-gram does not cross texts. 0 if
/// there are no words.
///
/// The divisor is the number of words for every n, as in the paper; so distinct-2 of a single text without repetition is below 1.
pub fn distinct(texts: &[&str], n: usize) -> f64 {
    let words: Vec<Vec<&str>> = texts.iter().map(|text| text.split_whitespace().collect()).collect();
    let count: usize = words.iter().map(Vec::len).sum();
    if count == 0 || n == 0 {
        return 0.0;
    }
    let different: BTreeSet<&[&str]> = words.iter().flat_map(|words| words.windows(n)).collect();
    different.len() as f64 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: counted by hand.
    #[test]
    fn different_ngrams_are_counted_per_word() {
        for (texts, n, wanted) in [
            (&["a b a b"][..], 1, 2.0 / 4.0),
            (&["a b a b"], 2, 2.0 / 4.0),
            (&["a b c d"], 1, 1.0),
            (&["a b c d"], 2, 3.0 / 4.0),
            (&["a b", "a b"], 1, 2.0 / 4.0),
            (&["a b", "b a"], 2, 2.0 / 4.0),
            (&["a", "b"], 2, 0.0),
            (&["A a"], 1, 1.0),
            (&[" ", ""], 1, 0.0),
            (&[], 1, 0.0),
        ] {
            assert_eq!(distinct(texts, n), wanted, "{texts:?}, n {n}");
        }
    }
}
