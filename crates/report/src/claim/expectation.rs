//! The expectation of a claim: `perplexity(a) < 0.98 * perplexity(b)`.
//!
//! ```text
//! expectation = sum ("<" | "<=" | ">" | ">=") sum
//! sum         = product (("+" | "-") product)*
//! product     = factor (("*" | "/") factor)*
//! factor      = number | metric "(" arm ")" | score "(" arm "," task ")" | "(" sum ")" | "-" factor
//! arm         = "a" | "b"
//! task        = a task's name in double or single quotes
//! ```

use std::iter::Peekable;
use std::str::CharIndices;

use hydrometer_base::text::quoted;

use super::measure::{Items, Measure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Plus,
    Minus,
    Times,
    Over,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    Number(f64),
    Of(Measure, Side),
    Negative(Box<Expression>),
    Two(Box<Expression>, Operator, Box<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Below,
    AtMost,
    Above,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    pub left: Expression,
    pub relation: Relation,
    pub right: Expression,
}

/// A syntax error in an expectation, and the index of its character, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    pub at: usize,
    pub what: String,
}

impl Expression {
    /// The value, with the measures that `of` returns.
    pub fn value(&self, of: &impl Fn(&Measure, Side) -> f64) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Of(measure, side) => of(measure, *side),
            Self::Negative(inner) => -inner.value(of),
            Self::Two(left, operator, right) => {
                let (left, right) = (left.value(of), right.value(of));
                match operator {
                    Operator::Plus => left + right,
                    Operator::Minus => left - right,
                    Operator::Times => left * right,
                    Operator::Over => left / right,
                }
            }
        }
    }

    /// Whether the value is a product of positive numbers and metrics. Its logarithm is then the natural scale.
    pub fn is_product(&self) -> bool {
        match self {
            Self::Number(number) => *number > 0.0,
            Self::Of(measure, _) => measure.has_logarithm(),
            Self::Negative(_) => false,
            Self::Two(left, operator, right) => {
                matches!(operator, Operator::Times | Operator::Over) && left.is_product() && right.is_product()
            }
        }
    }

    fn measures(&self) -> Vec<(&Measure, Side)> {
        match self {
            Self::Number(_) => Vec::new(),
            Self::Of(measure, side) => vec![(measure, *side)],
            Self::Negative(inner) => inner.measures(),
            Self::Two(left, _, right) => [left.measures(), right.measures()].concat(),
        }
    }
}

impl Expectation {
    /// The measures in it, in order.
    pub fn measures(&self) -> Vec<(&Measure, Side)> {
        [self.left.measures(), self.right.measures()].concat()
    }

    /// The task that its scores are of, if it has any.
    pub fn task(&self) -> Option<&str> {
        self.measures().into_iter().find_map(|(measure, _)| match measure.items() {
            Items::Prompts(task) => Some(task),
            Items::Documents | Items::None => None,
        })
    }

    /// Whether a measure of `side` is in it.
    pub fn asks(&self, side: Side) -> bool {
        self.measures().iter().any(|(_, found)| *found == side)
    }

    pub fn parse(text: &str) -> Result<Self, Misread> {
        let mut parser = Parser { rest: text.char_indices().peekable(), text, depth: 0, seen: Vec::new() };
        let left = parser.sum()?;
        let relation = parser.relation()?;
        let right = parser.sum()?;
        match parser.peek() {
            None => Ok(Self { left, relation, right }),
            Some(c) => Err(parser.wrong(format!("{c:?} is not expected here; end the expression or use + - * /"))),
        }
    }
}

/// Maximum depth of nested parentheses and signs; deeper ones could exhaust the stack.
const DEPTH_MAX: usize = 64;

struct Parser<'a> {
    rest: Peekable<CharIndices<'a>>,
    text: &'a str,
    depth: usize,
    /// The measures so far.
    seen: Vec<Measure>,
}

