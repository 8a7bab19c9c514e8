//! Detects the kind of a file by its first bytes: JSON lines, plain text, or something that is refused.
//!
//! The file name never decides how a line is read. But if the name contradicts the content, the file is refused.

use std::io::{BufRead, Read};
use std::path::Path;

use super::json::Json;
use super::line_error::LineError;
use super::lines::LineEnd;
use super::{json_file, table};

/// Number of bytes inspected, from the first that is not white space.
const HEAD: usize = 1 << 16;
/// Number of lines inspected among these bytes.
const LINES: usize = 100;

/// The kind of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// JSON objects, one per line.
    Lines,
    Text,
    /// Nothing but white space.
    Empty,
    /// Not even the first byte can be read.
    Unreadable,
    Other(Other),
}

/// A kind of file that is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// The line that shows the kind; `None` for a file without lines.
    pub line: Option<u64>,
    /// A clause for a message: `this is CSV`.
    pub what: String,
    pub cure: String,
    /// Whether the user may override this and have the file read as text or JSON lines.
    pub prose: bool,
}

/// The result of inspecting a file.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub content: Content,
    pub end: LineEnd,
    /// Whether an inspected line is a JSON object, or seems to be meant as one.
    pub objects: bool,
    /// The first line that is not blank, and why it is not a JSON object; `None` if it is one.
    pub first: Option<(u64, LineError)>,
}

/// The beginning of a file.
struct Head {
    /// Starts at the first line that is not blank.
    text: String,
    /// Number of that line.
    line: u64,
    /// Whether `text` reaches the end of the file.
    whole: bool,
    end: LineEnd,
}

impl Inspection {
    /// Inspects the unpacked bytes of `reader`; `path` is the name of the file.
    pub fn new(mut reader: impl BufRead, path: &Path) -> Self {
        let mut start = Vec::new();
        let read = reader.by_ref().take(HEAD as u64).read_to_end(&mut start);
        if read.is_err() && start.is_empty() {
            return Self::only(Content::Unreadable);
        }
        if let Some(other) = binary(&start) {
            return Self::only(Content::Other(other));
        }
        let Some(head) = Head::read(start, read.is_err(), &mut reader) else { return Self::only(Content::Empty) };
        let lines = head.lines();
        let objects = lines.iter().filter(|(_, line)| is_object(line)).count();
        let first = lines.first().and_then(|(number, line)| Some((*number, Json::object(line).err()?)));
        let content = head.content(&lines, path);
        Self { content, end: head.end, objects: objects > 0, first }
    }

    fn only(content: Content) -> Self {
        Self { content, end: LineEnd::Feed, objects: false, first: None }
    }
}

impl Head {
    /// `None` if the file holds only white space.
    fn read(mut bytes: Vec<u8>, torn: bool, mut reader: impl BufRead) -> Option<Self> {
        let (mut line, mut returns, mut feeds) = (1, 0u64, 0u64);
        let begin = loop {
            let begin = blank(&bytes);
            let blank = bytes[..begin].iter();
            feeds += blank.clone().filter(|&&byte| byte == b'\n').count() as u64;
            returns += blank.filter(|&&byte| byte == b'\r').count() as u64;
            if begin < bytes.len() {
                break begin;
            }
            bytes.clear();
            // Reading the file reports this error later.
            if reader.by_ref().take(HEAD as u64).read_to_end(&mut bytes).is_err() || bytes.is_empty() {
                return None;
            }
        };
        bytes.drain(..begin);
        let rest = HEAD.saturating_sub(bytes.len()) as u64;
        let _ = reader.by_ref().take(rest).read_to_end(&mut bytes);
        let whole = !torn && reader.fill_buf().is_ok_and(<[u8]>::is_empty);
        let end = match feeds == 0 && !bytes.contains(&b'\n') && (returns > 0 || bytes.contains(&b'\r')) {
            true => LineEnd::Return,
            false => LineEnd::Feed,
        };
        line += if end == LineEnd::Return { returns } else { feeds };
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        if end == LineEnd::Return {
            text = text.replace('\r', "\n");
        }
        Some(Self { text, line, whole, end })
    }

