//! The finding on a claim: a sentence that states the measurement and names the arms.
//!
//! A claim is decided by the distance between its left and right sides, which may contain factors and summands: `1.1 *
//! perplexity(b)`. Readers want to know how the arms compare. If an expectation compares one metric of an arm with that of the
//! other, or with a number, the sentence states that comparison, and the measured distance follows if it is a different number.

use hydrometer_base::units::{fixed, signed};
use hydrometer_record::metric::Unit;

use super::arms::Arms;
use super::expectation::{Expectation, Expression, Operator, Side};
use super::measure::Measure;

/// Above this ratio and below its inverse, "3.6 times" is easier to read than a percentage.
const TIMES: f64 = 2.0;

/// The measured distance of the left side from the right.
pub struct Measured<'a> {
    pub expectation: &'a Expectation,
    /// As written.
    pub expect: &'a str,
    /// Whether the logarithm of the ratio was measured, not the difference.
    pub log_ratio: bool,
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    /// The value of each seed.
    pub per_seed: &'a [f64],
    /// Coverage of the interval.
    pub level: f64,
}

/// A finding, and the measured distance between the two sides of the expectation if the finding states other numbers.
pub struct Finding {
    pub sentence: String,
    pub distance: Option<String>,
}

/// A product of a number and at most one metric.
type Term<'a> = (f64, Option<(&'a Measure, Side)>);

pub fn finding(measured: &Measured, arms: &Arms) -> Finding {
    let Measured { expectation: Expectation { left, right, .. }, log_ratio, .. } = *measured;
    let plain = if log_ratio { of_ratio(measured, arms, left, right) } else { of_difference(measured, arms, left, right) };
    let finding = plain.unwrap_or_else(|| Finding { sentence: by_sides(measured, arms), distance: None });
    let at = if arms.common.is_empty() { String::new() } else { format!("At {}, ", arms.common) };
    Finding { sentence: format!("{at}{}", finding.sentence), ..finding }
}

/// The finding if the logarithm of the ratio was measured and each side has at most one metric.
fn of_ratio(measured: &Measured, arms: &Arms, left: &Expression, right: &Expression) -> Option<Finding> {
    let ((above, left), (below, right)) = (term(left)?, term(right)?);
    // The ratio of the metrics, or the metric's value, is the measured ratio times this factor.
    let factor = below / above;
    let value = |log: f64| factor * log.exp();
    let [ratio, low, high] = [measured.estimate, measured.low, measured.high].map(value);
    match (left, right) {
        (Some((metric, of)), Some((other, to))) if metric == other && of != to => {
            let holds = measured.per_seed.iter().filter(|log| (value(**log) < 1.0) == (ratio < 1.0)).count();
            let (one, another, what) = (arms.name(of), arms.name(to), metric.heading());
            let times = !(1.0 / TIMES..TIMES).contains(&ratio) || metric.unit() == Unit::Share;
            let [size, interval] = match times {
                true => [fixed(ratio, 2), format!("{} to {}", fixed(low, 2), fixed(high, 2))],
                false => [signed(100.0 * (ratio - 1.0), 1) + "%", percents(low, high)],
            };
            let interval = interval_text(measured, &interval);
            let sentence = if low <= 1.0 && high >= 1.0 {
                let size = if times { format!("{size} times") } else { size };
                format!("{one} and {another} do not differ clearly in {what} ({size}, {interval}, {})", seeds(measured))
            } else if times {
                format!("{one} ends at {size} times the {what} of {another} ({interval}), in {holds} of {}", seeds(measured))
            } else {
                let side = if ratio < 1.0 { "lower" } else { "higher" };
                let size = fixed(100.0 * (ratio - 1.0).abs(), 1);
                format!("{one} reaches {size}% {side} {what} than {another} ({interval}), in {holds} of {}", seeds(measured))
            };
            let same = factor == 1.0 && !times;
            Some(Finding { sentence, distance: (!same).then(|| distance(measured)) })
        }
        (Some((metric, of)), None) => Some(level(measured, arms, (metric, of), [ratio, low, high])),
        // The metric is on the other side: invert the ratio and its interval.
        (None, Some((metric, of))) => Some(level(measured, arms, (metric, of), [1.0 / ratio, 1.0 / high, 1.0 / low])),
        _ => None,
    }
}

