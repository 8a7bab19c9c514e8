//! The expectation of a claim: `perplexity(a) < 0.98 * perplexity(b)`.
//!
//! ```text
//! expectation = sum ("<" | "<=" | ">" | ">=") sum
//! sum         = product (("+" | "-") product)*
//! product     = factor (("*" | "/") factor)*
//! factor      = number | metric "(" ("a" | "b") ")" | "(" sum ")" | "-" factor
//! ```

use std::iter::Peekable;
use std::str::CharIndices;

use hydrometer_base::suggest::unknown;
use hydrometer_record::metric::Metric;

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
    Of(Metric, Side),
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
    /// The value, with the metrics that `of` returns.
    pub fn value(&self, of: &impl Fn(Metric, Side) -> f64) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Of(metric, side) => of(*metric, *side),
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

    /// Whether the value is a product of numbers and metrics, none of which is below 0. Its logarithm is then the natural scale.
    pub fn is_product(&self) -> bool {
        match self {
            Self::Number(number) => *number > 0.0,
            Self::Of(..) => true,
            Self::Negative(_) => false,
            Self::Two(left, operator, right) => {
                matches!(operator, Operator::Times | Operator::Over) && left.is_product() && right.is_product()
            }
        }
    }

    fn metrics(&self) -> Vec<(Metric, Side)> {
        match self {
            Self::Number(_) => Vec::new(),
            Self::Of(metric, side) => vec![(*metric, *side)],
            Self::Negative(inner) => inner.metrics(),
            Self::Two(left, _, right) => [left.metrics(), right.metrics()].concat(),
        }
    }
}

impl Expectation {
    /// The metrics in it, in order.
    pub fn metrics(&self) -> Vec<(Metric, Side)> {
        [self.left.metrics(), self.right.metrics()].concat()
    }

    /// Whether a metric of `side` is in it.
    pub fn asks(&self, side: Side) -> bool {
        self.metrics().iter().any(|(_, found)| *found == side)
    }

    pub fn parse(text: &str) -> Result<Self, Misread> {
        let mut parser = Parser { rest: text.char_indices().peekable(), text, depth: 0 };
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
            Some(c) if c.is_alphabetic() => self.metric()?,
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

    fn metric(&mut self) -> Result<Expression, Misread> {
        let begin = self.rest.clone();
        let name = self.word();
        let Some(metric) = Metric::in_claims().find(|metric| metric.name() == name) else {
            self.rest = begin;
            let known: Vec<&str> = Metric::in_claims().map(Metric::name).collect();
            return Err(self.wrong(unknown("metric", &name, &known)));
        };
        self.expect('(', &name)?;
        self.peek();
        let begin = self.rest.clone();
        let side = match self.word().as_str() {
            "a" => Side::A,
            "b" => Side::B,
            other => {
                let what = format!("{name} takes a or b, not {other:?}");
                self.rest = begin;
                return Err(self.wrong(what));
            }
        };
        self.expect(')', "the arm")?;
        Ok(Expression::Of(metric, side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> f64 {
        let metric = |metric, side| match (metric, side) {
            (Metric::Perplexity, Side::A) => 10.0,
            (Metric::Perplexity, Side::B) => 20.0,
            (Metric::Nll, _) => 3.0,
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
                "unknown metric \"é\"; known are nll, perplexity, bits_per_byte, token_accuracy, ece, kl_to_teacher, top_1_agreement, top_10_overlap",
            ),
        ];
        for (text, at, what) in cases {
            assert_eq!(Expectation::parse(text).unwrap_err(), Misread { at, what: what.into() }, "{text}");
        }
        let deep = format!("{}1{} < 1", "(".repeat(10_000), ")".repeat(10_000));
        assert!(Expectation::parse(&deep).unwrap_err().what.contains("nested too deeply"));
    }
}
