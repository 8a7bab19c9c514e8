//! A teacher behind an API on loopback. Oracle: the targets of the same checkpoint, computed locally, and the requests that the server
//! received.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hydrometer::data::batch::Row;
use hydrometer::data::sequences::sequences;
use hydrometer::data::tokens::TokenizedSplit;
use hydrometer::teacher::cache::Cache;
use hydrometer::teacher::manifest::CacheManifest;
use hydrometer::teacher::source::Source;
use serde_json::{Value, json};

use super::api::{Api, ServerBehavior};
use super::fixtures::folder;
use super::lab::{Lab, three_arms, until};

const CHECKPOINT: &str = "smollm2";
const TEXTS: usize = 24;

/// Writes [`TEXTS`] texts of about thirty tokens each.
fn texts(lab: &Lab) -> PathBuf {
    let line = |n: usize| json!({ "id": format!("t{n}"), "text": format!("Text {n}: once more, {} friends!", n * n * 7919) });
    let lines: Vec<String> = (0..TEXTS).map(|n| line(n).to_string()).collect();
    lab.write("texts.jsonl", &lines.join("\n"))
}

/// The arguments of `hydrometer teach` for the texts and the API at `url`.
fn teach<'a>(url: &'a str, out: &'a str, more: &[&'a str]) -> Vec<String> {
    let tokenizer = folder(CHECKPOINT).join("tokenizer.json");
    let tokenizer = tokenizer.to_str().unwrap().to_string();
    let always = ["teach", "--endpoint", url, "--served-model", "m", "--data", "texts.jsonl", "--top-k", "10", "--context", "64"];
    let all = always.into_iter().chain(["--out", out, "--tokenizer", &tokenizer]).chain(more.iter().copied());
    all.map(String::from).collect()
}

