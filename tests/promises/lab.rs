//! A small experiment in a folder of its own, and the program as a person would call it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hydrometer::record::journal::{self, Event};
use tempfile::TempDir;

pub struct Lab {
    pub folder: TempDir,
}

/// Three arms of one seed on made-up text: seconds, yet every room of the house.
pub const EXPERIMENT: &str = r#"
question = "Does the path hold?"

[base]
data    = { train = "train.txt", valid = "valid.txt", format = "text", tokenizer = { bpe = 300 } }
student = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2 }
context = 32
tokens  = "12.8k"
batch   = 256
lr      = 3e-3
seeds   = 1
eval    = { every = "4k", on = "valid" }

[teacher.big]
model  = { hidden_size = 48, intermediate_size = 96, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2 }
tokens = "10k"

[method.finetune]
objective = "hard-ce"

[method.soft-ce]
objective = "soft-ce"
top_k = 10
tail = "bucket"

[method.logit-mse]
objective = "logit-mse"
top_k = 20
"#;

impl Lab {
    pub fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        lab.write("train.txt", &text(4000, 1));
        lab.write("valid.txt", &text(400, 2));
        lab.write("lab.toml", EXPERIMENT);
        lab
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// `hydrometer ARGUMENTS` in the lab's folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.args(arguments).current_dir(self.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs and expects success.
    pub fn ok(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Loss and NLL of every run under `runs`, bit by bit: (run without hash's help, step, what, bits).
    pub fn numbers(&self, runs: &str) -> Vec<(String, i64, &'static str, f64)> {
        let mut folders: Vec<PathBuf> =
            std::fs::read_dir(self.path().join(runs)).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        let mut all = Vec::new();
        for folder in folders {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            for event in journal::read(&folder.join("journal.jsonl")) {
                match event {
                    Event::Step(step) => {
                        all.push((name.clone(), step.step, "loss", step.loss));
                        all.push((name.clone(), step.step, "hard_loss", step.hard_loss));
                    }
                    Event::Evaluated(found) => all.push((name.clone(), found.step, "nll", found.nll)),
                    _ => {}
                }
            }
        }
        all
    }
}

/// Words with some structure: what follows depends on what was.
fn text(words: usize, seed: u64) -> String {
    let stock = ["the", "king", "speaks", "of", "night", "and", "fire", "while", "ships", "sail", "home", "again"];
    let (mut state, mut word) = (seed, 0usize);
    let mut text = String::new();
    for index in 0..words {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        word = (word * 5 + (state >> 60) as usize % 3) % stock.len();
        text += stock[word];
        text += if index % 60 == 59 { ".\n\n" } else { " " };
    }
    text
}