    /// Non-blank lines with their numbers. An incomplete last line is included only if it is the only one.
    fn lines(&self) -> Vec<(u64, &str)> {
        let mut all: Vec<(u64, &str)> =
            self.text.split('\n').zip(self.line..).map(|(line, number)| (number, line.trim())).collect();
        if !self.whole && all.len() > 1 {
            all.pop();
        }
        all.retain(|(_, line)| !line.is_empty());
        all.truncate(LINES);
        all
    }

    /// Whether there are more NULs, or (next to bytes that are not UTF-8) more control characters, than a damaged text file would
    /// have. Text in another encoding has none.
    fn is_binary(&self) -> bool {
        let control = |c: &char| matches!(c, '\0'..='\x07' | '\x0e'..='\x1a' | '\x1c'..='\x1f' | '\x7f');
        let (all, nuls) = (self.text.chars().count(), self.text.matches('\0').count());
        let controls = self.text.chars().filter(control).count();
        nuls * 100 > all || controls * 10 > all || controls * 50 > all && self.text.contains('\u{fffd}')
    }

    fn content(&self, lines: &[(u64, &str)], path: &Path) -> Content {
        let other = |line: u64, what: &str, cure: &str, prose: bool| {
            Content::Other(Other { line: Some(line), what: what.to_string(), cure: cure.to_string(), prose })
        };
        if lines.is_empty() {
            return Content::Text;
        }
        let parsed: Vec<Option<Json>> = lines.iter().map(|(_, line)| Json::value(line).ok()).collect();
        let whole = parsed.iter().filter(|json| matches!(json, Some(Json::Object(_)))).count();
        if let Some((what, cure)) = json_file::kind(&self.text, self.whole, whole * 2 >= lines.len()) {
            return other(self.line, &what, &cure, false);
        }
        let like: Vec<bool> = lines.iter().map(|(_, line)| is_object(line)).collect();
        let objects = like.iter().filter(|&&like| like).count();
        if objects > 0 && objects * 2 >= lines.len() {
            return Content::Lines;
        }
        if self.is_binary() {
            let (what, cure) = ("this is binary data", "name a file of text in UTF-8, or of JSON lines");
            return Content::Other(Other { line: None, what: what.to_string(), cure: cure.to_string(), prose: false });
        }
        let parts = lines.iter().filter(|(_, line)| json_file::is_part(line)).count();
        if parts > 2 && parts * 3 >= lines.len() * 2 {
            return other(self.line, "this is JSON over several lines", "write one object a line, e.g. with jq -c", false);
        }
        if like.first() == Some(&true) || objects * 10 >= lines.len() && objects > 0 {
            let odd = lines.iter().zip(&like).find(|(_, is)| **is != like[0]).map_or(self.line, |((number, _), _)| *number);
            let what = format!("{objects} of the first {} lines are JSON objects, and the others are not", lines.len());
            return other(odd, &what, "write one JSON object a line", true);
        }
        let lists = parsed.iter().filter(|json| matches!(json, Some(Json::List(_)))).count();
        if lists * 2 >= lines.len() {
            let cure = "write one JSON object a line, e.g. {\"src\": ..., \"tgt\": ...}";
            return other(self.line, "these are JSON lists, one a line", cure, true);
        }
        if lines.len() > 1 && parsed.iter().all(|json| matches!(json, Some(Json::Text(_)))) {
            let cure = "write one JSON object a line, e.g. with jq -c '{text: .}'";
            return other(self.line, "these are JSON strings, one a line", cure, true);
        }
        if let Some((what, cure, prose)) = marked(&self.text) {
            return other(self.line, what, cure, prose);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rows = |reader: &str| format!("write one JSON object a line, e.g. polars.{reader}.write_ndjson(\"data.jsonl\")");
        if let Some(kind) = table::kind(&self.text, self.whole) {
            return other(self.line, &format!("this is {kind}, which is not read"), &rows(&format!("read_csv({name:?})")), true);
        }
        match suffix(&name).as_str() {
            ending @ ("csv" | "tsv" | "tab" | "psv") => {
                let cure = rows(&format!("read_csv({name:?})"));
                other(self.line, &format!("the name says .{ending}, and tables are not read"), &cure, true)
            }
            ending @ ("json" | "jsonl" | "ndjson" | "jsonlines" | "jl" | "ldjson") => {
                let wrong = lines.first().and_then(|(_, line)| Json::object(line).err());
                let wrong = wrong.map_or_else(String::new, |damage| format!(": {damage}"));
                other(
                    self.line,
                    &format!("the name says .{ending}, but there is no JSON object here{wrong}"),
                    "correct the file",
                    true,
                )
            }
            _ => Content::Text,
        }
    }
}

/// Number of leading bytes that are white space or byte order marks.
fn blank(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [0xef, 0xbb, 0xbf, ..] => at += 3,
            [byte, ..] if byte.is_ascii_whitespace() => at += 1,
            _ => return at,
        }
    }
}

