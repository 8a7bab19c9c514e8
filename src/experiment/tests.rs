//! Promises of the experiment file: what it expands to, and what each mistake is answered with.

use std::path::{Path, PathBuf};

use super::recipe::identity;
use super::{Experiment, Options, load};
use crate::UserError;

const OPTIONS: Options = Options { smoke: false, tp: 1, dp: 1 };
const SMOKE: Options = Options { smoke: true, ..OPTIONS };

const BASE: &str = r#"question = "q?"
[base]
data = "tiny"
student = "small"
tokens = "1M"
batch = "4k"
"#;

const SAMPLE: &str = r#"question = "With few target tokens, does distillation beat finetuning?"
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
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
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

    fn good(&self, toml: &str) -> Experiment {
        self.load(toml, &OPTIONS).unwrap()
    }

    /// The user error that `toml` earns, its folder cut off.
    fn mistake(&self, toml: &str, options: &Options) -> String {
        let error = self.load(toml, options).expect_err("a mistake");
        let user = error.downcast_ref::<UserError>().unwrap_or_else(|| panic!("not a UserError: {error:?}"));
        user.0.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn runs(experiment: &Experiment) -> Vec<String> {
    let less_hash = |run: &str| run[..run.len() - 9].to_string();
    experiment.students.iter().map(|student| less_hash(&student.run)).collect()
}

#[test]
fn methods_come_outermost_then_axes_then_seeds() {
    let experiment = Bench::new().good(SAMPLE);
    assert_eq!(experiment.axes, ["tokens", "top_k", "temperature"]);
    assert_eq!(experiment.reference, "finetune");
    // hard-ce: 2 tokens; soft-ce: 2 x 2 x 2; logit-mse: 2 x 2; three seeds each.
    assert_eq!(experiment.students.len(), (2 + 8 + 4) * 3);
    let runs = runs(&experiment);
    assert_eq!(runs[0], "finetune-tokens100k-s0");
    assert_eq!(runs[3], "finetune-tokens1M-s0");
    assert_eq!(runs[6], "soft-ce-tokens100k-top_k5-temperature1.0-s0");
    assert_eq!(runs[9], "soft-ce-tokens100k-top_k5-temperature2.0-s0");
    assert_eq!(runs[30], "logit-mse-tokens100k-top_k5-s0");
    assert_eq!(runs.last().unwrap(), "logit-mse-tokens1M-top_k20-s2");
}

#[test]
fn arms_that_share_a_teacher_share_its_largest_top_k_and_all_temperatures() {
    let experiment = Bench::new().good(SAMPLE);
    let [teacher] = &experiment.teachers[..] else { panic!("{} teachers", experiment.teachers.len()) };
    assert_eq!((teacher.top_k, &teacher.temperatures[..]), (20, &[1.0, 2.0][..]));
    assert_eq!((teacher.recipe.tokens, teacher.recipe.seed, teacher.recipe.model.hidden_size), (8_000_000, 0, 64));
    assert_eq!(teacher.run, format!("teacher-big-{}", identity(&teacher.recipe)));
}

#[test]
fn what_is_swept_or_set_for_students_does_not_change_the_teacher() {
    let bench = Bench::new();
    let text = SAMPLE
        .replace("tail = \"bucket\"", "lr = 3e-3\neval = { every = \"10k\", on = \"test\" }")
        .replace("temperature = [1.0, 2.0]", "lr = [1e-3, 2e-3], batch = [\"2k\", \"4k\"]");
    let experiment = bench.good(&text);
    assert_eq!(experiment.teachers.len(), 1);
    assert_eq!(experiment.teachers[0].recipe.optimizer.lr, 1e-3);
    assert_eq!(experiment.teachers[0].run, bench.good(SAMPLE).teachers[0].run);
}

#[test]
fn a_teacher_takes_from_base_what_it_does_not_say() {
    let experiment = Bench::new().good(&SAMPLE.replace("seeds = 3", "lr = 4e-4\nprecision = \"bf16\""));
    let recipe = &experiment.teachers[0].recipe;
    assert_eq!((recipe.optimizer.lr, recipe.precision.name()), (4e-4, "bf16"));
}

#[test]
fn each_context_has_a_teacher_of_its_own() {
    let experiment = Bench::new().good(&SAMPLE.replace("tokens = [\"100k\", \"1M\"]", "context = [64, 128]"));
    assert_eq!(experiment.teachers.len(), 2);
    for student in experiment.students.iter().filter(|student| student.teacher.is_some()) {
        let teacher = &experiment.teachers[student.teacher.unwrap()];
        assert_eq!(teacher.recipe.data, student.recipe.data);
        assert_eq!(*student.recipe.teacher.as_ref().unwrap().trained, teacher.recipe);
    }
}

#[test]
fn the_teacher_may_be_swept() {
    let text = SAMPLE
        .replace("teacher = \"big\"\n", "")
        .replace("[method.finetune]", "[teacher.twin]\nmodel = \"small\"\ntokens = \"1M\"\n[method.finetune]")
        .replace("top_k = [5, 20], temperature = [1.0, 2.0]", "teacher = [\"big\", \"twin\"]");
    let experiment = Bench::new().good(&text);
    assert_eq!(experiment.students.len(), (2 + 4 + 4) * 3);
    assert_eq!(experiment.teachers.iter().map(|teacher| teacher.name.as_str()).collect::<Vec<_>>(), ["big", "twin"]);
}

#[test]
fn smoke_overrides_everything_and_collapses_its_axes() {
    let experiment = Bench::new().load(SAMPLE, &SMOKE).unwrap();
    assert_eq!(experiment.axes, ["top_k", "temperature"]);
    assert_eq!(experiment.students.len(), (1 + 4 + 2) * 2);
    assert!(experiment.students.iter().all(|student| student.recipe.tokens == 64_000));
    assert_eq!(experiment.teachers[0].recipe.tokens, 96_000);
    let plain = Bench::new().load(&SAMPLE.replace("teacher_tokens = \"96k\"\n", ""), &SMOKE).unwrap();
    assert_eq!(plain.teachers[0].recipe.tokens, 64_000);
}

#[test]
fn identity_ignores_comments_key_order_paths_and_names() {
    let here = Bench::new();
    let ids =
        |experiment: Experiment| -> Vec<String> { experiment.students.iter().map(|student| identity(&student.recipe)).collect() };
    let sample = ids(here.good(SAMPLE));
    let elsewhere = Bench::new();
    let text = SAMPLE
        .replace("tokens = \"1M\"\nseeds = 3", "# the same\nseeds = [0, 1, 2]\ntokens = 1_000_000")
        .replace("method.finetune", "method.plain")
        .replace("teacher.big", "teacher.huge")
        .replace("\"big\"", "\"huge\"");
    assert_eq!(sample, ids(elsewhere.good(&text)));
}

#[test]
fn identity_follows_tokens_seed_revision_and_content() {
    let bench = Bench::new();
    let method = "[method.finetune]\nobjective = \"hard-ce\"\n";
    let first = |text: &str| identity(&bench.good(text).students[0].recipe);
    let text = format!("{BASE}{method}");
    let before = first(&text);
    for other in [
        text.replace("1M", "2M"),
        text.replace("batch", "seeds = [7]\nbatch"),
        text.replace("[base]", "revision = \"2\"\n[base]"),
    ] {
        assert_ne!(before, first(&other), "{other}");
    }
    bench.write("train.jsonl", "{\"text\": \"other\"}\n");
    assert_ne!(before, first(&text));
}

#[test]
fn inline_data_is_found_beside_the_file_and_a_single_source_is_called_all() {
    let bench = Bench::new();
    bench.write("corpus/a.txt", "some text");
    for path in ["corpus", "corpus/a.txt"] {
        let data = format!("data = {{ path = \"{path}\", format = \"text\", tokenizer = {{ bpe = 300 }} }}");
        let text = format!("{}[method.a]\nobjective = \"hard-ce\"\n", BASE.replace("data = \"tiny\"", &data));
        let student = &bench.good(&text).students[0];
        assert_eq!(student.recipe.data.content.keys().collect::<Vec<_>>(), ["all"]);
        assert_eq!(student.data.splits["all"], bench.path(path));
        assert_eq!(student.recipe.model.vocab_size, 300);
    }
}

#[test]
fn every_mistake_is_answered_with_its_place_and_what_to_do() {
    let bench = Bench::new();
    let teacher = "[teacher.big]\nmodel = \"large\"\n";
    let soft = "[method.soft]\nobjective = \"soft-ce\"\n";
    let hard = "[method.hard]\nobjective = \"hard-ce\"\n";
    let base = |from: &str, to: &str| format!("{}{hard}", BASE.replace(from, to));
    let cases = [
        (
            format!("{BASE}[method.a]\nobjctive = \"hard-ce\"\n"),
            "x.toml:8:1: unknown key \"objctive\" in [method.a]; did you mean \"objective\"?",
        ),
        (base("tokens =", "tokns ="), "x.toml:5:1: unknown key \"tokns\" in [base]; did you mean \"tokens\"?"),
        (base("\"1M\"", "true"), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not a boolean"),
        (base("\"1M\"", "\"lots\""), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not \"lots\""),
        (base("\"1M\"", "0"), "x.toml:5:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not 0"),
        (base("batch", "lr = nan\nbatch"), "x.toml:6:1: lr must be a number above 0, not nan"),
        (base("batch", "context = 7\nbatch"), "x.toml:6:1: context must be a whole number from 8 to 1048576, not 7"),
        (
            base("batch", "eval = { on = \"train\" }\nbatch"),
            "x.toml:6:1: eval.on must be a held-out split of the data (valid or test), not \"train\"",
        ),
        (base("batch", "tail = \"bukket\"\nbatch"), "x.toml:6:1: unknown tail \"bukket\"; did you mean \"bucket\"?"),
        (base("\"tiny\"", "\"tinny\""), "x.toml:3:1: unknown data preset \"tinny\"; did you mean \"tiny\"?"),
        (base("\"small\"", "\"enormous\""), "x.toml:4:1: unknown student preset \"enormous\"; known are small, large"),
        (base("\"1M\"", "\"1M"), "x.toml:5:"),
        (
            format!("{BASE}[method.a]\n"),
            "x.toml:7:9: this method has no objective; add e.g. objective = \"hard-ce\" (known are hard-ce, soft-ce, kl-forward, kl-reverse, jsd, logit-mse, logprob-mse)",
        ),
        (
            format!("{BASE}[method.a]\ntail = \"raw\"\nobjective = \"soft-cee\"\n"),
            "x.toml:9:1: unknown objective \"soft-cee\"; did you mean \"soft-ce\"?",
        ),
        (format!("{BASE}{hard}tail = \"raw\"\n"), "x.toml:9:1: tail means nothing to hard-ce; remove it"),
        (format!("{BASE}{teacher}{hard}teacher = \"big\"\n"), "x.toml:11:1: teacher means nothing to hard-ce; remove it"),
        (format!("{BASE}{soft}"), "x.toml:7:9: this objective needs a teacher; add a [teacher.NAME]"),
        (format!("{BASE}{teacher}{soft}teacher = \"bog\"\n"), "x.toml:11:1: unknown teacher \"bog\"; did you mean \"big\"?"),
        (format!("{BASE}{teacher}{soft}top_k = 0\n"), "x.toml:11:1: top_k must be a whole number from 1 to 1048576, not 0"),
        (format!("{BASE}{teacher}{soft}top_k = 513\n"), "x.toml:11:1: top_k 513 is larger than the vocabulary of 512"),
        (format!("{BASE}{teacher}lr = \"fast\"\n{hard}"), "x.toml:9:1: lr must be a number above 0, not \"fast\""),
        (
            format!("{BASE}{hard}[sweep]\ngrid = {{ lr = [] }}\n"),
            "x.toml:10:10: lr must be a list of values, e.g. lr = [1e-3, 2e-3]",
        ),
        (format!("{BASE}{hard}[sweep]\ngrid = {{ tokens = [\"1k\", 1000] }}\n"), "x.toml:10:10: tokens lists 1000 twice"),
        (format!("{BASE}{hard}[sweep]\nzip = {{ lr = [1e-3] }}\n"), "x.toml:10:1: sweep.zip is not supported yet; remove it"),
        (format!("{BASE}{hard}[fair]\nmatch = \"tokens\"\n"), "x.toml:9:2: [fair] is not supported yet; remove it"),
        (format!("{BASE}{hard}[[claim]]\nid = \"c\"\n"), "x.toml:9:3: [[claim]] is not supported yet; remove it"),
        (
            format!("{BASE}{hard}[smoke]\ntokens = false\n"),
            "x.toml:10:1: tokens must be a number of tokens such as \"100k\" or \"1.5M\", not a boolean",
        ),
        (
            format!("{BASE}{hard}seeds = 1_000_000_000_000\n"),
            "x.toml:9:1: seeds must be a count of at most 10000, or a list of different whole numbers",
        ),
        (format!("{BASE}{hard}[method.copy]\nobjective = \"hard-ce\"\n"), "x.toml:9:9: copy-s0-"),
        (BASE.to_string(), "x.toml: no methods; add e.g. [method.finetune] with objective = \"hard-ce\""),
        (
            base("\"tiny\"", "{ path = \"gone.txt\", tokenizer = { bpe = 300 } }"),
            "x.toml:3:1: no corpus file at gone.txt; check path",
        ),
        (
            base("\"tiny\"", "{ path = \"train.jsonl\", train = \"train.jsonl\" }"),
            "x.toml:3:1: data has both a path and a train file; keep one",
        ),
        (
            base("\"tiny\"", "{ train = \"train.jsonl\" }"),
            "x.toml:3:1: the data has no valid split to evaluate on; add valid, or give a single path to be split",
        ),
        (
            base("\"tiny\"", "{ path = \"train.jsonl\", format = \"text\" }"),
            "x.toml:3:1: format is \"text\", but train.jsonl is read as jsonl by its name; rename it or correct the format",
        ),
    ];
    let answers: Vec<(String, &str)> = cases.iter().map(|(toml, want)| (bench.mistake(toml, &OPTIONS), *want)).collect();
    let wrong: Vec<_> =
        answers.iter().filter(|(got, want)| got != want && !(want.ends_with([':', '-']) && got.starts_with(want))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_the_machine_cannot_share_out_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let text = format!("{BASE}[method.hard]\nobjective = \"hard-ce\"\n");
    assert_eq!(bench.mistake(&text, &Options { dp: 3, ..OPTIONS }), "x.toml:6:1: batch 4000 does not divide over dp = 3");
    let wanted = "x.toml:4:1: student: num_attention_heads 4 does not divide over tp = 3";
    assert_eq!(bench.mistake(&text, &Options { tp: 3, ..OPTIONS }), wanted);
}

#[test]
fn a_missing_experiment_file_is_the_users_mistake() {
    let error = load(Path::new("nowhere/x.toml"), &OPTIONS).unwrap_err();
    assert!(error.is::<UserError>(), "{error:?}");
    assert!(error.to_string().starts_with("nowhere/x.toml: cannot read the experiment file"), "{error}");
}
