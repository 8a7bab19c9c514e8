//! Tests of the experiment file: its expansion, and the message for each mistake.

mod expansion;
mod manual;
mod mistakes;
mod oracle;
mod schema;
mod tasks;

use std::path::PathBuf;

use hydrometer_base::UserError;

use super::{Experiment, Options, load};

const OPTIONS: Options = Options { smoke: false, tp: 1, dp: 1 };
const SMOKE: Options = Options { smoke: true, ..OPTIONS };

pub(crate) const BASE: &str = r#"question = "q?"
[base]
data = "tiny"
student = "small"
tokens = "1M"
batch = "4k"
"#;

pub(crate) const SAMPLE: &str = r#"question = "With few target tokens, does distillation beat finetuning?"
[base]
data = "tiny"
student = "small"
tokens = "1M"
seeds = 3
[teacher.big]
model = "large"
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
[smoke]
tokens = "64k"
teacher_tokens = "96k"
seeds = 2
"#;

/// A folder with presets and an experiment file.
pub(crate) struct Bench(tempfile::TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for split in ["train", "valid", "test"] {
            bench.write(&format!("{split}.jsonl"), &format!("{{\"text\": \"{split}\"}}\n"));
        }
        let data =
            "train = \"../train.jsonl\"\nvalid = \"../valid.jsonl\"\ntest = \"../test.jsonl\"\ntokenizer = { bpe = 512 }\n";
        bench.write("presets/data.toml", &format!("[tiny]\n{data}"));
        let shape = |d: usize| {
            format!(
                "hidden_size = {d}\nintermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 4\nnum_key_value_heads = 2\n"
            )
        };
        bench.write("presets/models.toml", &format!("[small]\n{}[large]\n{}", shape(32), shape(64)));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn load(&self, toml: &str, options: &Options) -> anyhow::Result<Experiment> {
        self.write("x.toml", toml);
        load(&self.path("x.toml"), options)
    }

    pub(crate) fn good(&self, toml: &str) -> Experiment {
        self.load(toml, &OPTIONS).unwrap()
    }

    /// The user error of `toml`, without its folder.
    fn mistake(&self, toml: &str, options: &Options) -> String {
        let error = self.load(toml, options).expect_err("a mistake");
        let user = error.downcast_ref::<UserError>().unwrap_or_else(|| panic!("not a UserError: {error:?}"));
        user.0.replace(&format!("{}/", self.0.path().display()), "")
    }
}
