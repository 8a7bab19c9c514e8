//! Committed experiments with lines removed, doubled or moved and with invalid values: each is read, or gives a one-line user error that
//! names the file. Oracle: no panic, and the kind of the error.

use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hydrometer::UserError;
use hydrometer::experiment::{Options, load};
use rand::{Rng, RngExt};

use super::mutation::rounds;

/// A file with axes, knobs, a task and a smoke tier.
const SAMPLE: &str = r#"question = "With few target tokens, does distillation beat finetuning?"
[base]
data = "shakespeare"
student = "llama-500k"
tokens = "1M"
seeds = 3
[teacher.big]
model = "llama-2m"
tokens = "8M"
[method.finetune]
objective = "hard-ce"
[method.soft-ce]
objective = "soft-ce"
teacher = "big"
tail = "bucket"
[method.logit-mse]
objective = "logit-mse"
[sweep]
grid = { tokens = ["100k", "1M"], top_k = [5, 20], temperature = [1.0, 2.0] }
[task.sums]
data = "chain-sum"
prompts = 10
samples = 4
decode = { temperature = 0.8, top_p = 0.95 }
stop = ["\n"]
shots = 2
score = ["exact-match", "pass@4", "rouge-l"]
[smoke]
tokens = "64k"
teacher_tokens = "96k"
seeds = 2
"#;

/// Replacements for a value.
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
fn experiment_files_are_read_or_refused_in_a_sentence() {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let folder = tempfile::tempdir().unwrap();
    symlink(experiments.join("presets"), folder.path().join("presets")).unwrap();
    let committed = ["quickstart", "methods", "smollm2"].map(|name| {
        let path = experiments.join(format!("{name}.toml"));
        std::fs::read_to_string(path).unwrap()
    });
    let texts: Vec<&str> = committed.iter().map(String::as_str).chain([SAMPLE]).collect();
    let (mut read, mut refused) = (0, 0);
    for (round, mut random) in rounds(600) {
        let mutant = mutant(texts[round as usize % texts.len()], &mut random);
        let path = folder.path().join("mutant.toml");
        std::fs::write(&path, &mutant).unwrap();
        let options = Options { smoke: round % 3 == 0, tp: 1, dp: 1 };
        let found = catch_unwind(AssertUnwindSafe(|| load(&path, &options)));
        match found.unwrap_or_else(|_| panic!("a panic in round {round}\n{mutant}")) {
            Ok(_) => read += 1,
            Err(error) => {
                refused += 1;
                let sentence = format!("{error:#}");
                assert!(error.is::<UserError>(), "round {round}, no mistake of the user's: {error:?}\n{mutant}");
                assert!(sentence.chars().count() < 2000 && !sentence.contains('\n'), "round {round}: {sentence}\n{mutant}");
            }
        }
    }
    assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
}

fn mutant(text: &str, random: &mut impl Rng) -> String {
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
