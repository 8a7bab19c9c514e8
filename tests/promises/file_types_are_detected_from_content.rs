//! The type of a data file is detected from its content: its name, line endings and compression do not matter, every verb agrees, and a
//! file that is neither text nor JSON lines is refused. Oracle: the same data as an uncompressed file with plain line feeds.

use std::path::{Path, PathBuf};

use hydrometer::data::corpus::Reader;
use hydrometer::data::example::{Example, Segment};
use hydrometer::data::format::{Format, Keys};
use hydrometer::data::line_error::OnBadLine;
use serde_json::Value;

use super::fixtures::folder;
use super::lab::Lab;
use super::mutation::{of_bytes, rounds};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/files").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// `text` with the line endings, byte order marks and blank lines that occur in practice.
fn in_the_wild(text: &str) -> Vec<Vec<u8>> {
    let crlf = text.replace('\n', "\r\n");
    let all = [
        crlf.clone(),
        format!("\u{feff}{text}"),
        format!("\u{feff}{crlf}"),
        text.replace("\n\n", "\n \n"),
        text.replace("\n\n", "\n\t \n"),
        text.replace("\n\n", "\r\n  \r\n"),
        text.replace('\n', "\r\r\n"),
        text.replace('\n', "\r"),
    ];
    let mut all: Vec<Vec<u8>> = all.into_iter().map(String::into_bytes).collect();
    all.push(gzip(crlf.as_bytes()));
    all.push(zstd::encode_all(text.as_bytes(), 3).unwrap());
    all
}

fn documents(path: &Path) -> Vec<(String, String)> {
    let mut reader = Reader::new(path, Format::Text, Keys::default(), OnBadLine::Stop).unwrap();
    let next = || reader.next_example().unwrap().map(|example| (example.id, example.target.unwrap().text()));
    std::iter::from_fn(next).collect()
}

fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert_eq!(said.trim().lines().count(), 1, "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    said
}

#[test]
fn line_endings_do_not_change_the_documents_of_a_text() {
    let lab = Lab::new();
    let text = String::from_utf8(bytes("unix.txt")).unwrap();
    let wanted = documents(&file("unix.txt"));
    assert_eq!(wanted.len(), 5);
    let path = lab.path().join("unix.txt");
    for content in in_the_wild(&text) {
        std::fs::write(&path, &content).unwrap();
        let begin = String::from_utf8_lossy(&content[..40]).into_owned();
        assert!(documents(&path) == wanted, "{begin:?}");
    }
    // All other white space is kept.
    std::fs::write(&path, "  a \tb  \r\nc\rd\u{b}\u{c}\u{85}\u{2028}e \r\n").unwrap();
    assert_eq!(documents(&path)[0].1, "a \tb  \nc\rd\u{b}\u{c}\u{85}\u{2028}e");
}

