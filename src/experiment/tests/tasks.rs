//! `[task.NAME]`: what it resolves to, what it changes, and the message for each mistake.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use hydrometer_data::prompts;

use super::super::load;
use super::{BASE, Bench, OPTIONS};
use crate::eval::task::Decode;

const TEMPLATE: &str = "{% for shot in shots %}{{ shot.prompt }}{{ shot.completion }}; {% endfor %}{{ prompt }}";
const HARD: &str = "[method.hard]\nobjective = \"hard-ce\"\n";

/// A bench with a preset of examples, `sums`: two prompts for valid, three for train.
fn bench() -> Bench {
    let bench = Bench::new();
    let line = |sum: &str, tgt: &str| format!("{{\"src\": \"{sum} =\", \"tgt\": \" {tgt}\"}}\n");
    bench.write("shots.jinja", TEMPLATE);
    let presets = std::fs::read_to_string(bench.path("presets/data.toml")).unwrap();
    bench.write("presets/data.toml", &format!("{presets}[sums]\npath = \"../sums\"\n"));
    bench.write("sums/train/x.jsonl", &[line("1 + 1", "2"), line("1 + 2", "3"), line("2 + 2", "4")].concat());
    bench.write("sums/valid/x.jsonl", &[line("1 + 3", "4"), line("2 + 3", "5"), line("1 + 3", "four")].concat());
    bench
}

/// An experiment whose `[task.a]` is in line 9.
fn with(task: &str) -> String {
    format!("{BASE}{HARD}[task.a]\n{task}")
}

#[test]
fn a_task_is_resolved_with_its_defaults() {
    let experiment = bench().good(&with("data = \"sums\"\nscore = [\"exact-match\"]\n"));
    let task = &experiment.tasks[0];
    assert_eq!(task.words(), "2 prompts of sums (valid), greedy, at most 64 new tokens; scored by exact-match");
    let recipe = &task.recipe;
    assert_eq!((recipe.prompts, recipe.samples, recipe.shots, recipe.decode), (2, 1, 0, Decode::Greedy));
    // Nothing of the train split is read.
    assert_eq!(recipe.content.keys().collect::<Vec<_>>(), ["valid"]);
    let inputs: Vec<&str> = task.asked.iter().map(|prompt| prompt.input.as_str()).collect();
    assert_eq!(inputs, ["1 + 3 =", "2 + 3 ="]);

    let every = "data = \"sums\"\nprompts = 1\nsamples = 4\ndecode = { temperature = 0.8, top_k = 5, top_p = 0.95 }\nmax_new_tokens = 8\n\
                 stop = [\"\\n\", \".\"]\nshots = 2\ntemplate = \"shots.jinja\"\nscore = [\"pass@4\", \"distinct-2\"]\n";
    let experiment = bench().good(&with(every));
    let task = &experiment.tasks[0];
    assert_eq!(
        task.words(),
        "1 prompts of sums (valid) after 2 shots, 4 samples of each, temperature 0.8, top-k 5, top-p 0.95, at most 8 new tokens; \
         scored by pass@4, distinct-2"
    );
    assert_eq!(task.recipe.template.as_deref(), Some(TEMPLATE));
    assert_eq!(task.asked[0].input, "1 + 1 = 2; 1 + 2 = 3; 1 + 3 =");
    let plain = bench().good(&with("data = \"sums\"\nprompts = 1\nshots = 1\nscore = [\"exact-match\"]\n"));
    assert_eq!(plain.tasks[0].asked[0].input, "1 + 1 = 2\n1 + 3 =");
    assert_eq!(task.recipe.content.keys().collect::<Vec<_>>(), ["train", "valid"]);
    let json = serde_json::to_string(&task.recipe).unwrap();
    assert_eq!(serde_json::from_str::<crate::eval::task::TaskRecipe>(&json).unwrap(), task.recipe);
    let twice = bench();
    twice.write("sums/valid/x.jsonl", "{\"src\": \"a\", \"tgt\": \"1\", \"id\": \"2\"}\n{\"src\": \"b\", \"tgt\": \"2\"}\n");
    let error = twice.mistake(&with("data = \"sums\"\nscore = [\"exact-match\"]\n"), &OPTIONS);
    assert!(error.contains("x.jsonl:2: another prompt has the id"), "{error}");
    let beams = bench().good(&with("data = \"sums\"\ndecode = { beams = 4, temperature = 0 }\nscore = [\"rouge-l\"]\n"));
    assert_eq!(beams.tasks[0].recipe.decode, Decode::Beams(4));
}