impl Parser<'_> {
    /// The next character that is not a space.
    fn peek(&mut self) -> Option<char> {
        while self.rest.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        self.rest.peek().map(|&(_, c)| c)
    }

    fn byte(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    fn wrong(&mut self, what: String) -> Misread {
        let at = self.byte();
        Misread { at: self.text[..at].chars().count(), what }
    }

    fn take(&mut self, wanted: char) -> bool {
        self.peek() == Some(wanted) && self.rest.next().is_some()
    }

    fn expect(&mut self, wanted: char, after: &str) -> Result<(), Misread> {
        if self.take(wanted) { Ok(()) } else { Err(self.wrong(format!("{wanted:?} is missing after {after}"))) }
    }

    fn relation(&mut self) -> Result<Relation, Misread> {
        let (below, above) = (self.take('<'), self.take('>'));
        // `=` must follow directly.
        let equal = (below || above) && self.rest.next_if(|&(_, c)| c == '=').is_some();
        match (below, above, equal) {
            (true, false, false) => Ok(Relation::Below),
            (true, false, true) => Ok(Relation::AtMost),
            (false, true, false) => Ok(Relation::Above),
            (false, true, true) => Ok(Relation::AtLeast),
            _ => Err(self.wrong("a comparison is missing; use one of < <= > >=".into())),
        }
    }

    fn sum(&mut self) -> Result<Expression, Misread> {
        let mut left = self.product()?;
        loop {
            let operator = match self.peek() {
                Some('+') => Operator::Plus,
                Some('-') => Operator::Minus,
                _ => return Ok(left),
            };
            self.rest.next();
            left = Expression::Two(Box::new(left), operator, Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expression, Misread> {
        let mut left = self.factor()?;
        loop {
            let operator = match self.peek() {
                Some('*') => Operator::Times,
                Some('/') => Operator::Over,
                _ => return Ok(left),
            };
            self.rest.next();
            left = Expression::Two(Box::new(left), operator, Box::new(self.factor()?));
        }
    }

    fn factor(&mut self) -> Result<Expression, Misread> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong("the expression is nested too deeply; simplify it".into()));
        }
        let found = match self.peek() {
            Some('(') => {
                self.rest.next();
                let inner = self.sum()?;
                self.expect(')', "the expression in parentheses")?;
                inner
            }
            Some('-') => {
                self.rest.next();
                Expression::Negative(Box::new(self.factor()?))
            }
            Some(c) if c.is_ascii_digit() || c == '.' => self.number()?,
            Some(c) if c.is_alphabetic() => self.measure()?,
            _ => return Err(self.wrong("a number or a metric is missing; e.g. perplexity(a)".into())),
        };
        self.depth -= 1;
        Ok(found)
    }

    fn number(&mut self) -> Result<Expression, Misread> {
        let begin = self.rest.clone();
        let start = self.byte();
        let mut last = ' ';
        // A sign is part of the number only after the e of its exponent.
        while let Some((_, c)) = self.rest.next_if(|&(_, c)| {
            c.is_ascii_alphanumeric() || c == '.' || c == '_' || (matches!(c, '+' | '-') && matches!(last, 'e' | 'E'))
        }) {
            last = c;
        }
        let end = self.byte();
        let text = self.text[start..end].trim_end().replace('_', "");
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Expression::Number(number)),
            _ => {
                self.rest = begin;
                Err(self.wrong(format!("{text:?} is not a number")))
            }
        }
    }

    fn word(&mut self) -> String {
        self.peek();
        std::iter::from_fn(|| self.rest.next_if(|(_, c)| c.is_alphanumeric() || *c == '_')).map(|(_, c)| c).collect()
    }

    fn measure(&mut self) -> Result<Expression, Misread> {
        let begin = self.rest.clone();
        let name = self.word();
        let mut measure = match Measure::named(&name) {
            Ok(measure) => measure,
            Err(what) => {
                self.rest = begin;
                return Err(self.wrong(what));
            }
        };
        self.expect('(', &name)?;
        let side = self.side(&name)?;
        if let Measure::Score { task, .. } = &mut measure {
            if !self.take(',') {
                return Err(self.wrong(format!("{name} takes an arm and a task; e.g. {name}(a, \"sums\")")));
            }
            *task = self.task(&name)?;
        }
        self.expect(')', if matches!(measure, Measure::Score { .. }) { "the task" } else { "the arm" })?;
        if let Some(what) = self.seen.iter().find_map(|other| conflict(other, &measure)) {
            self.rest = begin;
            return Err(self.wrong(what));
        }
        self.seen.push(measure.clone());
        Ok(Expression::Of(measure, side))
    }

    fn side(&mut self, name: &str) -> Result<Side, Misread> {
        self.peek();
        let begin = self.rest.clone();
        match self.word().as_str() {
            "a" => Ok(Side::A),
            "b" => Ok(Side::B),
            other => {
                let what = format!("{name} takes a or b, not {other:?}");
                self.rest = begin;
                Err(self.wrong(what))
            }
        }
    }

    /// A task's name in quotes.
    fn task(&mut self, name: &str) -> Result<String, Misread> {
        let quote = self.peek().filter(|c| matches!(c, '"' | '\''));
        let Some(quote) = quote else {
            return Err(self.wrong(format!("the name of a task in quotes is missing; e.g. {name}(a, \"sums\")")));
        };
        self.rest.next();
        let task: String = std::iter::from_fn(|| self.rest.next_if(|&(_, c)| c != quote)).map(|(_, c)| c).collect();
        match self.rest.next() {
            Some(_) => Ok(task),
            None => Err(self.wrong(format!("{quote} is missing after the name of the task"))),
        }
    }
}