/// Whether `line` is a JSON object, seems to be meant as one, or has one after a short prefix, as log files do.
fn is_object(line: &str) -> bool {
    let bare = line.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}' || c == '\u{1e}');
    if let Some(rest) = bare.strip_prefix('{') {
        return rest.trim_start().starts_with(['"', '\'', '}']);
    }
    let inner = bare.find('{').filter(|at| *at <= 64).map(|at| &bare[at..]);
    inner
        .is_some_and(|inner| inner.ends_with('}') && matches!(Json::value(inner), Ok(Json::Object(fields)) if !fields.is_empty()))
}

/// The last extension of a file name, ignoring that of a compressed file.
fn suffix(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    name.rsplit_once('.').map_or(String::new(), |(_, suffix)| suffix.to_string())
}

/// Text whose beginning marks it as something other than prose: what it is, the cure, and whether the user may override this.
fn marked(text: &str) -> Option<(&'static str, &'static str, bool)> {
    let begin: String = text.trim_start().chars().take(64).collect::<String>().to_ascii_lowercase();
    let begins = |marks: &[&str]| marks.iter().any(|mark| begin.starts_with(mark));
    Some(match () {
        () if begins(&["version https://git-lfs"]) => {
            ("this is a pointer of Git LFS, not the file itself", "fetch the file with git lfs pull", false)
        }
        () if begins(&["../.git/annex/", ".git/annex/", "/annex/objects/"]) => {
            ("this is a pointer of git-annex, not the file itself", "fetch the file with git annex get", false)
        }
        () if begins(&["{\\rtf"]) => ("this is RTF, which is not read", "save it as plain text in UTF-8", false),
        () if begins(&["<!doctype html", "<html", "<svg"]) => ("this is HTML, which is not read", "extract its text", true),
        () if begins(&["<?xml", "<!doctype"]) => ("this is XML, which is not read", "extract its text", true),
        () => return None,
    })
}

/// For a file that was expected to be of another kind: what its first bytes show it to be, with the cure. Recognises a Git LFS
/// pointer, a web page, an archive and the like; `None` if nothing is recognised.
pub fn recognise_other_kind(start: &[u8]) -> Option<String> {
    let start = &start[..start.len().min(HEAD)];
    if let Some((what, cure, _)) = marked(&String::from_utf8_lossy(start)) {
        return Some(format!("{what}; {cure}"));
    }
    binary(start).map(|other| other.what)
}

const ROWS: &str = "write its rows as JSON, one object a line";
const UNPACK: &str = "unpack it first; only gzip and zstd are unpacked on the way";
const MODEL: &str = "name a file of text or of JSON lines";