fn run(lab: &Lab, arguments: &[String]) -> Output {
    lab.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ids and logprobs of all targets in the cache `folder`.
fn cached_targets(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let title = CacheManifest::read(folder).unwrap();
    let (cache, source) = (Cache::open(folder, &title).unwrap(), Source::all(folder).unwrap().remove(0));
    let split = source.split(folder).unwrap();
    let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
    for sequence in sequences(&split, source.context) {
        let answers = cache.read(&Row::whole(sequence), &split).unwrap();
        ids.extend(answers.ids);
        logprobs.extend(answers.logprobs);
    }
    (ids, logprobs)
}

/// Asserts that two caches have the same logprobs, and the same ids except where logprobs are tied.
fn assert_same_targets(one: &Path, other: &Path) {
    let ((ids, logprobs), (other_ids, others)) = (cached_targets(one), cached_targets(other));
    assert_eq!(ids.len(), other_ids.len());
    assert!(ids.len() > 20 * 10 * TEXTS, "{}", ids.len());
    for at in 0..ids.len() {
        assert!((logprobs[at] - others[at]).abs() < 1e-4, "{at}: {} for {}", logprobs[at], others[at]);
        let near = |other: usize| other / 10 != at / 10 || (logprobs[at] - logprobs[other]).abs() < 1e-4;
        let tied = (at % 10 > 0 && near(at - 1)) || at % 10 == 9 || near(at + 1);
        assert!(ids[at] == other_ids[at] || tied, "{at}: {} for {}", ids[at], other_ids[at]);
    }
}

/// Computes the checkpoint's own targets into the lab's folder `direct`.
fn checkpoint_targets(lab: &Lab) -> PathBuf {
    let model = folder(CHECKPOINT);
    let asked =
        ["--model", model.to_str().unwrap(), "--data", "texts.jsonl", "--top-k", "10", "--context", "64", "--out", "direct"];
    lab.ok(&[&["teach"][..], &asked].concat());
    lab.path().join("direct")
}

/// Prompts whose responses the log in `out` has.
fn logged_prompts(lab: &Lab, out: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(lab.path().join(out).join("answers.jsonl")).unwrap_or_default();
    let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    whole.map(|line| line["request"]["prompt"].to_string()).collect()
}

#[test]
fn an_unreliable_api_yields_the_targets_of_its_checkpoint() {
    let lab = Lab::new();
    texts(&lab);
    let direct = checkpoint_targets(&lab);
    let api = Api::serve(CHECKPOINT, ServerBehavior { faults: true, ..ServerBehavior::default() });
    let output = run(&lab, &teach(&api.url, "cache", &["--timeout", "2", "--retries", "20", "--concurrency", "6"]));
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    for fault in ["429: slow down", "500: <html>oops</html>", "the answer is damaged", "asked again in"] {
        assert!(said.contains(fault), "{fault}: {said}");
    }
    assert_eq!(api.answered(), TEXTS, "each text is answered once");
    assert_same_targets(&lab.path().join("cache"), &direct);
    // Sending token ids, one sequence per request, gives the same targets.
    let calm = Api::serve(CHECKPOINT, ServerBehavior::default());
    let output = run(&lab, &teach(&calm.url, "tokens", &["--sent", "tokens"]));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same_targets(&lab.path().join("tokens"), &direct);
    // Nothing is requested again.
    let output = run(&lab, &teach(&calm.url, "tokens", &["--sent", "tokens"]));
    assert!(output.status.success() && calm.answered() == TEXTS, "{}", stderr(&output));
}

#[test]
fn no_request_is_repeated_after_a_kill_once_its_response_has_arrived() {
    let lab = Lab::new();
    texts(&lab);
    let direct = checkpoint_targets(&lab);
    let api = Api::serve(CHECKPOINT, ServerBehavior { latency: Duration::from_millis(150), ..ServerBehavior::default() });
    let command = teach(&api.url, "cache", &["--concurrency", "2"]);
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    for kill in 1..=3 {
        let mut child = lab.start(&arguments);
        until(|| logged_prompts(&lab, "cache").len() >= 5 * kill);
        child.kill().unwrap();
        child.wait().unwrap();
        let (before, kept) = (api.received().len(), logged_prompts(&lab, "cache"));
        assert!(kept.len() < TEXTS);
        let mut next = lab.start(&arguments);
        until(|| logged_prompts(&lab, "cache").len() > kept.len());
        next.kill().unwrap();
        next.wait().unwrap();
        for received in &api.received()[before..] {
            assert!(!kept.contains(&received.body["prompt"].to_string()), "paid for twice: {}", received.body);
        }
    }
    assert!(run(&lab, &command).status.success());
    // A request in flight at a kill is repeated with the same idempotency key: at most two for each of the six kills.
    let received = api.received();
    let distinct: BTreeSet<&String> = received.iter().map(|received| &received.headers["idempotency-key"]).collect();
    assert_eq!(distinct.len(), TEXTS);
    assert!(received.len() <= TEXTS + 12, "{}", received.len());
    assert_same_targets(&lab.path().join("cache"), &direct);
}

#[test]
fn ctrl_c_waits_for_requests_in_flight() {
    let lab = Lab::new();
    texts(&lab);
    let api = Api::serve(CHECKPOINT, ServerBehavior { latency: Duration::from_millis(400), ..ServerBehavior::default() });
    let command = teach(&api.url, "cache", &["--concurrency", "3"]);
    let mut child = lab.start(&command.iter().map(String::as_str).collect::<Vec<_>>());
    until(|| api.received().len() >= 6);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let received = api.received().len();
    assert!(received < TEXTS);
    assert_eq!(
        (api.answered(), logged_prompts(&lab, "cache").len()),
        (received, received),
        "every request sent has its response in the log"
    );
}

#[test]
fn a_budget_is_never_exceeded_and_a_larger_one_resumes() {
    let lab = Lab::new();
    texts(&lab);
    let api = Api::serve(CHECKPOINT, ServerBehavior::default());
    let spent = || -> u64 {
        let tokens = |received: &super::api::ReceivedRequest| received.body["prompt"].as_str().unwrap().len() as u64 + 1;
        api.received().iter().filter(|received| received.answered).map(tokens).sum()
    };
    let whole: u64 = std::fs::read_to_string(texts(&lab))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().len() as u64 + 1)
        .sum();
    let output = run(&lab, &teach(&api.url, "cache", &["--budget-tokens", "300"]));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("the budget is used up") && stderr(&output).contains("raise budget"), "{}", stderr(&output));
    let first = spent();
    assert!(first <= 300 && first > 200, "{first}");
    // A budget in money: 1 per prompt token, 2 per completion token.
    let prices = ["--price-input", "1000000", "--price-output", "2000000"];
    let output = run(&lab, &teach(&api.url, "cache", &[&prices[..], &["--budget-cost", "500"]].concat()));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let second = spent() + api.answered() as u64;
    assert!(second <= 500 && second > 400, "{second}");
    let output = run(&lab, &teach(&api.url, "cache", &[&prices[..], &["--budget-cost", "5000"]].concat()));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!((spent(), api.answered()), (whole, TEXTS));
    let output = run(&lab, &teach(&api.url, "cache", &["--budget-cost", "5000"]));
    assert_eq!(output.status.code(), Some(2), "a budget in money needs prices");
    // If the server reports no usage, tokens are counted here.
    let silent = Api::serve(CHECKPOINT, ServerBehavior { omits_usage: true, ..ServerBehavior::default() });
    let output = run(&lab, &teach(&silent.url, "silent", &["--budget-tokens", "300"]));
    assert_eq!((output.status.code(), silent.answered()), (Some(2), 8), "{}", stderr(&output));
}

