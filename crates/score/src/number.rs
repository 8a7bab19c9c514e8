//! Numbers in text, read as a person would and compared exactly.
//!
//! A number is a run of ASCII digits with an optional decimal part (`12`, `12.50`, `.5`), optionally
//!
//! - with thousands separators, if every group after the first has three digits: `1,234,567`, but `1,23` is two numbers;
//! - with an exponent: `1.5e-3`;
//! - with a sign (`-`, `+` or `−`), unless a letter, a digit or a closing bracket comes before the sign: `10-4` is 10 and 4; a currency
//!   sign may stand between sign and digits: `-$5`;
//! - as a fraction of two whole numbers of at most 18 digits with nothing between: `3/4`. `1/2/2024` and `3/0` are no fractions.
//!
//! Digits after a letter or an underscore belong to a word: `H2O` has no number. Units and percent signs are ignored: `50%` is 50. A full
//! stop that no digit follows ends a sentence.

use std::iter;

/// Most digits of a fraction's numerator and denominator, so that u128 holds all that follows.
const FRACTION_DIGITS: usize = 18;

/// A number in canonical form: equal numbers are equal, however they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// ±0.DIGITS · 10^exponent. The digits neither begin nor end with 0; 0 has none.
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// A fraction in lowest terms that no decimal equals.
    Fraction { negative: bool, numerator: u128, denominator: u128 },
}

