//! Numbers formatted for people, and text from outside escaped for HTML and Markdown.

use crate::text::{escaped, is_hidden};

/// A number with a k, M, G, T … suffix and up to three digits: `400k`, `1.6M`.
pub fn quantity(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let suffixes = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
    let (mut scaled, mut at) = (value, 0);
    while scaled.abs() >= 999.5 && at + 1 < suffixes.len() {
        (scaled, at) = (scaled / 1000.0, at + 1);
    }
    let digits = if scaled.abs() >= 100.0 || scaled == scaled.trunc() {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{}{}", text.replace('-', "−"), suffixes[at])
}

/// Parses `400k`, `1.6M`, `3e-3` or `20`; the inverse of [`quantity`].
pub fn parse_quantity(text: &str) -> Option<f64> {
    parse_scaled(text).filter(|value| value.is_finite())
}

/// The same, which may be infinite or no number where that is written or too large.
pub fn parse_scaled(text: &str) -> Option<f64> {
    let (digits, factor) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'G' | 'B' => (&text[..text.len() - 1], 1e9),
        'T' => (&text[..text.len() - 1], 1e12),
        _ => (text, 1.0),
    };
    digits.parse::<f64>().ok().map(|value| value * factor)
}

/// `value` with `digits` decimals and a typographic minus sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    // A value that rounds to zero gets no sign.
    let is_zero = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
    if is_zero { text.replace('-', "") } else { text.replace('-', "−") }
}

/// Like [`fixed`], with a plus sign for positive values.
pub fn signed(value: f64, digits: usize) -> String {
    let text = fixed(value, digits);
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    if value > 0.0 && !is_zero { format!("+{text}") } else { text }
}

/// Number of decimals that suits values of this size: two below 100, one below 1000, none above.
pub fn decimals(size: f64) -> usize {
    match size.abs() {
        size if size < 100.0 => 2,
        size if size < 1000.0 => 1,
        _ => 0,
    }
}

/// A perplexity as shown in a sentence or a table.
pub fn perplexity(value: f64) -> String {
    if value >= 1e6 { quantity(value) } else { fixed(value, decimals(value)) }
}

/// Seconds as `42 s`, `3 min 05 s` or `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// FLOPs as `1.2 TFLOP`.
pub fn flops(value: f64) -> String {
    if value <= 0.0 {
        return "–".into();
    }
    let text = quantity(value);
    match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        Some(digits) => format!("{digits} {}FLOP", &text[digits.len()..]),
        None => format!("{text} FLOP"),
    }
}

/// Seconds since the Unix epoch as `2026-11-24 02:21 UTC` (civil-from-days, Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
pub fn date(epoch: i64) -> String {
    let (days, second) = (epoch.div_euclid(86_400), epoch.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second % 3600 / 60)
}

/// Escapes text for HTML and SVG, in elements and attributes alike. Control characters, which SVG does not allow, become escapes.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // The `\n` of a Windows line break is enough.
            '\r' => {}
            c if is_hidden(c) => out.push_str(&escaped(c)),
            _ => out.push(c),
        }
    }
    out
}

/// Escapes text for a line or a table cell of Markdown: no markup, no HTML, no line breaks.
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' => out.extend(['\\', c]),
            '\n' | '\r' => out.push(' '),
            '\t' => out.push(c),
            c if is_hidden(c) => out.push_str(&format!("\\{}", escaped(c))),
            _ => out.push(c),
        }
    }
    out
}

/// `text` cut to `width` characters; `…` marks the cut.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
