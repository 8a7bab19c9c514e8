//! A small experiment in a temporary folder, and the program as a user would call it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hydrometer::record::frames::Frames;
use hydrometer::record::journal::{self, Event};
use hydrometer::record::metric::Metric;
use polars::frame::DataFrame;
use tempfile::TempDir;

pub struct Lab {
    pub folder: TempDir,
    /// Whether runs use every core, as they do by default outside tests. That slows down models as small as these, and tests run in
    /// parallel.
    all_cores: bool,
}

/// The program, with one thread per process.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    command.env("OMP_NUM_THREADS", "1");
    command
}

/// Three arms with one seed on synthetic text: takes seconds, yet uses every part of the program.
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

/// An experiment file with finetuning and two distilled arms of `top_k` ids, trained for four updates of `batch` targets. `data` has the
/// fields of the data table, `teacher` the keys of the teacher, `mse` further keys of the logit-mse arm.
pub fn three_arms(data: &str, batch: usize, top_k: usize, teacher: &str, mse: &str) -> String {
    let tokens = 4 * batch;
    format!(
        r#"
[base]
data = {{ {data} }}
student = {{ hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }}
context = 64
tokens = {tokens}
batch = {batch}
seeds = 1
[teacher.them]
{teacher}
[method.finetune]
objective = "hard-ce"
[method.soft-ce]
objective = "soft-ce"
tail = "bucket"
top_k = {top_k}
[method.logit-mse]
objective = "logit-mse"
top_k = {top_k}
{mse}
"#
    )
}

/// Prefix of the folders that tests share.
const KEPT: &str = "trained-lab-";

impl Lab {
    pub fn new() -> Self {
        let lab = Self::empty();
        lab.fill();
        lab
    }

    fn fill(&self) {
        self.write("train.txt", &text(4000, 1));
        self.write("valid.txt", &text(400, 2));
        self.write("lab.toml", EXPERIMENT);
    }

    /// A copy of the lab after `run lab.toml`, which runs only once per test process.
    pub fn trained() -> Self {
        static TRAINED: OnceLock<Lab> = OnceLock::new();
        let original = TRAINED.get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
            // A static is never dropped, so remove what earlier test processes left, unless recent enough to be in use.
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|then| then.elapsed().ok());
                if entry.file_name().to_string_lossy().starts_with(KEPT) && age.is_some_and(|age| age > Duration::from_secs(3600))
                {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
            let lab = Self { folder: TempDir::with_prefix_in(KEPT, folder).unwrap(), all_cores: false };
            lab.fill();
            lab.ok(&["run", "lab.toml"]);
            lab
        });
        let lab = Self::empty();
        let mut copy = Command::new("cp");
        assert!(copy.arg("-a").arg(original.path().join(".")).arg(lab.path()).status().unwrap().success());
        lab
    }

    /// A lab without texts and experiment.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), all_cores: false }
    }

    /// A lab whose runs use every core, for promises that multithreading could break.
    pub fn on_all_cores() -> Self {
        Self { all_cores: true, ..Self::new() }
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
        let mut command = program();
        command.args(arguments).current_dir(self.path());
        if self.all_cores {
            command.env_remove("OMP_NUM_THREADS");
        }
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

    /// Losses and NLLs of every run under `runs`, as (run folder, step, kind, value).
    pub fn numbers(&self, runs: &str) -> Vec<(String, i64, &'static str, f64)> {
        let mut folders: Vec<PathBuf> =
            std::fs::read_dir(self.path().join(runs)).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        let mut all = Vec::new();
        for folder in folders {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            for event in journal::read(&folder.join("journal.jsonl")).unwrap() {
                match event {
                    Event::Step(step) => {
                        all.push((name.clone(), step.step, "loss", step.loss));
                        all.push((name.clone(), step.step, "hard_loss", step.hard_loss));
                    }
                    Event::Evaluation(found) => all.push((name.clone(), found.step, "nll", found.scores[Metric::Nll].unwrap())),
                    _ => {}
                }
            }
        }
        all
    }

    /// Starts `hydrometer ARGUMENTS` in the background; its standard error is appended to `said.txt`.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let said = File::options().create(true).append(true).open(self.path().join("said.txt")).unwrap();
        self.command(arguments).stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    /// The standard error of all processes started by [`Lab::start`].
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.path().join("said.txt")).unwrap_or_default()
    }

    /// Every intact event ever written to the journals under `runs`, by run folder, including those of superseded attempts.
    pub fn histories(&self, runs: &str) -> BTreeMap<String, Vec<Event>> {
        let folders = std::fs::read_dir(self.path().join(runs)).unwrap().map(|entry| entry.unwrap().path());
        let history = |folder: PathBuf| {
            let text = std::fs::read_to_string(folder.join("journal.jsonl")).ok()?;
            let events = text.lines().filter_map(journal::parse_line).map(|(_, event)| event).collect();
            Some((folder.file_name()?.to_string_lossy().into_owned(), events))
        };
        folders.filter_map(history).collect()
    }

    /// The frames in `results`, without the columns that depend on timing.
    pub fn frames(&self, results: &str) -> [DataFrame; 4] {
        let Frames { runs, curves, evals, documents, .. } = Frames::read(&self.path().join(results)).unwrap();
        [runs, curves, evals, documents].map(|frame| frame.drop_many(["wall_s", "tokens_per_s"]))
    }
}

/// Whether frames have the same rows, bit for bit.
pub fn same_frames(a: &[DataFrame; 4], b: &[DataFrame; 4]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.equals_missing(b))
}

/// Waits until `what` is true; panics after a minute.
pub fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the condition did not hold within a minute");
        sleep(Duration::from_millis(10));
    }
}

/// Synthetic text in which each word depends on the previous one.
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