/// The numbers of `text` in order.
pub fn numbers(text: &str) -> impl Iterator<Item = Number> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    iter::from_fn(move || {
        while at < chars.len() {
            if let Some((number, end)) = number_at(&chars, at) {
                at = end;
                return Some(number);
            }
            // A word with digits is no number.
            at += if is_word(chars[at]) { chars[at..].iter().take_while(|&&c| is_word(c)).count() } else { 1 };
        }
        None
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number that begins exactly at `at`, if one does, and its end.
fn number_at(chars: &[char], at: usize) -> Option<(Number, usize)> {
    let before = at.checked_sub(1).map(|index| chars[index]);
    let mut start = at;
    let mut negative = false;
    if is_sign(chars[start]) {
        if before.is_some_and(|c| is_word(c) || [')', ']', '}'].contains(&c)) {
            return None;
        }
        negative = chars[start] != '+';
        start += 1;
        start += usize::from(chars.get(start).is_some_and(|c| ['$', '€', '£', '¥'].contains(c)));
    }
    let (whole, after_whole) = match digits(chars, start) {
        0 => (String::new(), start),
        _ => grouped(chars, start),
    };
    let mut end = after_whole;
    let mut places = String::new();
    if chars.get(end) == Some(&'.') && digits(chars, end + 1) > 0 {
        let after = end + 1 + digits(chars, end + 1);
        // In `a.5` and `1.2.3` the second stop is no decimal point.
        if !whole.is_empty() || !before.is_some_and(is_word) {
            places = chars[end + 1..after].iter().collect();
            end = after;
        }
    }
    if whole.is_empty() && places.is_empty() {
        return None;
    }
    if places.is_empty()
        && let Some((numerator, denominator, end)) = fraction(chars, start, end)
    {
        return Some((reduced(negative, numerator, denominator), end));
    }
    let (exponent, end) = exponent(chars, end).unwrap_or((0, end));
    Some((decimal(negative, &whole, &places, exponent), end))
}

fn is_sign(c: char) -> bool {
    ['-', '+', '\u{2212}'].contains(&c)
}

/// The number of ASCII digits from `at` on.
fn digits(chars: &[char], at: usize) -> usize {
    chars.get(at..).unwrap_or_default().iter().take_while(|c| c.is_ascii_digit()).count()
}

/// The whole part at `at`, without separators, and its end.
fn grouped(chars: &[char], at: usize) -> (String, usize) {
    let first = digits(chars, at);
    let mut end = at + first;
    let mut whole: String = chars[at..end].iter().collect();
    let plain = (whole.clone(), end);
    if first > 3 {
        return plain;
    }
    while chars.get(end) == Some(&',') && digits(chars, end + 1) > 0 {
        if digits(chars, end + 1) != 3 {
            return plain;
        }
        whole.extend(&chars[end + 1..end + 4]);
        end += 4;
    }
    (whole, end)
}

/// The exponent at `at`, and its end.
fn exponent(chars: &[char], at: usize) -> Option<(i64, usize)> {
    if !chars.get(at).is_some_and(|c| ['e', 'E'].contains(c)) {
        return None;
    }
    let signed = chars.get(at + 1).is_some_and(|c| ['-', '+'].contains(c));
    let start = at + 1 + usize::from(signed);
    let count = digits(chars, start);
    let end = start + count;
    if !(1..=FRACTION_DIGITS).contains(&count) || chars.get(end).is_some_and(|&c| is_word(c)) {
        return None;
    }
    let size: i64 = chars[start..end].iter().collect::<String>().parse().ok()?;
    Some((if signed && chars[at + 1] == '-' { -size } else { size }, end))
}

/// Numerator, denominator and end of the fraction whose numerator is `start..slash`.
fn fraction(chars: &[char], start: usize, slash: usize) -> Option<(u128, u128, usize)> {
    let end = slash + 1 + digits(chars, slash + 1);
    let whole = |from: usize, to: usize| -> Option<u128> {
        let part = &chars[from..to];
        let fits = (1..=FRACTION_DIGITS).contains(&part.len()) && part.iter().all(char::is_ascii_digit);
        part.iter().collect::<String>().parse().ok().filter(|_| fits)
    };
    let decimal = chars.get(end) == Some(&'.') && digits(chars, end + 1) > 0;
    // Dates have two slashes.
    let chained = chars.get(end) == Some(&'/') || start > 0 && chars[start - 1] == '/';
    if chars.get(slash) != Some(&'/') || decimal || chained {
        return None;
    }
    let (numerator, denominator) = (whole(start, slash)?, whole(slash + 1, end)?);
    (denominator > 0).then_some((numerator, denominator, end))
}

fn decimal(negative: bool, whole: &str, places: &str, exponent: i64) -> Number {
    let all = format!("{whole}{places}");
    let digits = all.trim_start_matches('0');
    let zeros = (all.len() - digits.len()) as i64;
    let exponent = whole.len() as i64 - zeros + exponent;
    let digits = digits.trim_end_matches('0').to_string();
    match digits.is_empty() {
        true => Number::Decimal { negative: false, digits, exponent: 0 },
        false => Number::Decimal { negative, digits, exponent },
    }
}

/// `numerator / denominator`, as a decimal if it has finitely many places.
fn reduced(negative: bool, numerator: u128, denominator: u128) -> Number {
    let divisor = gcd(numerator, denominator);
    let (numerator, denominator) = (numerator / divisor, denominator / divisor);
    let mut others = denominator;
    for prime in [2, 5] {
        while others % prime == 0 {
            others /= prime;
        }
    }
    if others != 1 {
        return Number::Fraction { negative, numerator, denominator };
    }
    let (mut places, mut rest) = (String::new(), numerator % denominator);
    while rest > 0 {
        rest *= 10;
        places += &(rest / denominator).to_string();
        rest %= denominator;
    }
    decimal(negative, &(numerator / denominator).to_string(), &places, 0)
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Number {
        let all: Vec<Number> = numbers(text).collect();
        assert_eq!(all.len(), 1, "{text}: {all:?}");
        all[0].clone()
    }

    /// Oracle: the same numbers in plain notation, found by hand.
    #[test]
    fn numbers_are_found_in_running_text() {
        let cases: [(&str, &[&str]); 30] = [
            ("", &[]),
            ("no number, H2O, x_1 and B12", &[]),
            ("The answer is 12.", &["12"]),
            ("12.50 and .5", &["12.5", "0.5"]),
            ("1,234,567.80", &["1234567.8"]),
            ("1,23", &["1", "23"]),
            ("1,2345", &["1", "2345"]),
            ("1234,567", &["1234", "567"]),
            ("1,234,56", &["1", "234", "56"]),
            ("1, 2, 3", &["1", "2", "3"]),
            ("-4 −5 +6", &["-4", "-5", "6"]),
            ("10-4", &["10", "4"]),
            ("(3)-4", &["3", "4"]),
            ("= -4", &["-4"]),
            ("2 - 3 = -1", &["2", "3", "-1"]),
            ("-$5 and $-6", &["-5", "-6"]),
            ("50%", &["50"]),
            ("5km, 3rd", &["5", "3"]),
            ("1e3 2.5E-2 1e", &["1000", "0.025", "1"]),
            ("3/4", &["0.75"]),
            ("6/8 -1/2", &["0.75", "-0.5"]),
            ("1/2/2024", &["1", "2", "2024"]),
            ("3/0", &["3", "0"]),
            ("3/4.5", &["3", "4.5"]),
            ("1 1/2", &["1", "0.5"]),
            ("1.2.3", &["1.2", "3"]),
            ("-0 0.0 00", &["0", "0", "0"]),
            ("007", &["7"]),
            ("٣ and 3", &["3"]),
            ("--5", &["-5"]),
        ];
        for (text, wanted) in cases {
            let found: Vec<Number> = numbers(text).collect();
            let wanted: Vec<Number> = wanted.iter().map(|number| one(number)).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn equal_values_are_equal_however_they_are_written() {
        for (a, b) in [("1/3", "2/6"), ("1000", "1e3"), ("0.5", "1/2"), ("5.0", "5"), ("1,000", "1000"), ("1/3", "+3/9")] {
            assert_eq!(one(a), one(b), "{a} {b}");
        }
        for (a, b) in [("1/3", "0.333333"), ("1/3", "-1/3"), ("10", "1"), ("0.1", "0.01"), ("1", "-1")] {
            assert_ne!(one(a), one(b), "{a} {b}");
        }
        let long = "123456789".repeat(20);
        assert_eq!(one(&long), one(&format!("0{long}.00")));
        assert_ne!(one(&long), one(&format!("{long}1")));
    }

    proptest! {
        /// Oracle: rational arithmetic on i128.
        #[test]
        fn decimals_and_fractions_compare_like_rationals(a in -9999i128..9999, b in 1i128..999, c in -9999i128..9999, places in 0usize..4) {
            let scale = 10i128.pow(places as u32);
            let sign = if c < 0 { "-" } else { "" };
            let (whole, part) = (c.abs() / scale, c.abs() % scale);
            let decimal = if places == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part:0places$}") };
            prop_assert_eq!(one(&format!("{a}/{b}")) == one(&decimal), a * scale == c * b);
        }

        #[test]
        fn no_text_panics(text in "[-+−$0-9.,/eE a_()]{0,30}|.{0,20}") {
            let _ = numbers(&text).count();
        }
    }
}