#[test]
fn json_lines_are_recognised_under_any_file_name() {
    let lab = Lab::new();
    let text = String::from_utf8(bytes("pairs.jsonl")).unwrap();
    let found = |name: &str| -> Value {
        let output = lab.run(&["data", name, "--output", "json"]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let names = ["pairs.jsonl", "pairs.ndjson", "pairs.JSONL", "pairs.jsonl.1", "pairs", "part-00000", "pairs.txt", "pairs.csv"];
    for name in names {
        lab.write(name, &text);
    }
    let wanted = found("pairs.jsonl");
    assert_eq!((&wanted["format"], &wanted["with_source"]), (&"src-tgt-jsonl".into(), &40.into()));
    names.iter().for_each(|name| assert_eq!(found(name), wanted, "{name}"));
    for content in in_the_wild(&text) {
        std::fs::write(lab.path().join("pairs"), &content).unwrap();
        assert_eq!(found("pairs"), wanted, "{:?}", String::from_utf8_lossy(&content[..40]));
    }
}

#[test]
fn every_verb_refuses_other_file_types_and_names_them() {
    let lab = Lab::new();
    let model = folder("llama").display().to_string();
    let cases: [(&str, Vec<u8>, &str); 14] = [
        (
            "pretty.json",
            bytes("pretty.json"),
            "pretty.json:1: this is one JSON list; write its objects one a line, e.g. with jq -c '.[]'",
        ),
        ("prose.txt", bytes("one-line.json"), "prose.txt:1: this is one JSON list;"),
        (
            "object",
            bytes("object.json"),
            "object:1: this is a JSON object over several lines; write one object a line, e.g. with jq -c '.data[]'",
        ),
        ("table.csv", bytes("table.csv"), "table.csv:1: this is CSV, which is not read;"),
        ("table.txt", gzip(&bytes("table.csv")), "table.txt:1: this is CSV, which is not read;"),
        ("book.csv", bytes("unix.txt"), "book.csv:1: the name says .csv, and tables are not read;"),
        ("book.jsonl", bytes("unix.txt"), "book.jsonl:1: the name says .jsonl, but there is no JSON object here: not JSON"),
        ("data.txt", bytes("table.parquet"), "data.txt: this is Parquet, which is not read;"),
        ("pair.txt", b"a b\tc d\ne\tf\n".to_vec(), "pair.txt:1: this is TSV, which is not read;"),
        (
            "wide.txt",
            "Two words".encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "wide.txt:1: this is UTF-16LE, and text must be UTF-8;",
        ),
        ("page", b"<!DOCTYPE html>\n<p>Not found.</p>\n".to_vec(), "page:1: this is HTML"),
        (
            "lfs.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            "lfs.jsonl:1: this is a pointer of Git LFS",
        ),
        ("noise", (0..=255).cycle().take(5000).collect(), "noise: this is binary data"),
        ("blank.txt", b"\xef\xbb\xbf \r\n\n".to_vec(), "blank.txt: the file has no text"),
    ];
    for (name, content, wanted) in cases {
        std::fs::write(lab.path().join(name), content).unwrap();
        lab.write(
            "x.toml",
            &super::lab::EXPERIMENT.replace("\"train.txt\"", &format!("{name:?}")).replace(", format = \"text\"", ""),
        );
        let verbs: [&[&str]; 5] = [
            &["data", name],
            &["eval", "--model", &model, "--data", name],
            &["teach", "--model", &model, "--data", name, "--top-k", "2", "--out", "cache"],
            &["plan", "x.toml"],
            &["run", "x.toml"],
        ];
        // All verbs share this check, so a few kinds are enough.
        let some = if ["pretty.json", "table.csv", "data.txt"].contains(&name) { &verbs[..] } else { &[verbs[0], verbs[3]] };
        for verb in some {
            let said = refused(&lab, verb);
            assert!(said.contains(wanted), "{verb:?} said: {said}\nexpected: {wanted}");
            let ours = if verb[1] == "x.toml" { "format = \"text\"" } else { "--format text" };
            assert!(!said.contains("plain text") || said.contains(ours), "{verb:?}: the remedy is a flag of this verb: {said}");
        }
        assert!(!lab.path().join("runs").exists() && !lab.path().join("cache").exists(), "{name}: nothing may have started");
    }
}

#[test]
fn missing_and_irregular_files_are_refused_at_once() {
    let lab = Lab::new();
    let model = folder("llama").display().to_string();
    std::fs::create_dir_all(lab.path().join("pipes")).unwrap();
    std::fs::create_dir_all(lab.path().join("empty/er")).unwrap();
    lab.write("empty/.hidden", "text");
    let made = std::process::Command::new("mkfifo").arg(lab.path().join("pipes/docs.jsonl")).status().unwrap();
    assert!(made.success());
    let cases = [
        ("pipes/docs.jsonl", "pipes/docs.jsonl: not a regular file but a pipe"),
        ("pipes", "pipes/docs.jsonl: not a regular file but a pipe"),
        ("/dev/zero", "/dev/zero: not a regular file but a device"),
        ("empty", "empty: the folder has no files, but for hidden ones"),
    ];
    for (name, wanted) in cases {
        lab.write("x.toml", &super::lab::EXPERIMENT.replace("\"train.txt\"", &format!("{name:?}")));
        for verb in [&["data", name][..], &["eval", "--model", &model, "--data", name], &["plan", "x.toml"]] {
            let said = refused(&lab, verb);
            assert!(said.contains(wanted), "{verb:?}: {said}");
        }
    }
    assert!(refused(&lab, &["data", "gone"]).contains("gone: there is no such file"));
}

#[test]
fn files_without_read_permission_are_a_user_error_in_every_verb() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let path = lab.path().join("train.txt");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        return; // root may read everything
    }
    assert!(refused(&lab, &["data", "train.txt"]).contains("train.txt: Permission denied"));
    for verb in ["plan", "run"] {
        assert!(refused(&lab, &[verb, "lab.toml"]).contains("lab.toml:5:1: ./train.txt: Permission denied"));
    }
}