/// Why an expression cannot hold both measures: documents and prompts are two samples, and an interval is over one.
fn conflict(one: &Measure, other: &Measure) -> Option<String> {
    let about = |measure: &Measure| match measure.items() {
        Items::Documents => Some(format!("{} of the held-out text", measure.name())),
        Items::Prompts(task) => Some(format!("task {}", quoted(task))),
        Items::None => None,
    };
    let (one_about, other_about) = (about(one)?, about(other)?);
    let apart = one.items() != other.items();
    apart.then(|| format!("a claim cannot be about {one_about} and {other_about} at once; make it two claims"))
}

#[cfg(test)]
mod tests {
    use hydrometer_record::metric::Metric;
    use hydrometer_score::Score;

    use super::*;

    fn value(text: &str) -> f64 {
        let metric = |measure: &Measure, side| match (measure, side) {
            (Measure::Metric(Metric::Perplexity), Side::A) => 10.0,
            (Measure::Metric(Metric::Perplexity), Side::B) => 20.0,
            (Measure::Metric(Metric::Nll), _) => 3.0,
            _ => 0.5,
        };
        Expectation::parse(&format!("{text} < 1")).unwrap().left.value(&metric)
    }

    /// Oracle: arithmetic.
    #[test]
    fn products_bind_tighter_than_sums_and_both_associate_to_the_left() {
        assert_eq!(value("1 + 2 * 3 - 4 / 2"), 5.0);
        assert_eq!(value("8 - 4 - 2"), 2.0);
        assert_eq!(value("8 / 4 / 2"), 1.0);
        assert_eq!(value("-(1 + 2) * 3"), -9.0);
        assert_eq!(value("2e-1*perplexity(b)-perplexity( a )"), -6.0);
        assert_eq!(value("nll(a) + token_accuracy(b) * bits_per_byte(a)"), 3.25);
    }

    #[test]
    fn every_relation_is_parsed() {
        let relation = |text: &str| Expectation::parse(text).unwrap().relation;
        assert_eq!(relation("nll(a)<nll(b)"), Relation::Below);
        assert_eq!(relation("nll(a) <= 3"), Relation::AtMost);
        assert_eq!(relation("nll(a) > 3"), Relation::Above);
        assert_eq!(relation("nll(a)>=3"), Relation::AtLeast);
        let read = Expectation::parse("perplexity(a) < 0.98 * perplexity(b)").unwrap();
        assert!(read.asks(Side::B) && read.left.is_product() && read.right.is_product());
        assert!(!Expectation::parse("nll(a) < nll(b) - 0.1").unwrap().right.is_product());
    }

