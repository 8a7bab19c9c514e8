//! Comma-separated values (RFC 4180, lines ending in a bare LF): one file per frame.

use std::path::PathBuf;

use anyhow::Result;
use polars::prelude::*;

use super::Export;
use crate::frames::Frames;
use crate::provenance::Provenance;

/// One file per frame, `runs.csv` and so on: the columns of the frames under their names. Values read back to the same bits, so
/// texts that a spreadsheet would take for formulas are not escaped. Null is an empty cell.
pub struct Csv;

impl Export for Csv {
    fn files(&self, frames: &Frames, _: &Provenance) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        frames.named().into_iter().map(|(name, frame)| Ok((format!("{name}.csv").into(), text(frame)?.into_bytes()))).collect()
    }
}

fn text(frame: &DataFrame) -> Result<String> {
    let head: Vec<String> = frame.columns().iter().map(|column| quoted(column.name())).collect();
    let mut out = head.join(",") + "\n";
    for row in 0..frame.height() {
        let cells: Vec<String> = frame.columns().iter().map(|column| Ok(cell(&column.get(row)?))).collect::<Result<_>>()?;
        out += &(cells.join(",") + "\n");
    }
    Ok(out)
}

fn cell(value: &AnyValue) -> String {
    match value {
        AnyValue::Null => String::new(),
        // Rust writes the shortest decimals that read back to the same number.
        AnyValue::Float64(value) => format!("{value}"),
        AnyValue::Int64(value) => value.to_string(),
        AnyValue::Boolean(value) => value.to_string(),
        other => quoted(&other.str_value()),
    }
}

pub fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']);
    if plain { text.to_string() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_look_like_formulas_are_not_changed() {
        let frame = df!("method" => ["=cmd()", "@SUM(A1)", "-2+3", "+1", "=1,2"]).unwrap();
        assert_eq!(text(&frame).unwrap(), "method\n=cmd()\n@SUM(A1)\n-2+3\n+1\n\"=1,2\"\n");
    }

    #[test]
    fn special_characters_are_quoted_and_null_differs_from_the_empty_text() {
        let frame = df!("a,b" => [Some("x \"y\""), Some(""), None], "n" => [0.1 + 0.2, f64::NAN, 1e300]).unwrap();
        let long = format!("{}", 1e300);
        assert_eq!(text(&frame).unwrap(), format!("\"a,b\",n\n\"x \"\"y\"\"\",0.30000000000000004\n\"\",NaN\n,{long}\n"));
        assert_eq!(long.parse::<f64>().unwrap(), 1e300);
    }
}
