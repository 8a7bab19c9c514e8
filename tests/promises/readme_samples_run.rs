//! README's sample experiment runs, and the commands and flags in README exist.

use std::fs;
use std::path::Path;

use clap::{CommandFactory, Parser};
use hydrometer::cli::Cli;

use super::lab::Lab;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|part| part.split("\n```").next().unwrap().to_string() + "\n").collect()
}

/// A text of 1500 different sentences.
fn notes() -> String {
    let words =
        ["rain", "the", "teacher", "student", "writes", "a", "note", "on", "water", "and", "sugar", "density", "falls", "slowly"];
    let mut state = 7u64;
    let mut word = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        words[(state >> 33) as usize % words.len()]
    };
    (0..1500).map(|n| (0..12).map(|_| word()).collect::<Vec<_>>().join(" ") + if n % 5 == 4 { ".\n\n" } else { ". " }).collect()
}

/// The sample plans unchanged; with smaller models and budgets it runs and writes its report.
#[test]
fn the_sample_experiment_plans_and_runs() {
    let samples = blocks(&file("README.md"), "toml");
    assert_eq!(samples.len(), 1);
    let lab = Lab::new();
    // Beside the presets, where README says to put it.
    fs::create_dir_all(lab.path().join("experiments/presets")).unwrap();
    for preset in ["presets/models.toml", "presets/data.toml"] {
        lab.write(&format!("experiments/{preset}"), &file(&format!("experiments/{preset}")));
    }
    lab.write("experiments/notes.txt", &notes());
    lab.write("experiments/notes.toml", &samples[0]);
    let output = lab.run(&["plan", "experiments/notes.toml", "--output", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tiny =
        "{ hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }";
    let mut small = samples[0].clone();
    for (long, short) in [
        ("\"llama-1m\"", tiny),
        ("\"llama-4m\"", tiny),
        ("context = 256", "context = 32\nbatch = 256"),
        ("\"1M\"", "512"),
        ("\"4M\"", "512\nbatch = 256"),
        ("seeds   = 3", "seeds   = 1"),
    ] {
        assert!(small.contains(long), "the sample no longer has {long}");
        small = small.replace(long, short);
    }
    lab.write("experiments/small.toml", &small);
    lab.ok(&["run", "experiments/small.toml"]);
    let report = fs::read_to_string(lab.path().join("results/small/report.md")).unwrap();
    // Finetuning has no top-k; soft-ce has one row per value of the sweep.
    for row in ["| finetune |", "| soft-ce top\\_k=5 |", "| soft-ce top\\_k=20 |", "| soft-ce top\\_k=100 |", "| big (teacher) |"]
    {
        assert!(report.contains(row), "no {row} in\n{report}");
    }
}

/// Every command line parses; those that do not call hydrometer are make targets.
#[test]
fn the_commands_in_readme_exist() {
    let (makefile, mut seen) = (file("Makefile"), 0);
    for text in
        [file("README.md"), file("CONTRIBUTING.md"), file("docs/quotes.md"), file("docs/frames.md"), file("docs/running.md")]
    {
        let lines = blocks(&text, "sh").join("\n");
        let inline = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("make ")).map(String::from);
        for line in lines.lines().map(String::from).chain(inline) {
            let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
            match words.split_first() {
                None => continue,
                Some((&"make", targets)) => {
                    for target in targets.iter().filter(|target| !target.contains('=')) {
                        assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "no `make {target}`");
                    }
                }
                Some((&"hydrometer", _)) => {
                    let parsed = Cli::try_parse_from(&words);
                    assert!(parsed.is_ok(), "{line}: {}", parsed.err().unwrap());
                }
                Some(_) => panic!("{line}: neither make nor hydrometer"),
            }
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen} commands found");
}

/// Every flag in README belongs to a verb, and every visible verb is in README.
#[test]
fn the_flags_and_verbs_in_readme_exist() {
    let (text, command) = (file("README.md"), Cli::command());
    let known: Vec<String> = command
        .get_subcommands()
        .chain([&command])
        .flat_map(|verb| verb.get_arguments())
        .filter_map(|arg| arg.get_long())
        .map(String::from)
        .collect();
    let prose = text.split("```").step_by(2).collect::<String>();
    for code in prose.split('`').skip(1).step_by(2).filter(|code| !code.starts_with("cargo ")) {
        for flag in code.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
            assert!(known.iter().any(|name| name == flag), "README names --{flag}");
        }
    }
    let sh = blocks(&text, "sh").join("\n");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        assert!(sh.contains(&format!("hydrometer {}", verb.get_name())), "README shows no `hydrometer {}`", verb.get_name());
    }
}
