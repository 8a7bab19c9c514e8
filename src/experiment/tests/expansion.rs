//! The runs that a file expands to.

use hydrometer_base::identity::identity;

use super::{BASE, Bench, Experiment, OPTIONS, Options, SAMPLE, SMOKE};
use crate::teacher::target_spec::TargetSpec;

pub fn runs(experiment: &Experiment) -> Vec<String> {
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
    assert_eq!(teacher.kept, TargetSpec::best(20, &[1.0, 2.0]));
    assert_eq!((teacher.recipe.tokens, teacher.recipe.seed, teacher.recipe.model.hidden_size), (8_000_000, 0, 64));
    assert_eq!(teacher.run.as_str(), format!("teacher-big-{}", identity(&teacher.recipe)));
}

#[test]
fn draws_are_cached_beside_the_likeliest_ids_at_the_temperatures_of_their_own_arms_only() {
    let text = SAMPLE.replace("tail = \"bucket\"", "tail = \"sampled\"").replace("[1.0, 2.0]", "[0.5, 2.0]");
    let experiment = Bench::new().good(&text);
    let [teacher] = &experiment.teachers[..] else { panic!("{} teachers", experiment.teachers.len()) };
    let expected = TargetSpec { draws: 20, draw_temperatures: vec![0.5, 2.0], ..TargetSpec::best(20, &[1.0]) };
    assert_eq!(teacher.kept, expected);
    assert_eq!(experiment.methods[1].objective, "soft-ce on draws of big, tail sampled, temperature 0.5");
}

