//! ROUGE-1, ROUGE-2 and ROUGE-L, equal to `rouge-score` 0.1.2 with `use_stemmer=True` (Lin 2004).
//!
//! Texts are lower-cased; words are runs of ASCII letters and digits, so other scripts have none. Words of more than three letters
//! are stemmed.

use std::collections::BTreeMap;

use crate::porter::stem;

/// Longest word that is not stemmed.
const UNSTEMMED: usize = 3;

/// What two texts may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rouge {
    Unigrams,
    Bigrams,
    LongestSubsequence,
}

/// What an answer has in common with a reference, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// As a share of the answer.
    pub precision: f64,
    /// As a share of the reference.
    pub recall: f64,
    /// Their harmonic mean.
    pub f: f64,
}

impl Rouge {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unigrams => "rouge-1",
            Self::Bigrams => "rouge-2",
            Self::LongestSubsequence => "rouge-l",
        }
    }

    pub fn overlap(self, answer: &str, reference: &str) -> Overlap {
        self.of_words(&words(answer), &words(reference))
    }

    /// The overlap with the reference that has the highest F; the first of them if several have. Zeros without references.
    pub fn best(self, answer: &str, references: &[&str]) -> Overlap {
        let answer = words(answer);
        let all = references.iter().map(|reference| self.of_words(&answer, &words(reference)));
        all.reduce(|best, next| if next.f > best.f { next } else { best }).unwrap_or_default()
    }

    fn of_words(self, answer: &[String], reference: &[String]) -> Overlap {
        match self {
            Self::Unigrams => ngrams(answer, reference, 1),
            Self::Bigrams => ngrams(answer, reference, 2),
            Self::LongestSubsequence => {
                Overlap::new(longest_common_subsequence(answer, reference), answer.len(), reference.len())
            }
        }
    }
}

impl Overlap {
    fn new(common: usize, answer: usize, reference: usize) -> Self {
        let (precision, recall) = (common as f64 / answer.max(1) as f64, common as f64 / reference.max(1) as f64);
        let f = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        Self { precision, recall, f }
    }
}

/// The stemmed words of `text`.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty());
    words.map(|word| if word.len() > UNSTEMMED { stem(word) } else { word.to_string() }).collect()
}

/// N-grams in common, each as often as it is in both.
fn ngrams(answer: &[String], reference: &[String], n: usize) -> Overlap {
    fn counts(words: &[String], n: usize) -> BTreeMap<&[String], usize> {
        let mut counts = BTreeMap::new();
        words.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
        counts
    }
    let mine = counts(answer, n);
    let common = counts(reference, n).iter().map(|(ngram, &count)| count.min(mine.get(ngram).copied().unwrap_or(0))).sum();
    let size = |words: &[String]| (words.len() + 1).saturating_sub(n);
    Overlap::new(common, size(answer), size(reference))
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    // lengths[j]: of the words of `a` so far and the first j of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const ALL: [Rouge; 3] = [Rouge::Unigrams, Rouge::Bigrams, Rouge::LongestSubsequence];

    /// Oracle: `rouge-score` 0.1.2, run by `tests/fixtures/scores/make_rouge.py`.
    #[test]
    fn overlaps_equal_those_of_rouge_score() {
        let corpus = include_str!("../../../tests/fixtures/scores/rouge.jsonl");
        let mut lines = 0;
        for line in corpus.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let references: Vec<&str> =
                case["references"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
            for rouge in ALL {
                let found = rouge.best(case["answer"].as_str().unwrap(), &references);
                let found = [found.precision, found.recall, found.f];
                let wanted: Vec<f64> = case[rouge.name()].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
                let close = found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= 1e-12);
                assert!(close, "{}: {found:?}, rouge-score has {wanted:?}: {line}", rouge.name());
            }
            lines += 1;
        }
        assert!(lines >= 300);
    }

    /// Oracle: every subsequence of the shorter text, tried.
    #[test]
    fn the_longest_common_subsequence_is_the_longest() {
        let letters = |bits: u32| (0..6).map(|at| if bits >> at & 1 == 1 { "a" } else { "b" }.to_string()).collect::<Vec<_>>();
        let is_within = |part: &[&String], whole: &[String]| {
            let mut rest = whole.iter();
            part.iter().all(|word| rest.any(|other| other == *word))
        };
        for (first, second) in (0..64).flat_map(|a| (0..64).step_by(5).map(move |b| (letters(a), letters(b)))) {
            let subsets =
                (0u32..64).map(|set| first.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, w)| w).collect());
            let longest = subsets.filter(|part: &Vec<&String>| is_within(part, &second)).map(|part| part.len()).max();
            assert_eq!(Some(longest_common_subsequence(&first, &second)), longest, "{first:?} {second:?}");
        }
    }

    proptest! {
        #[test]
        fn exchanging_the_texts_exchanges_precision_and_recall(a in "([a-c]{1,5}[ .]){0,8}", b in "([a-c]{1,5}[ .]){0,8}") {
            for rouge in ALL {
                let (there, back) = (rouge.overlap(&a, &b), rouge.overlap(&b, &a));
                prop_assert_eq!((there.precision, there.recall), (back.recall, back.precision));
                prop_assert!((0.0..=1.0).contains(&there.f));
            }
            if !words(&a).is_empty() {
                prop_assert_eq!(Rouge::Unigrams.overlap(&a, &a).f, 1.0);
            }
        }
    }
}