    #[test]
    fn scores_name_their_task_in_either_kind_of_quotes() {
        let read = Expectation::parse("exact_match(a, \"chain sum\") > pass_at_4_number_last( b , 'chain sum' ) - 0.1").unwrap();
        assert_eq!(read.task(), Some("chain sum"));
        let names: Vec<(String, Side)> = read.measures().into_iter().map(|(measure, side)| (measure.name(), side)).collect();
        assert_eq!(names, [("exact_match".into(), Side::A), ("pass_at_4_number_last".into(), Side::B)]);
        let Expression::Of(Measure::Score { score, .. }, Side::A) = read.left else { panic!("{read:?}") };
        assert_eq!(score, Score::parse("exact-match").unwrap());
        // A share of a run can be 0, which has no logarithm.
        assert!(!Expectation::parse("rouge_l(a, 'x') > rouge_l(b, 'x')").unwrap().left.is_product());
        assert!(Expectation::parse("exact_match(a, 'x') > token_accuracy(b)").is_ok(), "accuracy varies over no documents");
        assert_eq!(Expectation::parse("nll(a) < nll(b)").unwrap().task(), None);
    }

    #[test]
    fn mistakes_are_reported_with_their_column() {
        let cases = [
            ("perplexty(a) < 1", 0, "unknown metric \"perplexty\"; did you mean \"perplexity\"?"),
            ("nll(c) < 1", 4, "nll takes a or b, not \"c\""),
            ("nll(a) < 1.2.3", 9, "\"1.2.3\" is not a number"),
            ("nll(a)", 6, "a comparison is missing; use one of < <= > >="),
            ("nll(a) == 1", 7, "a comparison is missing; use one of < <= > >="),
            ("nll(a < 1", 6, "')' is missing after the arm"),
            ("(nll(a) < 1", 8, "')' is missing after the expression in parentheses"),
            ("nll(a) < ", 9, "a number or a metric is missing; e.g. perplexity(a)"),
            ("nll(a) < 1 < 2", 11, "'<' is not expected here; end the expression or use + - * /"),
            (
                "é < 1",
                0,
                "unknown metric \"é\"; known are nll, perplexity, bits_per_byte, token_accuracy, ece, kl_to_teacher, top_1_agreement, top_10_overlap, \
                 exact_match, number_first, number_last, rouge_l, rouge_1, rouge_2, distinct_1, distinct_2, truncated, teacher_nll, \
                 exposure_bias, pass_at_4",
            ),
            ("exact_mach(a, 'x') > 0", 0, "unknown metric \"exact_mach\"; did you mean \"exact_match\"?"),
            ("exact_match(a) > 0", 13, "exact_match takes an arm and a task; e.g. exact_match(a, \"sums\")"),
            ("exact_match(a, sums) > 0", 15, "the name of a task in quotes is missing; e.g. exact_match(a, \"sums\")"),
            ("exact_match(a, 'sums) > 0", 25, "' is missing after the name of the task"),
            ("exact_match(a, 'sums' > 0", 22, "')' is missing after the task"),
            (
                "exact_match(a, 'x') > rouge_l(b, 'y')",
                22,
                "a claim cannot be about task \"x\" and task \"y\" at once; make it two claims",
            ),
            (
                "nll(a) < 2 * rouge_l(b, 'y')",
                13,
                "a claim cannot be about nll of the held-out text and task \"y\" at once; make it two claims",
            ),
        ];
        for (text, at, what) in cases {
            assert_eq!(Expectation::parse(text).unwrap_err(), Misread { at, what: what.into() }, "{text}");
        }
        let deep = format!("{}1{} < 1", "(".repeat(10_000), ")".repeat(10_000));
        assert!(Expectation::parse(&deep).unwrap_err().what.contains("nested too deeply"));
    }
}
