//! A TOML file with source positions, so that an error can point at its line.

use std::fs::File;
use std::io::{self, Read};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::text::{number as short, quoted, shown};
use hydrometer_base::units::parse_scaled;
use hydrometer_base::user_error;
use toml_edit::{Document, Item, TableLike, Value};

/// Maximum size of a TOML file in bytes.
const BYTES_MAX: u64 = 16 << 20;
/// Exclusive limit of a number of tokens.
const TOKENS_MAX: u64 = 1_000_000_000_000_000;

/// The text of a TOML file and its path.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// A value with the place it was written at.
#[derive(Clone, Debug)]
pub struct Setting {
    pub value: Value,
    pub at: SourceSpan,
}

/// A place in a file, as `file:line:column`; empty for a flag of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpan(pub String);

impl Source {
    pub fn read(path: &Path, what: &str) -> Result<Self> {
        let shown = path.display();
        let unreadable = |error: io::Error| user_error!("{shown}: cannot read the {what}: {error}");
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(user_error!("{shown}: the {what} is larger than {BYTES_MAX} bytes; is it another file?"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
            let (line, column) = line_and_column(&String::from_utf8_lossy(&bytes[..at]));
            let found = bytes[at];
            user_error!("{shown}:{line}:{column}: the {what} must be UTF-8, but byte 0x{found:02x} is not; save it as UTF-8")
        })?;
        Ok(Self { path: path.to_path_buf(), text })
    }

    pub fn parse(&self) -> Result<Document<String>> {
        Document::parse(self.text.clone()).map_err(|error| {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            user_error!("{}: not valid TOML: {message}", self.place(error.span()).0)
        })
    }

    /// Where `span` begins.
    pub fn place(&self, span: Option<Range<usize>>) -> SourceSpan {
        let before = &self.text[..self.text.floor_char_boundary(span.map_or(0, |span| span.start))];
        let (line, column) = line_and_column(before);
        SourceSpan(format!("{}:{line}:{column}", self.path.display()))
    }

    /// The keys of `table` with their values and the places of the keys; sub-tables become inline tables.
    pub fn settings(&self, table: &dyn TableLike) -> Result<Vec<(String, Setting)>> {
        table
            .iter()
            .map(|(key, item)| {
                let span = table.key(key).and_then(|key| key.span()).or_else(|| item.span());
                let at = self.place(span);
                let value = item.clone().into_value().map_err(|_| user_error!("{}: {key} must be a value", at.0))?;
                Ok((key.to_string(), Setting { value, at }))
            })
            .collect()
    }

    /// The tables inside `item`, in order: `[teacher.big]`, `[teacher.small]`, ...
    pub fn tables<'a>(&self, item: Option<&'a Item>, what: &str) -> Result<Vec<(String, &'a dyn TableLike, SourceSpan)>> {
        let Some(item) = item else { return Ok(Vec::new()) };
        let outer = item.as_table_like().ok_or_else(|| user_error!("{}: [{what}] must be a table", self.place(item.span()).0))?;
        outer
            .iter()
            .map(|(name, inner)| {
                let at = self.place(outer.key(name).and_then(|key| key.span()).or_else(|| inner.span()));
                let table = inner
                    .as_table_like()
                    .ok_or_else(|| user_error!("{}: {what}.{name} must be a table, [{what}.{name}]", at.0))?;
                Ok((name.to_string(), table, at))
            })
            .collect()
    }

    /// The tables of a list with the places they begin at: `[[claim]]`, or `claim = [{ ... }]`.
    pub fn list<'a>(&self, item: Option<&'a Item>, what: &str) -> Result<Vec<(&'a dyn TableLike, SourceSpan)>> {
        let Some(item) = item else { return Ok(Vec::new()) };
        let wrong = |span| user_error!("{}: {what} must be a list of tables, [[{what}]]", self.place(span).0);
        if let Some(tables) = item.as_array_of_tables() {
            return Ok(tables.iter().map(|table| (table as &dyn TableLike, self.place(table.span()))).collect());
        }
        let array = item.as_array().ok_or_else(|| wrong(item.span()))?;
        let table = |value: &'a Value| -> Result<(&'a dyn TableLike, SourceSpan)> {
            let table = value.as_inline_table().ok_or_else(|| wrong(value.span()))?;
            Ok((table as &dyn TableLike, self.place(value.span())))
        };
        array.iter().map(table).collect()
    }
}

/// Line and column of the position after `before`, both from 1.
fn line_and_column(before: &str) -> (usize, usize) {
    (before.matches('\n').count() + 1, before.chars().rev().take_while(|&c| c != '\n').count() + 1)
}