/// The finding if the difference was measured and each side is one metric, a number, or a sum of both.
fn of_difference(measured: &Measured, arms: &Arms, left: &Expression, right: &Expression) -> Option<Finding> {
    let ((above, left), (below, right)) = (sum(left)?, sum(right)?);
    let shift = below - above;
    let [mean, low, high] = [measured.estimate, measured.low, measured.high].map(|value| value + shift);
    match (left, right) {
        (Some((metric, of)), Some((other, to))) if metric == other && of != to => {
            let holds = measured.per_seed.iter().filter(|value| (**value + shift < 0.0) == (mean < 0.0)).count();
            let (one, another, what) = (arms.name(of), arms.name(to), metric.heading());
            let (factor, digits, unit) = match metric.unit() {
                Unit::Share => (100.0, 2, " percentage points"),
                Unit::NatsPerToken => (1.0, 4, " nats per token"),
                Unit::BitsPerByte | Unit::Dimensionless => (1.0, 4, ""),
            };
            let show = |value: f64| signed(factor * value, digits);
            let interval = interval_text(measured, &format!("{} to {}", show(low), show(high)));
            let sentence = if low <= 0.0 && high >= 0.0 {
                let size = show(mean);
                format!("{one} and {another} do not differ clearly in {what} ({size}{unit}, {interval}, {})", seeds(measured))
            } else {
                let (size, side) = (fixed((factor * mean).abs(), digits), if mean < 0.0 { "below" } else { "above" });
                format!("{one} ends {size}{unit} {side} {another} in {what} ({interval}), in {holds} of {}", seeds(measured))
            };
            let same = shift == 0.0 && factor == 1.0;
            Some(Finding { sentence, distance: (!same).then(|| distance(measured)) })
        }
        (Some(one), None) => Some(level(measured, arms, one, [mean, low, high])),
        (None, Some(one)) => Some(level(measured, arms, one, [-mean, -high, -low])),
        _ => None,
    }
}

/// One metric of one arm.
fn level(measured: &Measured, arms: &Arms, (metric, side): (&Measure, Side), values: [f64; 3]) -> Finding {
    let [mean, low, high] = values.map(|value| metric.text(value));
    let the = if arms.common.is_empty() { "The" } else { "the" };
    let interval = interval_text(measured, &format!("{low} to {high}"));
    let (what, arm, seeds) = (metric.heading(), arms.name(side), seeds(measured));
    Finding { sentence: format!("{the} {what} of {arm} is {mean} ({interval}, {seeds})"), distance: Some(distance(measured)) }
}

/// The finding for any other expectation: its two sides with the arms' names.
fn by_sides(measured: &Measured, arms: &Arms) -> String {
    let written = arms.in_expression(measured.expect);
    let (left, right) = written.split_once(['<', '>']).unwrap_or((&written, ""));
    let (left, right) = (left.trim(), right.trim_start_matches('=').trim());
    let Measured { estimate, low, high, .. } = *measured;
    let (size, interval) = match measured.log_ratio {
        true => {
            let side = if estimate < 0.0 { "below" } else { "above" };
            (
                format!("{left} is {}% {side} {right}", fixed((100.0 * estimate.exp_m1()).abs(), 1)),
                percents(low.exp(), high.exp()),
            )
        }
        false => {
            (format!("{left} less {right} is {}", signed(estimate, 4)), format!("{} to {}", signed(low, 4), signed(high, 4)))
        }
    };
    format!("{size} ({}, {})", interval_text(measured, &interval), seeds(measured))
}

/// The distance of the left side from the right side, as in `claims.json`.
fn distance(measured: &Measured) -> String {
    let Measured { estimate, low, high, .. } = *measured;
    match measured.log_ratio {
        true => format!("{}%, {}", signed(100.0 * estimate.exp_m1(), 1), percents(low.exp(), high.exp())),
        false => format!("{}, {} to {}", signed(estimate, 4), signed(low, 4), signed(high, 4)),
    }
}

fn interval_text(measured: &Measured, ends: &str) -> String {
    format!("{}% CI {ends}", fixed(measured.level * 100.0, 0))
}

/// `−7.6% to −2.1%`, from ratios.
fn percents(low: f64, high: f64) -> String {
    let percent = |ratio: f64| format!("{}%", signed(100.0 * (ratio - 1.0), 1));
    format!("{} to {}", percent(low), percent(high))
}

fn seeds(measured: &Measured) -> String {
    format!("{} seeds", measured.per_seed.len())
}

fn term(expression: &Expression) -> Option<Term<'_>> {
    match expression {
        Expression::Number(number) => Some((*number, None)),
        Expression::Of(metric, side) => Some((1.0, Some((metric, *side)))),
        Expression::Negative(_) => None,
        Expression::Two(left, operator, right) => match (operator, term(left)?, term(right)?) {
            (Operator::Times, (a, metric), (b, None)) | (Operator::Times, (a, None), (b, metric)) => Some((a * b, metric)),
            (Operator::Over, (a, metric), (b, None)) => Some((a / b, metric)),
            _ => None,
        },
    }
}