/// Oracle: the id of the same run without tasks.
#[test]
fn tasks_and_their_scores_change_no_run() {
    let id = |toml: &str| bench().good(toml).students[0].run.clone();
    let without = id(&format!("{BASE}{HARD}"));
    assert_eq!(id(&with("data = \"sums\"\nscore = [\"exact-match\"]\n")), without);
    assert_eq!(id(&with("data = \"sums\"\nscore = [\"rouge-l\"]\nmax_new_tokens = 65\n")), without);
}

#[test]
fn every_mistake_in_a_task_is_reported_with_its_place_and_a_remedy() {
    let bench = bench();
    bench.write("text/valid/x.jsonl", "{\"text\": \"a\"}\n");
    bench.write("text/train/x.jsonl", "{\"text\": \"b\"}\n");
    bench.write("words/valid/x.jsonl", "{\"src\": \"a\", \"tgt\": \"1\"}\n{\"src\": \"b\", \"tgt\": \"two\"}\n");
    bench.write("words/train/x.jsonl", "{\"src\": \"c\", \"tgt\": \"3\"}\n");
    let sums = "data = \"sums\"\n";
    let exact = "data = \"sums\"\nscore = [\"exact-match\"]\n";
    let claimed = |left: &str| format!("{exact}[[claim]]\nid = \"c\"\na = {{ method = \"hard\" }}\nexpect = \"{left} > 0\"\n");
    let cases = [
        (format!("{exact}sample = 2\n"), "12:1: unknown key \"sample\" in [task.a]; did you mean \"samples\"?"),
        (format!("{exact}decode = {{ beam = 2 }}\n"), "12:1: unknown key \"beam\" in decode; did you mean \"beams\"?"),
        (sums.to_string(), "9:7: task a has no score; add e.g. score = [\"exact-match\"]"),
        (format!("{sums}score = []\n"), "11:1: score must be a list of scores, e.g. [\"exact-match\"], not an empty list"),
        (
            format!("{sums}score = \"exact-match\"\n"),
            "11:1: score must be a list of scores, e.g. [\"exact-match\"], not \"exact-match\"",
        ),
        (format!("{sums}score = [\"exact_match\"]\n"), "11:1: unknown score \"exact_match\"; did you mean \"exact-match\"?"),
        (format!("{sums}score = [\"rouge-1\", \"rouge-1\"]\n"), "11:1: score lists rouge-1 twice"),
        (
            format!("{sums}score = [\"pass@2\"]\n"),
            "11:1: pass@2 needs at least 2 samples of a prompt, but samples is 1; raise it",
        ),
        (
            format!("{sums}score = [\"teacher-nll\"]\n"),
            "11:1: teacher-nll needs a teacher; add a [teacher.NAME], or remove the score",
        ),
        (
            format!("{exact}samples = 2\n"),
            "12:1: samples is 2, but greedy decoding gives the same text each time; set e.g. decode = { temperature = 0.8 }",
        ),
        (
            format!("{exact}samples = 2\ndecode = {{ beams = 2 }}\n"),
            "12:1: samples is 2, but beam search gives the same text each time; set samples = 1",
        ),
        (
            format!("{exact}decode = {{ beams = 2, temperature = 0.5 }}\n"),
            "12:1: decode.beams searches and decode.temperature samples; keep one of them",
        ),
        (
            format!("{exact}decode = {{ beams = 2, top_p = 0.5 }}\n"),
            "12:1: decode.beams searches and decode.top_p samples; keep one of them",
        ),
        (
            format!("{exact}decode = {{ top_p = 0.5 }}\n"),
            "12:1: decode.top_p has no effect at temperature 0, which is greedy; set a temperature, e.g. temperature = 1.0, or \
             remove decode.top_p",
        ),
        (format!("{exact}decode = {{ top_p = 1.5 }}\n"), "12:1: decode.top_p must be a number above 0, at most 1, not 1.5"),
        (format!("{exact}decode = \"greedy\"\n"), "12:1: decode must be a table { ... }, not \"greedy\""),
        (format!("{exact}on = \"train\"\n"), "12:1: on must be a held-out split of the data (valid or test), not \"train\""),
        (format!("{exact}on = \"test\"\n"), "12:1: the data of the task has no test split; add test to data, or change on"),
        (
            format!("{exact}prompts = 3\n"),
            "12:1: prompts is 3, but the valid split of the task's data has only 2 prompts; lower it",
        ),
        (format!("{exact}shots = 4\n"), "12:1: shots is 4, but the train split of the task's data has only 3 prompts; lower it"),
        (format!("{exact}stop = [\"\"]\n"), "12:1: stop must be a string or a list of strings, none of them empty, not a list"),
        (format!("{exact}template = \"gone.jinja\"\n"), "12:1: no template file at gone.jinja; check template"),
        (
            claimed("rouge_l(a, 'a')"),
            "15:1: claim \"c\": task a has no score rouge-l; add it to the task's score, or use exact_match",
        ),
        (claimed("exact_match(a, 'aa')"), "15:1: claim \"c\": unknown task \"aa\"; did you mean \"a\"?"),
        (claimed("exact_match(a)"), "15:24: exact_match takes an arm and a task; e.g. exact_match(a, \"sums\")"),
        ("data = \"summs\"\nscore = [\"exact-match\"]\n".into(), "10:1: unknown data preset \"summs\"; did you mean \"sums\"?"),
        (
            "data = { path = \"text\" }\nscore = [\"distinct-1\"]\n".into(),
            "10:1: data of format \"jsonl\" are plain documents without prompts and references; name data with a source and a target, e.g. \
             of format \"src-tgt-jsonl\"",
        ),
        // The data of [base].
        (
            "score = [\"exact-match\"]\n".into(),
            "3:1: data of format \"jsonl\" are plain documents without prompts and references; name data with a source and a target, e.g. \
             of format \"src-tgt-jsonl\"",
        ),
        (
            "data = { path = \"sums\", tokenizer = { bpe = 300 } }\nscore = [\"exact-match\"]\n".into(),
            "10:1: tokenizer does not apply to a task, which trains on nothing; remove it",
        ),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .map(|(task, want)| (bench.mistake(&with(task), &OPTIONS), format!("x.toml:{want}")))
        .filter(|(found, want)| found != want)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A line of the data, not of the file, is wrong.
    let found = bench.mistake(&with("data = { path = \"words\" }\nscore = [\"number-last\"]\n"), &OPTIONS);
    assert_eq!(
        found,
        "words/valid/x.jsonl:2: number-last compares numbers, but the reference \"two\" has none; use exact-match, or correct the line"
    );
}

/// The presets that ship: they are read, no prompt is in two splits, and the scores that their README suggests apply.
#[test]
fn the_tasks_that_ship_are_read_and_their_splits_are_disjoint() {
    let folder = tempfile::tempdir().unwrap();
    symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/presets"), folder.path().join("presets")).unwrap();
    let path = folder.path().join("x.toml");
    for (name, score) in [
        ("chain-sum", "number-first"),
        ("basic-arithmetic", "number-first"),
        ("spell-backward", "exact-match"),
        ("letter-counting", "number-last"),
        ("facts", "exact-match"),
    ] {
        let task = format!("[task.a]\ndata = {name:?}\nscore = [{score:?}]\n");
        let base = "[base]\ndata = NAME\nstudent = \"llama-500k\"\ntokens = 1000\n";
        std::fs::write(&path, format!("{base}{HARD}{task}").replace("NAME", &format!("{name:?}"))).unwrap();
        let experiment = load(&path, &OPTIONS).unwrap();
        let files = &experiment.students[0].data;
        let mut known = BTreeSet::new();
        for split in ["train", "valid", "test"] {
            for prompt in prompts::read(files, split, None).unwrap() {
                assert_eq!(prompt.references.len(), 1);
                assert!(known.insert(prompt.text.clone()), "{name}: {:?} is twice in the splits", prompt.text);
            }
        }
        assert!(known.len() > 150, "{name}");
    }
}