#[test]
fn the_api_key_is_sent_but_never_stored_or_printed() {
    let lab = Lab::new();
    texts(&lab);
    let secret = "sk-a-key-that-is-nowhere";
    let api = Api::serve(CHECKPOINT, ServerBehavior { key: Some(secret.into()), ..ServerBehavior::default() });
    let command = teach(&api.url, "cache", &["--key-env", "LAB_KEY"]);
    let with = |key: Option<&str>| {
        let mut command = lab.command(&command.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(key) = key {
            command.env("LAB_KEY", key);
        }
        command.output().unwrap()
    };
    let none = with(None);
    assert_eq!((none.status.code(), api.received().len()), (Some(2), 0), "{}", stderr(&none));
    assert!(stderr(&none).contains("LAB_KEY"), "{}", stderr(&none));
    let wrong = with(Some("sk-wrong"));
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("401: wrong key: Bearer [key]"), "{}", stderr(&wrong));
    let right = with(Some(secret));
    assert!(right.status.success(), "{}", stderr(&right));
    assert!(api.received().iter().any(|received| received.headers["authorization"] == format!("Bearer {secret}")));
    for entry in std::fs::read_dir(lab.path().join("cache")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    assert!(!stderr(&right).contains(secret) && !String::from_utf8_lossy(&right.stdout).contains(secret));
    // A key is not sent over plain http to another machine.
    let abroad = teach("http://192.0.2.1/v1", "abroad", &["--key-env", "LAB_KEY"]);
    let mut abroad = lab.command(&abroad.iter().map(String::as_str).collect::<Vec<_>>());
    let abroad = abroad.env("LAB_KEY", secret).output().unwrap();
    assert_eq!(abroad.status.code(), Some(2));
    assert!(stderr(&abroad).contains("would be sent unencrypted"), "{}", stderr(&abroad));
}

#[test]
fn permanent_errors_are_not_retried() {
    let lab = Lab::new();
    texts(&lab);
    for (status, text, told) in [
        (404, r#"{"error": {"message": "no model m"}}"#, "404: no model m"),
        (429, r#"{"error": {"code": "insufficient_quota", "message": "pay first"}}"#, "429: pay first"),
        (200, r#"{"choices": [{"text": "a"}]}"#, "has no log-probabilities"),
    ] {
        let api = Api::serve(CHECKPOINT, ServerBehavior { refuses: Some((status, text.into())), ..ServerBehavior::default() });
        let output = run(&lab, &teach(&api.url, "cache", &["--concurrency", "1"]));
        assert_eq!((output.status.code(), api.received().len()), (Some(2), 1), "{}", stderr(&output));
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
    let gone = Api::serve(CHECKPOINT, ServerBehavior { refuses: Some((503, "down".into())), ..ServerBehavior::default() });
    let output = run(&lab, &teach(&gone.url, "cache", &["--concurrency", "1", "--retries", "1"]));
    assert_eq!((output.status.code(), gone.received().len()), (Some(1), 2), "{}", stderr(&output));
    assert!(stderr(&output).contains("failed 2 times, last with 503: down"), "{}", stderr(&output));
}

/// Another tokenizer than the server's and logprobs shifted by one token are detected at the first response.
#[test]
fn misaligned_responses_are_refused_at_the_first_one() {
    let lab = Lab::new();
    texts(&lab);
    let serve = |echo_rows_next: bool| {
        Api::serve(CHECKPOINT, ServerBehavior { echo_rows_next, predicts_text: true, ..ServerBehavior::default() })
    };
    let (own, next) = (serve(false), serve(true));
    let output = run(&lab, &teach(&own.url, "own", &[]));
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(&lab, &teach(&next.url, "next", &["--concurrency", "1"]));
    assert_eq!((output.status.code(), next.answered()), (Some(2), 1), "{}", stderr(&output));
    assert!(stderr(&output).contains("set echo_rows = \"next\""), "{}", stderr(&output));
    let output = run(&lab, &teach(&next.url, "next", &["--echo-rows", "next"]));
    assert!(output.status.success(), "{}", stderr(&output));
    // The response that was refused is already paid for and is not requested again. One request more: the first token, which all
    // texts share.
    assert_eq!(next.answered(), TEXTS + 1);
    assert_same_targets(&lab.path().join("next"), &lab.path().join("own"));

    let api = Api::serve(CHECKPOINT, ServerBehavior::default());
    let mut other = teach(&api.url, "other", &["--concurrency", "1"]);
    let position = other.iter().position(|argument| argument == "--tokenizer").unwrap();
    other[position + 1] = super::metaseq_lines_give_what_metaseq_derives::fixture("tokenizer.json").display().to_string();
    let output = run(&lab, &other);
    assert_eq!((output.status.code(), api.answered()), (Some(2), 1), "{}", stderr(&output));
    assert!(stderr(&output).contains("use the teacher's tokenizer"), "{}", stderr(&output));
}

/// Writes experiment `name`: three arms with this `[teacher.them]`.
fn experiment(lab: &Lab, name: &str, data: &str, teacher: &str) {
    let tokenizer = folder(CHECKPOINT).join("tokenizer.json");
    let data = format!("tokenizer = {tokenizer:?}, {data}");
    lab.write(name, &three_arms(&data, 100, 10, teacher, "centered = true"));
}

fn losses(lab: &Lab, runs: &str) -> Vec<f64> {
    let students = ["finetune", "soft-ce", "logit-mse"];
    let mine = |run: &str| students.iter().any(|arm| run.starts_with(arm));
    lab.numbers(runs).into_iter().filter(|(run, _, what, _)| mine(run) && *what == "loss").map(|(.., loss)| loss).collect()
}

#[test]
fn an_experiment_requests_only_what_its_students_read_and_trains_as_with_the_checkpoint() {
    let lab = Lab::new();
    texts(&lab);
    let api = Api::serve(CHECKPOINT, ServerBehavior::default());
    let data = "train = \"texts.jsonl\", valid = \"texts.jsonl\"";
    experiment(&lab, "asked.toml", data, &format!("endpoint = {:?}\nmodel = \"m\"\nprice = {{ input = 10 }}", api.url));
    experiment(&lab, "direct.toml", data, &format!("hf = {:?}", folder(CHECKPOINT)));
    lab.ok(&["run", "asked.toml", "--results", "results"]);
    lab.ok(&["run", "direct.toml", "--runs", "direct-runs", "--results", "direct-results"]);
    let (asked, direct) = (losses(&lab, "runs"), losses(&lab, "direct-runs"));
    assert_eq!((asked.len(), direct.len()), (12, 12));
    for (asked, direct) in asked.iter().zip(&direct) {
        assert!((asked - direct).abs() < 1e-4, "{asked} for {direct}");
    }
    let seen = api.answered();
    assert!(seen < TEXTS, "400 tokens are only part of the text: {seen}");
    // The frames and `plan` report the number of requests.
    let planned = lab.run(&["plan", "asked.toml", "--output", "json"]);
    let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(planned["teachers"][0]["spent"]["requests"], seen);
    let frame = std::fs::File::open(lab.path().join("results/imports.parquet")).unwrap();
    let frame =
        polars_io::SerReader::finish(<polars_io::prelude::ParquetReader<_> as polars_io::SerReader<_>>::new(frame)).unwrap();
    let requests = frame.column("requests").unwrap().i64().unwrap().iter().flatten().next();
    assert_eq!(requests, Some(seen as i64));
    // Neither the same command nor a smaller top-k sends further requests.
    lab.ok(&["run", "asked.toml", "--results", "results"]);
    let text = std::fs::read_to_string(lab.path().join("asked.toml")).unwrap();
    lab.write("fewer.toml", &text.replace("top_k = 10", "top_k = 5"));
    lab.ok(&["run", "fewer.toml"]);
    assert_eq!(api.answered(), seen);
    // With more tokens, only the missing texts are requested.
    lab.write("more.toml", &text.replace("tokens = 400", "tokens = 1500"));
    lab.ok(&["run", "more.toml"]);
    assert_eq!(api.answered(), TEXTS);
}

#[test]
fn collected_completions_serve_as_data_and_as_a_recorded_teacher() {
    for what in ["complete", "chat"] {
        let lab = Lab::new();
        let lines: Vec<String> =
            (0..12).map(|n| json!({ "prompt": format!("Tell me {n}"), "completion": "x" }).to_string()).collect();
        lab.write("texts.jsonl", &lines.join("\n"));
        let api = Api::serve(CHECKPOINT, ServerBehavior::default());
        let output = run(&lab, &teach(&api.url, "answers", &["--ask", what, "--max-tokens", "12", "--temperature", "0"]));
        assert!(output.status.success() && api.answered() == 12, "{}", stderr(&output));
        let file = "answers/answers.jsonl";
        let data = format!("train = {file:?}, valid = {file:?}, format = \"openai-jsonl\", eos_token = \"<s>\"");
        experiment(&lab, "written.toml", &data, &format!("recorded = {file:?}"));
        lab.ok(&["run", "written.toml", "--results", "results"]);
        assert_eq!(losses(&lab, "runs").len(), 12, "{what}");
        // A completion cut by `--max-tokens` gets no end token.
        let folders = std::fs::read_dir(lab.path().join("runs")).unwrap().map(|entry| entry.unwrap().path());
        let data = folders.into_iter().find(|path| path.join("train.tokens").exists()).unwrap();
        let split = TokenizedSplit::read(&data.join("train.tokens")).unwrap();
        assert!((0..split.len()).all(|index| split.document(index).last() != Some(&0)), "{what}");
        // Other settings in the same folder are refused, since the completions would differ.
        let output = run(&lab, &teach(&api.url, "answers", &["--ask", what, "--max-tokens", "13", "--temperature", "0"]));
        assert!(output.status.code() == Some(2) && api.answered() == 12, "{}", stderr(&output));
    }
}