#[test]
fn settings_and_sweeps_of_students_do_not_change_the_teacher() {
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
fn a_teacher_inherits_unset_keys_from_base() {
    let experiment = Bench::new().good(&SAMPLE.replace("seeds = 3", "lr = 4e-4\nprecision = \"bf16\""));
    let recipe = &experiment.teachers[0].recipe;
    assert_eq!((recipe.optimizer.lr, recipe.precision.name()), (4e-4, "bf16"));
}

#[test]
fn each_context_has_a_teacher_of_its_own() {
    let experiment = Bench::new().good(&SAMPLE.replace("tokens = [\"100k\", \"1M\"]", "context = [64, 128]"));
    assert_eq!(experiment.teachers.len(), 2);
    for student in experiment.students.iter().filter(|student| student.trained_teacher().is_some()) {
        let teacher = &experiment.teachers[student.trained_teacher().unwrap()];
        assert_eq!(teacher.recipe.data, student.recipe.data);
        let trained = student.recipe.teacher.as_ref().unwrap().trained.as_deref();
        assert_eq!(trained, Some(&teacher.recipe));
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
fn inline_data_is_found_beside_the_file_and_a_single_path_is_the_split_all() {
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

/// The sample of `docs/experiment-file.md`.
pub const DESIGN: &str = r#"
question   = "With few target tokens, does distillation beat finetuning?"
hypothesis = "Yes when tokens are scarce; the gap closes as they grow."
revision   = "2026.11.1"            # bump it to say: new science, not a fix

[base]                              # every run starts here; any key may be swept
data    = "shakespeare"
student = "llama-1m"
tokens  = "1M"
batch   = "8k"
lr      = 1e-3
seeds   = 3
eval    = { every = "100k", on = "valid" }

[teacher.big]
model = "llama-4m"
tokens = "8M"

[method.finetune]
objective = "hard-ce"

[method.soft-ce]
objective = "soft-ce"
teacher   = "big"
top_k     = 20
tail      = "bucket"

[method.logit-mse]
objective = "logit-mse"
teacher   = "big"
top_k     = 20

[sweep]
grid = { tokens = ["100k", "1M"] }                  # crossed with methods and seeds
zip  = { student = ["llama-1m", "llama-2m"], lr = [1e-3, 6e-4] }

[[sweep.when]]                      # a knob that exists only for some
method = "soft-ce"
grid   = { top_k = [5, 20, 100] }

[[sweep.skip]]
student = "llama-2m"
tokens  = "100k"
because = "overfits in the pilot"

[fair]
match = "tokens"                    # or "updates", "total-flops" (teacher included)

[smoke]                             # the same experiment in a CPU minute, for CI
tokens = "64k"
seeds  = 2

[[claim]]
id     = "soft-ce-wins-when-scarce"
says   = "With 100k tokens soft CE lowers validation perplexity by at least 2%."
at     = { tokens = "100k" }
a      = { method = "soft-ce", top_k = 20 }
b      = { method = "finetune" }
expect = "perplexity(a) < 0.98 * perplexity(b)"
level  = 0.95
"#;

/// A bench with the presets of the sample.
fn design_bench() -> Bench {
    let bench = Bench::new();
    let presets = |file: &str| std::fs::read_to_string(bench.path(&format!("presets/{file}"))).unwrap();
    bench.write("presets/data.toml", &presets("data.toml").replace("[tiny]", "[shakespeare]"));
    let models = presets("models.toml");
    let small = models[..models.find("[large]").unwrap()].to_string();
    let sized = |name: &str, d: &str| small.replace("[small]", &format!("[{name}]")).replace("hidden_size = 32", d);
    let all = [("llama-1m", "hidden_size = 32"), ("llama-2m", "hidden_size = 48"), ("llama-4m", "hidden_size = 64")];
    bench.write("presets/models.toml", &all.map(|(name, d)| sized(name, d)).concat());
    bench
}

#[test]
fn the_sample_of_the_manual_expands_as_documented() {
    let experiment = design_bench().good(DESIGN);
    // The skip leaves 3 of 2 tokens x 2 (student, lr) points. finetune and logit-mse have one run at each, soft-ce three.
    assert_eq!(experiment.students.len(), 3 * (1 + 3 + 1) * 3);
    assert_eq!(experiment.axes, ["tokens", "student", "lr", "top_k"]);
    let names = runs(&experiment);
    assert_eq!(names[0], "finetune-tokens100k-studentllama-1m-lr0.001-s0");
    assert_eq!(names[3], "finetune-tokens1M-studentllama-1m-lr0.001-s0");
    assert_eq!(names[6], "finetune-tokens1M-studentllama-2m-lr0.0006-s0");
    assert_eq!(names[12], "soft-ce-tokens100k-studentllama-1m-lr0.001-top_k20-s0");
    assert_eq!(names[44], "logit-mse-tokens1M-studentllama-2m-lr0.0006-s2");
    // One of finetune, three of soft-ce, one of logit-mse.
    assert_eq!(experiment.skipped.len(), 5);
    assert!(experiment.skipped.iter().all(|skipped| skipped.because == "overfits in the pilot"));
    let [claim] = &experiment.claims[..] else { panic!("{:?}", experiment.claims) };
    assert_eq!(claim.a.len(), 3);
    assert!(claim.a.iter().all(|run| run.starts_with("soft-ce-tokens100k-studentllama-1m-lr0.001-top_k20-")));
    assert!(claim.b.iter().all(|run| run.starts_with("finetune-tokens100k-studentllama-1m-")));
    assert_eq!(experiment.fairness.alone, 0);

    let smoke = design_bench().load(DESIGN, &SMOKE).unwrap();
    assert_eq!(smoke.students.len(), 2 * (1 + 3 + 1) * 2);
    assert_eq!(smoke.axes, ["student", "lr", "top_k"]);
    // The claim still selects the points with 100k tokens in the file, which exist for one student only.
    assert!(smoke.claims[0].a.iter().all(|run| run.starts_with("soft-ce-studentllama-1m-lr0.001-top_k20-s")));
}

#[test]
fn identity_ignores_claims_skips_fairness_question_and_the_order_of_tables() {
    let bench = design_bench();
    let ids = |text: &str| bench.good(text).students.into_iter().map(|student| student.run).collect::<Vec<_>>();
    let all = ids(DESIGN);
    let (head, rest) = DESIGN.split_once("[base]").unwrap();
    let (base, rest) = rest.split_once("[teacher.big]").unwrap();
    let (middle, claim) = rest.split_once("[[claim]]").unwrap();
    let moved = format!("revision = \"2026.11.1\"\n[teacher.big]{middle}\n[base]\n{base}");
    assert_eq!(all, ids(&moved), "without question and claim, [base] last");
    let other = claim.replace("0.98", "0.5").replace("level  = 0.95", "level = 0.9");
    assert_eq!(all, ids(&format!("{head}[base]{base}[teacher.big]{middle}[[claim]]{other}")));
    assert_eq!(all, ids(&DESIGN.replace("[fair]\nmatch = \"tokens\"", "")));
    assert_eq!(all, ids(&DESIGN.replace("overfits in the pilot", "no reason")));
    let ranks = bench.load(DESIGN, &Options { tp: 2, dp: 2, ..OPTIONS }).unwrap();
    assert_eq!(all, ranks.students.into_iter().map(|student| student.run).collect::<Vec<_>>());
}

/// Oracle: the definition. The student and its share of the teacher cost as much as the finetuning arm, up to one token.
#[test]
fn total_flops_reduces_the_tokens_of_distilled_arms_by_the_cost_of_their_teacher() {
    let text = DESIGN
        .replace("match = \"tokens\"", "match = \"total-flops\"")
        .replace("tokens = \"8M\"", "tokens = \"40k\"")
        .replace("at     = { tokens = \"100k\" }", "at     = { tokens = \"1M\", student = \"llama-2m\" }");
    let experiment = design_bench().good(&text);
    let users = experiment.students.iter().filter(|student| student.trained_teacher().is_some()).count() as f64;
    assert_eq!(experiment.fairness.balanced.len() as f64, users);
    for student in &experiment.students {
        let written = &student.axes.iter().find(|(key, _)| key == "tokens").unwrap().1;
        let budget = if written == "1M" { 1e6 } else { 1e5 };
        let own = student.recipe.model.train_flops_per_token(student.recipe.data.context);
        let Some(teacher) = student.trained_teacher() else {
            assert_eq!(student.recipe.tokens as f64, budget);
            continue;
        };
        let taught = &experiment.teachers[teacher].recipe;
        let same = |other: &&super::super::Student| {
            let tokens = other.axes.iter().any(|(key, value)| key == "tokens" && value == written);
            other.trained_teacher().is_some() && other.seed == student.seed && tokens
        };
        let shared = experiment.students.iter().filter(same).count() as f64;
        let forward = taught.model.forward_flops_per_token(student.recipe.data.context) / shared;
        let spent = student.recipe.tokens as f64 * (own + forward) + taught.train_flops() / users;
        assert!(spent <= budget * own && spent > budget * own - own - forward, "{spent} of {}", budget * own);
    }
    // In the smoke tier each run keeps at least one update, even if its teacher costs more than the whole budget.
    let dear = text.replace("seeds  = 2", "seeds = 2\nteacher_tokens = \"80M\"");
    let smoke = design_bench().load(&dear, &SMOKE).unwrap();
    assert!(smoke.students.iter().all(|student| student.recipe.tokens >= 8000));
}

#[test]
fn a_thousand_runs_expand_in_under_a_second() {
    let bench = Bench::new();
    let text = (0..20_000).map(|n| format!("{{\"text\": \"document {n} of a corpus of some size\"}}\n")).collect::<String>();
    bench.write("train.jsonl", &text.repeat(20));
    let lr: Vec<String> = (1..=25).map(|n| format!("{n}e-4")).collect();
    let sweep = format!("grid = {{ lr = [{}], warmup = [0.0, 0.1, 0.2, 0.3, 0.4] }}\n", lr.join(", "));
    let arms = "[method.hard]\nobjective = \"hard-ce\"\n[method.soft]\nobjective = \"soft-ce\"\n";
    let file = format!("{BASE}seeds = 4\n[teacher.big]\nmodel = \"large\"\n{arms}[sweep]\n{sweep}[fair]\nmatch = \"tokens\"\n");
    let begun = std::time::Instant::now();
    let experiment = bench.good(&file);
    assert_eq!(experiment.students.len(), 1000);
    assert!(begun.elapsed().as_secs_f64() < 1.0, "{:?}", begun.elapsed());
}
