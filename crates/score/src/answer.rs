//! Whether an answer is correct: as a text, or by a number in it.

use crate::number::{Number, numbers};

/// How an answer is compared with a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Criterion {
    /// The same text but for white space around it, as HELM's `exact_match`; lm-eval's strips nothing.
    Exact,
    /// The first number of the answer equals the first of the reference.
    FirstNumber,
    /// The last number of the answer equals the last of the reference.
    LastNumber,
}

impl Criterion {
    pub const ALL: [Self; 3] = [Self::Exact, Self::FirstNumber, Self::LastNumber];

    /// The name of the score that counts correct answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact-match",
            Self::FirstNumber => "number-first",
            Self::LastNumber => "number-last",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|criterion| criterion.name() == name)
    }

    /// Whether `answer` agrees with `reference`. An answer without a number agrees with no number.
    pub fn accepts(self, answer: &str, reference: &str) -> bool {
        match self {
            Self::Exact => answer.trim() == reference.trim(),
            Self::FirstNumber | Self::LastNumber => {
                self.number(answer).is_some_and(|number| Some(number) == self.number(reference))
            }
        }
    }

    /// Whether `answer` agrees with any of `references`.
    pub fn accepts_any(self, answer: &str, references: &[&str]) -> bool {
        references.iter().any(|reference| self.accepts(answer, reference))
    }

    /// Whether an answer can agree with `reference`: it must have a number if numbers are compared.
    pub fn applies_to(self, reference: &str) -> bool {
        self == Self::Exact || self.number(reference).is_some()
    }

    fn number(self, text: &str) -> Option<Number> {
        match self {
            Self::Exact => None,
            Self::FirstNumber => numbers(text).next(),
            Self::LastNumber => numbers(text).last(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn exact_match_ignores_surrounding_white_space_and_nothing_else() {
        let accepted = ["yes", " yes", "yes\n", "\t yes \u{a0}"];
        let refused = ["Yes", "yes.", "y es", "", "yes yes", "ye\u{301}s"];
        assert!(accepted.iter().all(|answer| Criterion::Exact.accepts(answer, "yes ")));
        assert!(!refused.iter().any(|answer| Criterion::Exact.accepts(answer, "yes")));
        assert!(!Criterion::Exact.accepts("a b", "a  b"));
    }

    #[test]
    fn numbers_are_compared_at_the_end_that_the_criterion_names() {
        let (first, last) = (Criterion::FirstNumber, Criterion::LastNumber);
        let text = "12 eggs cost 3.50, so one costs 7/24";
        assert!(first.accepts(text, "12") && !first.accepts(text, "7/24"));
        assert!(last.accepts(text, "7/24") && !last.accepts(text, "12"));
        // The reference is read at the same end: GSM8K's end in "#### 18".
        assert!(last.accepts("So she makes $18.", "9 * 2 = 18 a day\n#### 18"));
        for criterion in [first, last] {
            assert!(!criterion.accepts("no number", "also none") && !criterion.accepts("", "1"));
            assert!(!criterion.applies_to("none") && criterion.applies_to("1"));
            assert!(criterion.accepts_any("5", &["four", "5"]) && !criterion.accepts_any("5", &[]));
        }
    }

    /// Oracle: reasoning-gym's `score_answer`, which gives 1 to a right answer; `experiments/corpora/tasks/make_tasks.py` asked it. The kinds of
    /// answer that only we accept, and those that only reasoning-gym accepts, are exactly these.
    #[test]
    fn answers_are_accepted_as_by_reasoning_gym_but_for_the_listed_kinds() {
        let table = include_str!("../../../tests/fixtures/scores/reasoning-gym.jsonl");
        let rows: Vec<serde_json::Value> = table.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows.len() > 1000);
        let different = |task: &str, criterion: Criterion| {
            let mut kinds = [BTreeSet::new(), BTreeSet::new()];
            for row in rows.iter().filter(|row| row["task"] == task) {
                let text = |key: &str| row[key].as_str().unwrap();
                let accepted = criterion.accepts(text("answer"), text("reference"));
                if accepted != (row["score"] == 1.0) {
                    kinds[usize::from(!accepted)].insert(text("kind"));
                }
            }
            kinds.map(|kinds| kinds.into_iter().collect::<Vec<_>>().join(" "))
        };
        // reasoning-gym wants the number alone; then it reads what Python's `Decimal` does, after leaving out all commas. Strings it
        // compares as they are, except that `spell_backward` ignores case.
        let spaces = "newline-after space-after space-before";
        let decimal = "full-width stray-comma underscore";
        let first = "doubled fraction more-after quoted sentence sentence-full-stop twice two-numbers-first";
        let last = "fraction more-after quoted sentence sentence-full-stop twice two-numbers";
        let cases = [
            ("chain-sum", Criterion::FirstNumber, first, decimal),
            ("chain-sum", Criterion::LastNumber, last, decimal),
            ("basic-arithmetic", Criterion::Exact, spaces, ""),
            ("letter-counting", Criterion::Exact, spaces, ""),
            ("spell-backward", Criterion::Exact, spaces, "capitalised upper-case"),
        ];
        for (task, criterion, ours, theirs) in cases {
            assert_eq!(different(task, criterion), [ours, theirs], "{task}, {}", criterion.name());
        }
        // By exact match, a sum written in another way is wrong.
        let ways = "decimal doubled exponent full-stop full-width leading-zero plus stray-comma thousands underscore";
        assert_eq!(different("chain-sum", Criterion::Exact), ["", ways]);
    }
}