impl Setting {
    /// The value of a flag of the command line.
    pub fn of_flag(value: impl Into<Value>) -> Self {
        Self { value: value.into(), at: SourceSpan(String::new()) }
    }

    fn is_flag(&self) -> bool {
        self.at.0.is_empty()
    }

    /// The beginning of a message about `key`: `x.toml:3:1: mse_mean`, or `--mse-mean`.
    pub fn subject(&self, key: &str) -> String {
        if self.is_flag() { format!("--{}", key.replace('_', "-")) } else { format!("{}: {key}", self.at.0) }
    }

    /// The same with the value: `x.toml:3:1: tail "metaseq"`, or `--tail metaseq`.
    pub fn subject_with_value(&self, key: &str) -> String {
        let value = match &self.value {
            Value::String(text) if self.is_flag() => shown(text.value()),
            _ => self.found(),
        };
        format!("{} {value}", self.subject(key))
    }

    /// The error that the value of `key` must be `wanted`.
    pub fn wrong(&self, key: &str, wanted: &str) -> anyhow::Error {
        user_error!("{} must be {wanted}, not {}", self.subject(key), self.found())
    }

    /// The value as a message quotes it.
    pub fn found(&self) -> String {
        match &self.value {
            Value::String(text) => quoted(text.value()),
            Value::Integer(number) => number.value().to_string(),
            // As TOML writes it.
            Value::Float(number) if number.value().is_nan() && !self.is_flag() => "nan".into(),
            Value::Float(number) => short(*number.value()),
            Value::Array(array) if array.is_empty() => "an empty list".into(),
            Value::Array(_) => "a list".into(),
            Value::InlineTable(_) => "a table".into(),
            Value::Boolean(_) | Value::Datetime(_) => format!("a {}", self.value.type_name()),
        }
    }

    pub fn text(&self, key: &str) -> Result<&str> {
        self.value.as_str().ok_or_else(|| self.wrong(key, "a string"))
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// A finite number that `ok` accepts. An error if it overflows or rounds to 0 in f32, the precision of training.
    pub fn number(&self, key: &str, wanted: &str, ok: impl Fn(f64) -> bool) -> Result<f64> {
        let number = self.value.as_float().or_else(|| self.value.as_integer().map(|n| n as f64));
        let number = number.filter(|n| n.is_finite() && ok(*n)).ok_or_else(|| self.wrong(key, wanted))?;
        let (subject, found, single) = (self.subject(key), self.found(), number as f32);
        match single.is_finite() && (single == 0.0) == (number == 0.0) {
            true => Ok(number),
            false if single.is_finite() => {
                Err(user_error!("{subject} is {found}, which rounds to 0 in single precision; use a larger number"))
            }
            false => Err(user_error!("{subject} is {found}, which overflows single precision; use a smaller number")),
        }
    }

    /// A whole number in `range`.
    pub fn whole(&self, key: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let number = self.value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        number.ok_or_else(|| self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// `"100k"`, `"1.5M"`, `2_000_000`; k, M, G and T are powers of 1,000.
    pub fn tokens(&self, key: &str) -> Result<u64> {
        let wrong = || self.wrong(key, "a number of tokens such as \"100k\" or \"1.5M\"");
        let many = || self.wrong(key, "a number of tokens below 10^15");
        if let Some(n) = self.value.as_integer() {
            return match u64::try_from(n) {
                Ok(0) | Err(_) => Err(wrong()),
                Ok(n) if n >= TOKENS_MAX => Err(many()),
                Ok(n) => Ok(n),
            };
        }
        let tokens = match self.value.as_float() {
            Some(number) => number,
            None => {
                let text = self.value.as_str().ok_or_else(wrong)?;
                parse_scaled(text.trim()).ok_or_else(wrong)?
            }
        };
        if tokens.is_finite() && tokens >= TOKENS_MAX as f64 {
            return Err(many());
        }
        if (1.0..1e15).contains(&tokens) && (tokens - tokens.round()).abs() < 1e-6 {
            Ok(tokens.round() as u64)
        } else {
            Err(wrong())
        }
    }

    /// The value as it appears in names, without quotes.
    pub fn display(&self) -> String {
        match &self.value {
            Value::String(text) => text.value().clone(),
            other => other.to_string().trim().replace(['"', ' '], ""),
        }
    }

    /// The settings of an inline table.
    pub fn fields(&self, key: &str) -> Result<Vec<(String, Setting)>> {
        let table = self.value.as_inline_table().ok_or_else(|| self.wrong(key, "a table { ... }"))?;
        Ok(table.iter().map(|(k, v)| (k.to_string(), Setting { value: v.clone(), at: self.at.clone() })).collect())
    }
}
