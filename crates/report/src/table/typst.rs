//! A table as Typst.

use hydrometer_base::text::is_hidden;

use super::{Row, Table};

impl Table<'_> {
    /// A `#table` and its note. Texts are strings, in which Typst does not interpret markup.
    pub(super) fn typst(&self) -> String {
        let columns = self.head.len();
        let strings = |texts: &[String]| texts.iter().map(|text| typst(text)).collect::<Vec<_>>().join(", ");
        let rule = "  table.hline(stroke: 0.5pt),\n";
        let (mut body, mut before) = (String::new(), None);
        for row in &self.rows {
            let ruled = match (before, row) {
                (Some(_), Row::Facet(_)) => true,
                (Some(before), Row::Reference(_)) => !matches!(before, &Row::Reference(_)),
                _ => false,
            };
            body += if ruled { rule } else { "" };
            body += &match row {
                Row::Facet(name) => format!("  table.cell(colspan: {columns}, align: left, emph({})),\n", typst(name)),
                Row::Cell(_, texts) | Row::Plain(texts) | Row::Reference(texts) => format!("  {},\n", strings(texts)),
            };
            before = Some(row);
        }
        format!(
            "#table(\n  columns: {columns},\n  align: (left,) + (right,) * {},\n  stroke: none,\n  table.hline(),\n  \
             table.header({}),\n{rule}{body}  table.hline(),\n)\n#text(size: 0.8em, {})\n",
            columns - 1,
            strings(&self.head),
            typst(&self.note)
        )
    }
}

/// `text` as a Typst string literal.
pub fn typst(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            '\n' | '\r' | '\t' => out.push(' '),
            // Shown as a visible escape, as in all output.
            c if is_hidden(c) => out.push_str(&format!("\\{}", hydrometer_base::text::escaped(c))),
            _ => out.push(c),
        }
    }
    out + "\""
}
