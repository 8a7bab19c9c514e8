//! Oracle: the kind of the error. After seeded random damage to config.json, tokenizer.json or the safetensors header, a checkpoint still
//! reads or gives a [`UserError`] of one line; nothing panics or takes longer than [`SLOW`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydrometer::UserError;
use hydrometer::data::tokenizer;
use hydrometer::data::vocabulary::Vocabulary;
use hydrometer::model::hf;
use rand::RngExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::folder;
use super::lab::program;
use super::mutation::{of_bytes, of_value, rounds};

const SLOW: Duration = Duration::from_secs(20);

fn copy(from: &Path) -> TempDir {
    let lab = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("golden") {
            fs::copy(&path, lab.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    lab
}

/// Opens a checkpoint, checks its shapes, and encodes and decodes a few texts.
fn read(folder: &Path) -> anyhow::Result<()> {
    let checkpoint = hf::open(folder)?;
    checkpoint.check_use(1, 16)?;
    let opened = tokenizer::open(&checkpoint.tokenizer()?)?;
    let vocabulary = Vocabulary::new(&opened, tokenizer::vocab_size(&opened), None)?;
    for text in ["", "The old mill, 12!", "\u{301}\r\n ſ"] {
        let (ids, _) = vocabulary.encode_document(text)?;
        vocabulary.encode_first(text)?;
        vocabulary.bytes(&ids)?;
    }
    Ok(())
}

fn read_or_refused(folder: &Path, file: &str, what: &str) {
    let began = Instant::now();
    let result = std::panic::catch_unwind(|| read(folder)).unwrap_or_else(|_| panic!("{what} of {file} panics"));
    assert!(began.elapsed() < SLOW, "{what} of {file} takes {:?}", began.elapsed());
    if let Err(error) = result {
        assert!(error.is::<UserError>(), "{what} of {file}: {error:#} is not a UserError");
        assert_eq!(error.to_string().lines().count(), 1, "{what} of {file}: {error}");
    }
}

#[test]
fn checkpoints_with_damaged_bytes_or_values_are_read_or_refused() {
    let labs: Vec<(PathBuf, TempDir)> = ["../rules/cl100k", "../chat", "opt-norm-before"]
        .into_iter()
        .map(folder)
        .map(|from| (from.clone(), copy(&from)))
        .collect();
    for (round, mut random) in rounds(1350) {
        let (from, lab) = &labs[round as usize % labs.len()];
        let file = ["config.json", "tokenizer.json", "model.safetensors"][round as usize / labs.len() % 3];
        let whole = fs::read(from.join(file)).unwrap();
        // A safetensors file consists of the header's length, the header in JSON, and the data.
        let header = match file {
            "model.safetensors" => 8..8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize,
            _ => 0..whole.len(),
        };
        let damaged = match random.random_range(0..3) {
            0 => [of_bytes(&whole[..header.end], &mut random), whole[header.end..].to_vec()].concat(),
            _ => {
                let mut value: Value = serde_json::from_slice(&whole[header.clone()]).unwrap();
                of_value(&mut value, &mut random);
                match header.start {
                    0 => value.to_string().into_bytes(),
                    _ => with_header(&value.to_string(), &whole[header.end..]),
                }
            }
        };
        fs::write(lab.path().join(file), damaged).unwrap();
        read_or_refused(lab.path(), file, &format!("round {round} ({})", from.display()));
        fs::write(lab.path().join(file), whole).unwrap();
    }
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn refused(folder: &Path, said: &str) {
    let error = read(folder).unwrap_err();
    assert!(error.is::<UserError>() && error.to_string().contains(said), "{error:#}\nexpected: {said}");
}

#[test]
fn impossible_safetensors_headers_are_refused() {
    let lab = copy(&folder("../chat"));
    let whole = fs::read(folder("../chat").join("model.safetensors")).unwrap();
    let size = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (text, data) = (String::from_utf8(whole[8..8 + size].to_vec()).unwrap(), &whole[8 + size..]);
    let header: Value = serde_json::from_str(&text).unwrap();
    let write = |bytes: Vec<u8>| fs::write(lab.path().join("model.safetensors"), bytes).unwrap();
    let edited = |field: &str, value: Value| {
        let mut header = header.clone();
        header["model.norm.weight"][field] = value;
        write(with_header(&header.to_string(), data));
    };
    let file = "model.safetensors: ";
    for (field, value) in [
        ("data_offsets", json!([0, 64])),
        ("data_offsets", json!([64, 0])),
        ("data_offsets", json!([0, u64::MAX])),
        ("data_offsets", json!([-1, 64])),
        ("data_offsets", json!([1])),
        ("shape", json!([u64::MAX, 2])),
        ("shape", json!([1u64 << 32, 1u64 << 32])),
        ("shape", json!([17])),
        ("shape", json!(16)),
        ("dtype", json!("F31")),
        ("dtype", json!("I32")),
        ("dtype", json!("F64")),
    ] {
        edited(field, value);
        refused(lab.path(), file);
    }
    let again = format!("{},\"model.norm.weight\":{}}}", text.trim_end().strip_suffix('}').unwrap(), header["model.norm.weight"]);
    write(with_header(&again, data));
    refused(lab.path(), "model.safetensors: the header has tensor model.norm.weight twice");
    for size in [u64::MAX, 1 << 40, 100_000_001, 99_999_999] {
        write([&size.to_le_bytes()[..], &whole[8..]].concat());
        refused(lab.path(), file);
    }
    write(Vec::new());
    refused(lab.path(), file);
}

#[test]
fn impossible_model_sizes_are_refused() {
    let lab = copy(&folder("../chat"));
    let whole: Value = serde_json::from_slice(&fs::read(folder("../chat").join("config.json")).unwrap()).unwrap();
    let fields = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "head_dim",
        "max_position_embeddings",
    ];
    let began = Instant::now();
    for field in fields {
        for value in [json!(0), json!(-1), json!(1.5), json!("8"), json!(1u64 << 21), json!(u64::MAX), json!(true), json!([8])] {
            let mut config = whole.clone();
            config[field] = value.clone();
            fs::write(lab.path().join("config.json"), config.to_string()).unwrap();
            refused(lab.path(), &format!("config.json: {field} is {value}, not a whole number from 1 to"));
        }
    }
    for (field, value) in
        [("rms_norm_eps", json!(-1e-6)), ("rms_norm_eps", json!(0)), ("rope_theta", json!("1e4")), ("rope_theta", json!(0.0))]
    {
        let mut config = whole.clone();
        config[field] = value;
        fs::write(lab.path().join("config.json"), config.to_string()).unwrap();
        refused(lab.path(), &format!("config.json: {field} is "));
    }
    // NaN as Python writes it.
    fs::write(lab.path().join("config.json"), whole.to_string().replace("1e-6", "NaN").replace("1e-06", "NaN")).unwrap();
    refused(lab.path(), "config.json: ");
    // The largest allowed values, all at once.
    let mut config = whole.clone();
    for field in fields {
        config[field] = json!(1u64 << 20);
    }
    config["num_hidden_layers"] = json!(4096);
    fs::write(lab.path().join("config.json"), config.to_string()).unwrap();
    refused(lab.path(), "model.safetensors: tensor model.embed_tokens.weight has shape");
    assert!(began.elapsed() < SLOW, "{:?}", began.elapsed());
}

#[test]
fn a_tokenizer_that_panics_is_refused_by_every_verb() {
    let lab = copy(&folder("../chat"));
    let path = lab.path().join("tokenizer.json");
    let whole = fs::read_to_string(&path).unwrap();
    let damaged = whole
        .replace(r#""decoder": {"type": "ByteLevel", "add_prefix_space": false"#, r#""decoder": {"type": "ByteLevel", 5: false"#);
    let damaged =
        damaged.replace(r#""decoder":{"type":"ByteLevel","add_prefix_space":false"#, r#""decoder":{"type":"ByteLevel",5:false"#);
    assert_ne!(whole, damaged);
    fs::write(&path, damaged).unwrap();
    fs::write(lab.path().join("text.jsonl"), "{\"text\": \"The old mill\"}\n").unwrap();
    fs::write(
        lab.path().join("e.toml"),
        "[base]\ndata = { train = \"text.jsonl\", valid = \"text.jsonl\", tokenizer = \"tokenizer.json\" }\nstudent = { hf = \".\" }\n\
         tokens = 100\nbatch = 100\n[method.finetune]\nobjective = \"hard-ce\"\n",
    )
    .unwrap();
    let teach = ["teach", "--model", ".", "--data", "text.jsonl", "--top-k", "2", "--out", "cache"];
    for arguments in [&["eval", "--model", ".", "--data", "text.jsonl"][..], &["plan", "e.toml"], &["run", "e.toml"], &teach] {
        let mut command = program();
        let output = command.args(arguments).current_dir(lab.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{arguments:?}: {said}");
        assert!(said.contains("tokenizer.json: not a tokenizer.json: "), "{arguments:?}: {said}");
    }
}

#[test]
fn a_million_layers_are_refused_with_their_line() {
    let lab = TempDir::new().unwrap();
    fs::write(lab.path().join("text.txt"), "The old mill ran past the river.\n\n".repeat(40)).unwrap();
    let tiny = "hidden_size = 8, intermediate_size = 16, num_attention_heads = 2, num_key_value_heads = 1";
    for (student, teacher, line) in [(1 << 20, 1, 3), (1, 1 << 20, 8)] {
        let text = format!(
            "[base]\ndata = {{ train = \"text.txt\", valid = \"text.txt\", tokenizer = {{ bpe = 280 }} }}\n\
             student = {{ {tiny}, num_hidden_layers = {student} }}\ncontext = 32\ntokens = 512\nbatch = 128\n[teacher.big]\n\
             model = {{ {tiny}, num_hidden_layers = {teacher} }}\ntokens = 256\n[method.soft-ce]\nobjective = \"soft-ce\"\n\
             [method.finetune]\nobjective = \"hard-ce\"\n"
        );
        let line = text.lines().position(|found| found.contains("1048576")).map_or(line, |at| at + 1);
        fs::write(lab.path().join("e.toml"), text).unwrap();
        let began = Instant::now();
        let mut command = program();
        let output = command.args(["plan", "e.toml"]).current_dir(lab.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
        assert!(
            said.contains(&format!("e.toml:{line}:")) && said.contains("num_hidden_layers") && said.contains("4096"),
            "{said}"
        );
        assert!(began.elapsed() < SLOW);
    }
}

#[test]
fn lfs_pointers_html_pages_and_archives_are_recognised() {
    let lab = copy(&folder("../chat"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let path = lab.path().join(file);
        let whole = fs::read(&path).unwrap();
        for (instead, said) in [
            (pointer, "a pointer of Git LFS"),
            ("<!DOCTYPE html><html>", "HTML"),
            ("PK\u{3}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}", "a zip archive"),
        ] {
            fs::write(&path, instead).unwrap();
            refused(lab.path(), said);
        }
        // A byte order mark before JSON is ignored.
        if file != "model.safetensors" {
            fs::write(&path, [b"\xef\xbb\xbf", &whole[..]].concat()).unwrap();
            read(lab.path()).unwrap();
        }
        fs::write(&path, whole).unwrap();
    }
}