/// A number added to at most one metric.
fn sum(expression: &Expression) -> Option<Term<'_>> {
    match expression {
        Expression::Number(number) => Some((*number, None)),
        Expression::Of(metric, side) => Some((0.0, Some((metric, *side)))),
        Expression::Negative(inner) => sum(inner).filter(|(_, metric)| metric.is_none()).map(|(number, _)| (-number, None)),
        Expression::Two(left, operator, right) => match (operator, sum(left)?, sum(right)?) {
            (Operator::Plus, (a, metric), (b, None)) | (Operator::Plus, (a, None), (b, metric)) => Some((a + b, metric)),
            (Operator::Minus, (a, metric), (b, None)) => Some((a - b, metric)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(expect: &str, log_ratio: bool, [estimate, low, high]: [f64; 3], common: &str) -> (String, Option<String>) {
        let expectation = Expectation::parse(expect).unwrap();
        let per_seed = [estimate, high, low];
        let measured =
            Measured { expectation: &expectation, expect, log_ratio, estimate, low, high, per_seed: &per_seed, level: 0.95 };
        let arms = Arms { a: "soft-ce".into(), b: "finetune".into(), common: common.into() };
        let Finding { sentence, distance } = finding(&measured, &arms);
        (sentence, distance)
    }

    /// Oracle: by hand. 0.95 · 0.97 = 0.9215 and 1.1 · 3.3 = 3.63.
    #[test]
    fn a_factor_of_the_expectation_is_no_part_of_how_the_arms_compare() {
        let logs = |values: [f64; 3]| values.map(f64::ln);
        let (sentence, distance) = told("perplexity(a) < 0.97 * perplexity(b)", true, logs([0.95, 0.93, 0.97]), "tokens=200k");
        let wanted =
            "At tokens=200k, soft-ce reaches 7.9% lower perplexity than finetune (95% CI −9.8% to −5.9%), in 3 of 3 seeds";
        assert_eq!((sentence.as_str(), distance.as_deref()), (wanted, Some("−5.0%, −7.0% to −3.0%")));
        let (sentence, _) = told("perplexity(a) / 1.1 > perplexity(b)", true, logs([3.3, 3.0, 3.5]), "");
        assert_eq!(sentence, "soft-ce ends at 3.63 times the perplexity of finetune (95% CI 3.30 to 3.85), in 3 of 3 seeds");
        let (sentence, distance) = told("perplexity(b) > perplexity(a)", true, logs([1.01, 0.98, 1.04]), "");
        let wanted = "finetune and soft-ce do not differ clearly in perplexity (+1.0%, 95% CI −2.0% to +4.0%, 3 seeds)";
        assert_eq!((sentence.as_str(), distance), (wanted, None));
    }

    /// Oracle: by hand.
    #[test]
    fn shares_levels_and_differences_are_stated_in_their_units() {
        let logs = |values: [f64; 3]| values.map(f64::ln);
        let (sentence, _) = told("token_accuracy(a) > token_accuracy(b)", true, logs([1.05, 1.02, 1.08]), "");
        assert_eq!(sentence, "soft-ce ends at 1.05 times the token accuracy of finetune (95% CI 1.02 to 1.08), in 3 of 3 seeds");
        let (sentence, _) = told("60 > perplexity(a)", true, logs([1.5, 1.2, 2.0]), "lr=1");
        assert_eq!(sentence, "At lr=1, the perplexity of soft-ce is 40.00 (95% CI 30.00 to 50.00, 3 seeds)");
        let (sentence, distance) = told("nll(a) < nll(b) - 0.1", false, [-0.05, -0.08, -0.02], "");
        let wanted = "soft-ce ends 0.1500 nats per token below finetune in nll (95% CI −0.1800 to −0.1200), in 3 of 3 seeds";
        assert_eq!((sentence.as_str(), distance.as_deref()), (wanted, Some("−0.0500, −0.0800 to −0.0200")));
        let (sentence, _) = told("exact_match(a, 'sums') > exact_match(b, 'sums')", false, [0.05, 0.02, 0.08], "");
        let wanted =
            "soft-ce ends 5.00 percentage points above finetune in sums exact-match (95% CI +2.00 to +8.00), in 3 of 3 seeds";
        assert_eq!(sentence, wanted);
        let (sentence, _) = told("pass_at_4(a, \"sums\") > 0.3", false, [0.1, 0.05, 0.15], "");
        assert_eq!(sentence, "The sums pass@4 of soft-ce is 40.0% (95% CI 35.0% to 45.0%, 3 seeds)");
        let (sentence, _) = told("rouge_l(a, 'x') > 1.5 * rouge_l(b, 'x')", false, [0.1, 0.05, 0.15], "");
        assert!(sentence.starts_with("rouge_l(soft-ce, 'x') less 1.5 × rouge_l(finetune, 'x') is +0.1000 (95% CI"), "{sentence}");
        let (sentence, _) = told("nll(a) * nll(b) < perplexity( a )", true, logs([0.9, 0.8, 0.95]), "");
        assert!(sentence.starts_with("nll(soft-ce) × nll(finetune) is 10.0% below perplexity(soft-ce) (95% CI"), "{sentence}");
    }
}