#[test]
fn eval_and_teach_skip_damaged_lines_on_request_and_report_them() {
    let lab = Lab::new();
    let model = folder("llama").display().to_string();
    lab.write("docs", "{\"text\": \"a b\"}\n{\"text\": 7}\n{\"text\": \"c d\"}\n");
    let verbs: [&[&str]; 2] = [
        &["eval", "--model", &model, "--data", "docs"],
        &["teach", "--model", &model, "--data", "docs", "--top-k", "2", "--out", "cache"],
    ];
    for verb in verbs {
        let said = refused(&lab, verb);
        assert!(
            said.contains("docs:2: \"text\" must be a string, not a number: 7; correct the line, or pass --on-bad-line skip"),
            "{said}"
        );
        let output = lab.run(&[verb, &["--on-bad-line", "skip", "--output", "json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 of 3 lines left out: wrong-type 1; the first: docs:2: "), "{said}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&found["lines"], &found["bad_lines"]), (&3.into(), &1.into()));
    }
    lab.write("docs", "{\"text\": 7}\n");
    let said = refused(&lab, &["eval", "--model", &model, "--data", "docs", "--on-bad-line", "skip"]);
    assert!(said.contains("docs: there is nothing to read: 1 of 1 lines left out: wrong-type 1"), "{said}");
}

#[test]
fn lines_of_no_known_format_are_refused_with_the_reason() {
    let lab = Lab::new();
    let cases = [
        (
            "{'src': 'a', 'tgt': 'b'}\n",
            "x:1: not JSON: key must be a string at column 2, at \"'src': 'a', 'tgt': 'b'}\"; correct the line",
        ),
        (
            "{\"question\": \"a\", \"answer\": \"b\"}\n",
            "x:1: keys \"question\", \"answer\" are those of no known format; name it",
        ),
        (
            "{\"data\": [{\"src\": \"a\", \"tgt\": \"b\"}]}\n",
            "x:1: the line has a list of objects under \"data\"; write them one a line",
        ),
    ];
    for (text, wanted) in cases {
        lab.write("x", text);
        let said = refused(&lab, &["data", "x"]);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn the_first_recognisable_line_decides_the_format() {
    let lab = Lab::new();
    lab.write("x", "{\"src\": \"a\", \"tgt\": null}\n{\"src\": \"a\", \"tgt\": \"b\"}\n");
    let said = refused(&lab, &["data", "x"]);
    assert!(said.contains("x:1: expected a JSON object with a \"tgt\"; it is null here"), "{said}");
    lab.ok(&["data", "x", "--on-bad-line", "skip"]);
    lab.write("x", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n");
    let said = refused(&lab, &["data", "x"]);
    assert!(said.contains("a conversation (\"messages\")") && !said.contains("jq"), "{said}");
    // A "choices" list of strings is not a response of an API.
    for (line, format) in [
        ("{\"prompt\": \"x\", \"completion\": \"y\", \"choices\": [\"A\", \"B\"]}", "prompt-completion-jsonl"),
        ("{\"text\": \"x\", \"choices\": [\"A\", \"B\"], \"answer\": 0}", "jsonl"),
    ] {
        lab.write("x", line);
        let output = lab.run(&["data", "x", "--output", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["format"], format, "{line}");
    }
    let said = refused(&lab, &["data", "x", "--source-key", "q"]);
    assert!(said.contains("--source-key does not apply to jsonl"), "{said}");
}

/// Good files with flipped bytes, cuts, NULs and joins: nothing panics, and JSON is never read as prose.
#[test]
fn damage_never_turns_json_lines_into_prose() {
    let whole = bytes("pairs.jsonl");
    let seeds = [whole.clone(), gzip(&whole), zstd::encode_all(&whole[..], 3).unwrap(), bytes("pretty.json"), bytes("unix.txt")];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let (mut read, mut stopped) = (0, 0);
    for (round, mut random) in rounds(1500) {
        let content = of_bytes(&seeds[round as usize % seeds.len()], &mut random);
        let round = round as usize;
        std::fs::write(&path, &content).unwrap();
        let policy = [OnBadLine::Stop, OnBadLine::Skip][round / seeds.len() % 2];
        let format = [Format::Text, Format::SrcTgt][round / 2 / seeds.len() % 2];
        let Ok(mut reader) = Reader::new(&path, format, Keys::default(), policy) else {
            stopped += 1;
            continue;
        };
        loop {
            match reader.next_example() {
                Ok(None) => break,
                Err(_) => {
                    stopped += 1;
                    break;
                }
                Ok(Some(Example { target: Some(Segment::Text(text)), .. })) => {
                    read += 1;
                    assert!(!text.contains('\0') && !text.contains("\"tgt\": "), "round {round}: {text}");
                }
                Ok(Some(_)) => {}
            }
        }
    }
    assert!(read > 1000 && stopped > 300, "{read} examples, {stopped} refusals");
}