/// First bytes of files that are not text.
const MAGIC: [(&[u8], &str, &str); 29] = [
    (b"PAR1", "Parquet", ""),
    (b"PARE", "encrypted Parquet", ROWS),
    (b"ARROW1", "Arrow", ROWS),
    (b"FEA1", "Feather", ROWS),
    (b"ORC", "ORC", ROWS),
    (b"Obj\x01", "Avro", ROWS),
    (b"SQLite format 3", "an SQLite database", ROWS),
    (b"\x89HDF", "HDF5", ROWS),
    (b"\x93NUMPY", "a NumPy array", ROWS),
    (b"PK\x03\x04", "a zip archive (.zip, .xlsx, .docx, .npz and .pt are)", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"BZh", "bzip2", UNPACK),
    (b"\xfd7zXZ", "xz", UNPACK),
    (b"\x04\x22\x4d\x18", "LZ4", UNPACK),
    (b"\x1f\x8b", "gzip within gzip or zstd", UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd within gzip or zstd", UNPACK),
    (b"%PDF-", "PDF", "extract its text"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as plain text in UTF-8"),
    (b"GGUF", "a GGUF model", MODEL),
    (b"\x7fELF", "a program", MODEL),
    (b"\x80\x02", "a Python pickle", ROWS),
    (b"\x80\x03", "a Python pickle", ROWS),
    (b"\x80\x04", "a Python pickle", ROWS),
    (b"\x80\x05", "a Python pickle", ROWS),
    (b"\x89PNG", "an image", MODEL),
    (b"\xff\xd8\xff", "an image", MODEL),
    (b"GIF8", "an image", MODEL),
];

/// What a file is that is not text, or is text in an encoding other than UTF-8.
fn binary(start: &[u8]) -> Option<Other> {
    let other = |what: &str, cure: &str| {
        let what = format!("this is {what}, which is not read");
        Some(Other { line: None, what, cure: cure.to_string(), prose: false })
    };
    if let Some((_, what, cure)) = MAGIC.iter().find(|(magic, ..)| start.starts_with(magic)) {
        // Some signatures are letters, and a text may begin with them.
        let text = start.is_ascii() && !start.contains(&0);
        if !text || *what == "PDF" {
            let parquet = "write its rows as JSON, one object a line, e.g. polars.read_parquet(\"data.parquet\").write_ndjson(\"data.jsonl\")";
            return other(what, if cure.is_empty() { parquet } else { cure });
        }
    }
    if start.get(257..262) == Some(b"ustar") {
        return other("a tar archive", UNPACK);
    }
    if start.len() > 10 && start[8] == b'{' && start[3..8] == [0; 5] {
        return other("a safetensors file", MODEL);
    }
    let encoding = utf_16_or_32(start)?;
    let cure = format!("save it as UTF-8, e.g. with iconv -f {encoding} -t UTF-8");
    Some(Other { line: Some(1), what: format!("this is {encoding}, and text must be UTF-8"), cure, prose: false })
}

/// The encoding shown by a byte order mark or by the positions of NULs.
fn utf_16_or_32(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Some("UTF-16"),
        _ => {}
    }
    // Percentage of NULs at each of the four byte positions.
    let count = start.len() / 4;
    let nuls = |at: usize| start.chunks_exact(4).filter(|four| four[at] == 0).count() * 100 / count.max(1);
    let [a, b, c, d] = [0, 1, 2, 3].map(nuls);
    match count {
        0 => None,
        _ if c > 90 && d > 90 && a < 10 => Some("UTF-32LE"),
        _ if a > 90 && b > 90 && d < 10 => Some("UTF-32BE"),
        _ if b > 30 && d > 30 && a < 5 && c < 5 => Some("UTF-16LE"),
        _ if a > 30 && c > 30 && b < 5 && d < 5 => Some("UTF-16BE"),
        _ => None,
    }
}
