//! Committed experiments with a line gone, doubled or moved and with values that nobody should write: each is read, or is the
//! user's mistake in one sentence with the file. Oracle: no panic, and the kind of the error.

use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::load;
use super::{OPTIONS, SAMPLE, SMOKE, UserError};

/// Mutants of each file.
const MUTANTS: usize = 150;
/// What a value is replaced with.
const NASTY: [&str; 38] = [
    "0",
    "-1",
    "1",
    "true",
    "\"\"",
    "\"x\"",
    "[]",
    "{}",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "5e-324",
    "-0.0",
    "1e-300",
    "1e39",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "\"9000000G\"",
    "\"1e999\"",
    "\"infk\"",
    "\"-5k\"",
    "\"k\"",
    "[[[]]]",
    "[1, \"a\"]",
    "{ a = { b = 1 } }",
    "1979-05-27",
    "\"../../x\"",
    "\"\\u0000\"",
    "\"\\u001b[31m\"",
    "\"\u{202e}\"",
    "\"é\"",
    "'''",
    "[0]",
    "[\"1k\", \"1k\"]",
    "{ path = \"/dev/null\" }",
    "0x7fffffff",
];

#[test]
fn any_mutant_of_an_experiment_is_read_or_refused_in_a_sentence() {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let folder = tempfile::tempdir().unwrap();
    symlink(experiments.join("presets"), folder.path().join("presets")).unwrap();
    let committed =
        ["quickstart.toml", "methods.toml", "smollm2.toml"].map(|name| std::fs::read_to_string(experiments.join(name)).unwrap());
    let sample =
        SAMPLE.replace("\"tiny\"", "\"shakespeare\"").replace("\"small\"", "\"llama-500k\"").replace("\"large\"", "\"llama-2m\"");
    let (begun, mut read, mut refused) = (Instant::now(), 0, 0);
    for (index, text) in committed.iter().chain([&sample]).enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(index as u64);
        for number in 0..MUTANTS {
            let mutant = mutant(text, &mut random);
            let path = folder.path().join("mutant.toml");
            std::fs::write(&path, &mutant).unwrap();
            let options = if number % 3 == 0 { SMOKE } else { OPTIONS };
            let found = catch_unwind(AssertUnwindSafe(|| load(&path, &options)));
            match found.unwrap_or_else(|_| panic!("a panic at\n{mutant}")) {
                Ok(_) => read += 1,
                Err(error) => {
                    refused += 1;
                    let sentence = format!("{error:#}");
                    assert!(error.is::<UserError>(), "no mistake of the user's: {error:?}\n{mutant}");
                    assert!(sentence.chars().count() < 2000 && !sentence.contains('\n'), "{sentence}\n{mutant}");
                }
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
}

fn mutant(text: &str, random: &mut ChaCha8Rng) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..random.random_range(1..=3) {
        if lines.is_empty() {
            break;
        }
        let at = random.random_range(0..lines.len());
        match random.random_range(0..7) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = random.random_range(0..lines.len());
                lines.swap(at, other);
            }
            3 => {
                let cut = lines[at].floor_char_boundary(random.random_range(0..=lines[at].len()));
                lines[at].truncate(cut);
            }
            4 if lines[at].starts_with('[') => {
                lines[at] = ["[]", "[method.\"\"]", "[[claim]]", "[x]", "[method.a.b]"][random.random_range(0..5)].into()
            }
            _ => {
                if let Some((key, _)) = lines[at].split_once('=') {
                    lines[at] = format!("{key}= {}", NASTY[random.random_range(0..NASTY.len())]);
                }
            }
        }
    }
    lines.join("\n") + "\n"
}
