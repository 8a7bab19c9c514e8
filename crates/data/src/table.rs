//! Tells tables (values separated by commas, tabs, semicolons or bars) from prose.
//!
//! Prose has commas too. A text is a table if every record has the same number of fields, and either fields follow separators
//! without a space (prose has one there) or the first record looks like column names.

/// Number of records inspected.
const RECORDS: usize = 100;

/// The kind of table that `text` (the beginning of a file, or all of it if `whole`) is, if it is one.
pub fn kind(text: &str, whole: bool) -> Option<&'static str> {
    if text.lines().next().is_some_and(|line| line.len() == 5 && line.starts_with("sep=")) {
        return Some("CSV");
    }
    let kinds = [(',', "CSV"), ('\t', "TSV"), (';', "CSV (separated by semicolons)"), ('|', "CSV (separated by bars)")];
    kinds.into_iter().find(|(separator, _)| is_table(&read(text, *separator, whole), *separator)).map(|(_, name)| name)
}

struct Table {
    /// The fields of the first record.
    header: Vec<String>,
    records: Vec<Record>,
    /// Whether the text ends inside a quoted field.
    quoted: bool,
}

#[derive(Clone, Copy, Default)]
struct Record {
    fields: usize,
    /// Whether a space follows a separator.
    loose: bool,
    /// Whether quotes or brackets remain open at the end of a field.
    torn: bool,
}

fn is_table(table: &Table, separator: char) -> bool {
    let (count, width) = (table.records.len(), table.header.len());
    if width < 2 {
        return false;
    }
    let same = table.records.iter().filter(|record| record.fields == width).count();
    if separator == '\t' {
        return count >= 2 && same * 10 >= count * 9;
    }
    let loose = |record: &Record| record.loose;
    let named = names(&table.header);
    if named && !table.records.first().is_some_and(loose) {
        return count >= 2 && same * 5 >= count * 4 || count == 1 && table.quoted;
    }
    let sound = same == count && !table.records.iter().any(|record| record.torn);
    sound && (count >= 3 && !table.records.iter().any(loose) || count >= 5 && named)
}

/// Whether `fields` are distinct names, as of columns.
fn names(fields: &[String]) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "_ .-/#".contains(c);
    let is_name = |field: &str| {
        let begins = field.starts_with(|c: char| c.is_alphabetic() || c == '_');
        begins && field.len() <= 60 && field.split_whitespace().count() <= 3 && field.chars().all(plain)
    };
    let distinct: std::collections::BTreeSet<&str> = fields.iter().map(|field| field.trim()).collect();
    distinct.len() == fields.len() && distinct.into_iter().all(is_name)
}

/// The first records of `text`; the last one only if it is complete.
fn read(text: &str, separator: char, whole: bool) -> Table {
    let mut table = Table { header: Vec::new(), records: Vec::new(), quoted: false };
    let (mut record, mut field, mut quoted) = (Record { fields: 1, ..Record::default() }, String::new(), false);
    let mut filled = false;
    let mut chars = text.chars().chain(whole.then_some('\n')).peekable();
    while let Some(c) = chars.next() {
        if quoted {
            match c {
                '"' if chars.peek() == Some(&'"') => drop(chars.next()),
                '"' => {
                    quoted = false;
                    record.torn |= chars.peek().is_some_and(|&next| next != separator && next != '\n' && next != '\r');
                }
                _ => field.push(c),
            }
            continue;
        }
        // Leading tabs are indentation.
        if c == separator && (filled || c != '\t') || c == '\n' && filled {
            let brackets = |bracket: char| field.matches(bracket).count();
            record.torn |= brackets('(') != brackets(')') || brackets('[') != brackets(']');
            let field = std::mem::take(&mut field);
            if table.records.is_empty() {
                table.header.push(field.trim().to_string());
            }
        }
        match c {
            '\n' => {
                if filled {
                    table.records.push(record);
                }
                if table.records.len() == RECORDS {
                    return table;
                }
                (record, filled) = (Record { fields: 1, ..Record::default() }, false);
                field.clear();
            }
            _ if c == separator && (filled || c != '\t') => {
                record.fields += 1;
                record.loose |= chars.peek() == Some(&' ');
                filled = true;
            }
            '"' if field.is_empty() => (quoted, filled) = (true, true),
            '\r' => {}
            _ => {
                filled |= !c.is_whitespace();
                field.push(c);
            }
        }
    }
    table.quoted = quoted;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_distinguished_from_prose() {
        let tables = [
            "src,tgt\nQuestion 0?,The old mill.\n",
            "id,question,answer\n1,\"What, then?\",\"A line\nand \"\"another\"\"\"\n2,b,c\n",
            "prompt,completion\nWhat is it, really?,It is.\nWhy?,So.\nWho?,Me.\nHow?,So.\nWhen?,Now.\n",
            "Question;Answer\nA, b?;c\nD?;e\n",
            "a|b\n1|2\n",
            "What is it?\tA mill.\nWhy?\tIt grinds.\n",
            "0,The old mill.,1\n1,The new mill.,0\n2,No mill.,1\n",
            "First name, Last name\nAda, Lovelace\nAlan, Turing\nGrace, Hopper\nKurt, Gödel\n",
            "sep=;\nx\n",
            "问题,答案\n为什么?,因为。\n",
        ];
        for text in tables {
            assert!(kind(text, true).is_some(), "{text}");
            assert!(kind(&text.replace('\n', "\r\n"), true).is_some(), "{text}");
        }
        assert!(kind("prompt,completion\n\"A very long", false).is_some());
        let prose = [
            "Hello, world.\n\nIt was, all in all, a good day; we sailed home.\nThen, night.\n",
            "Dear John,\nI write, as ever, late.\n",
            "Love, Death\n\nThe king, he speaks,\nof night and fire,\nthe ships, they sail\n",
            "gcd(12,18)=6\ngcd(4,6)=2\ngcd(9,3)=3\n",
            "It cost 1,200 pounds.\nNobody paid.\nNobody asked.\n",
            "Name: Ada\nTitle: Of engines, and others\n",
            "\tAn indented line\n\tand another, here\n\tand a third\n",
            "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
            "\"Hello,\" he said.\n\"And you?\"\n\"Well, yes,\" she said.\n",
            "a,b",
            "one\n",
            "",
        ];
        for text in prose {
            assert_eq!(kind(text, true), None, "{text}");
        }
    }
}
