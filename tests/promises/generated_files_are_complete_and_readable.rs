//! `hydrometer generate` as a user calls it: its lines, resumption, what reads them, and wrong input.

use std::path::Path;

use hydrometer::UserError;
use hydrometer::data::prompt_file::PromptReader;
use hydrometer::data::template::Template;
use hydrometer::data::tokenizer;
use hydrometer::data::vocabulary::Vocabulary;
use serde_json::{Value, json};

use super::fixtures::folder;
use super::lab::{Lab, three_arms};
use super::mutation::{of_bytes, rounds};

/// `generate` with checkpoint `model` after the prompts in `prompts`; output, success and standard error.
fn generate(lab: &Lab, model: &Path, prompts: &str, out: &str, more: &[&str]) -> (Value, Option<i32>, String) {
    let model = model.to_str().unwrap();
    let first = ["generate", "--output", "json", "--model", model, "--prompts", prompts, "--out", out];
    let output = lab.run(&[&first[..], more].concat());
    let summary = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (summary, output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn ok(lab: &Lab, model: &Path, prompts: &str, out: &str, more: &[&str]) -> Value {
    let (summary, code, said) = generate(lab, model, prompts, out, more);
    assert_eq!(code, Some(0), "{more:?}: {said}");
    summary
}

fn lines(lab: &Lab, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.path().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const PROMPTS: &str = "{\"prompt\": \"Now is the winter\"}\n{\"prompt_ids\": [3, 9, 27]}\n\n{\"src\": \"Exit\", \"other\": 1}\n{\"prompt\": [40, 41]}\n{\"prompt\": \"O\"}\n";
const SAMPLED: [&str; 8] = ["--samples", "3", "--temperature", "0.8", "--max-new-tokens", "12", "--top-logprobs", "4"];

/// Oracle: the file that one rank writes without interruption.
#[test]
fn a_file_has_the_same_bytes_on_any_ranks_in_any_batch_and_after_any_interruption() {
    let lab = Lab::empty();
    lab.write("prompts.jsonl", PROMPTS);
    let model = folder("llama");
    let summary = ok(&lab, &model, "prompts.jsonl", "one.jsonl", &SAMPLED);
    assert_eq!((&summary["texts"], &summary["prompts"], &summary["resumed_after"]), (&json!(15), &json!(5), &json!(0)));
    let whole = std::fs::read(lab.path().join("one.jsonl")).unwrap();
    let found = lines(&lab, "one.jsonl");
    let tokens: usize = found.iter().map(|line| line["ids"].as_array().unwrap().len()).sum();
    assert_eq!(summary["tokens"], json!(tokens));
    for (index, line) in found.iter().enumerate() {
        assert_eq!((&line["id"], &line["sample"]), (&json!(index / 3), &json!(index % 3)));
        let logprobs = line["logprobs"].as_array().unwrap();
        assert_eq!(logprobs.len(), line["ids"].as_array().unwrap().len());
        // A sampled id that is among the likeliest has the same logprob there.
        for ((id, logprob), listed) in
            line["ids"].as_array().unwrap().iter().zip(logprobs).zip(line["top_logprobs"].as_array().unwrap())
        {
            let listed = listed.as_array().unwrap();
            assert_eq!(listed.len(), 4);
            assert!(listed.iter().find(|entry| entry["id"] == *id).is_none_or(|entry| entry["logprob"] == *logprob));
        }
    }
    assert_eq!(found[0]["prompt"], "Now is the winter");
    assert_eq!(found[0]["prompt_ids"][0], 0, "the tokenizer's BOS");
    assert_eq!(found[3]["prompt_ids"], json!([3, 9, 27]));

    for (out, more) in [("batch.jsonl", ["--batch", "1"]), ("dp.jsonl", ["--dp", "2"])] {
        ok(&lab, &model, "prompts.jsonl", out, &[&SAMPLED[..], &more].concat());
        assert!(std::fs::read(lab.path().join(out)).unwrap() == whole, "{out}");
    }
    // As after a kill: some lines, the last of them torn, and the file that marks them as unfinished.
    let marker = lab.path().join("again.jsonl.unfinished");
    let (_, code, said) = generate(&lab, &model, "prompts.jsonl", "one.jsonl", &SAMPLED);
    assert!(code == Some(2) && said.contains("one.jsonl already exists"), "{said}");
    let identity = {
        // A run that cannot write its first line leaves its mark.
        std::fs::create_dir(lab.path().join("again.jsonl")).unwrap();
        let (_, code, _) = generate(&lab, &model, "prompts.jsonl", "again.jsonl", &SAMPLED);
        assert_eq!(code, Some(2), "a folder is refused");
        std::fs::remove_dir(lab.path().join("again.jsonl")).unwrap();
        let mut child = lab.start(
            &[
                &["generate", "--model", model.to_str().unwrap(), "--prompts", "prompts.jsonl", "--out", "again.jsonl"],
                &SAMPLED[..],
            ]
            .concat(),
        );
        while !marker.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let identity = std::fs::read(&marker);
        let _ = child.kill();
        child.wait().unwrap();
        identity.ok()
    };
    if let Some(identity) = identity {
        std::fs::write(&marker, identity).unwrap();
        let torn = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(6).unwrap().0 + 20;
        std::fs::write(lab.path().join("again.jsonl"), &whole[..torn]).unwrap();
        let (_, code, said) = generate(&lab, &model, "prompts.jsonl", "again.jsonl", &["--seed", "1"]);
        assert!(
            code == Some(2) && said.contains("unfinished output of another model, other prompts or other settings"),
            "{said}"
        );
        let summary = ok(&lab, &model, "prompts.jsonl", "again.jsonl", &SAMPLED);
        assert_eq!(summary["resumed_after"], json!(7));
        assert!(std::fs::read(lab.path().join("again.jsonl")).unwrap() == whole);
        assert!(!marker.exists());
    }
}

/// Oracle: the readers of data and of recorded teachers.
#[test]
fn both_formats_are_read_as_data_and_as_recorded_teachers() {
    let lab = Lab::empty();
    lab.write("prompts.jsonl", PROMPTS);
    let model = folder("llama");
    let tokenizer = model.join("tokenizer.json");
    for (format, name) in [("jsonl", "generated-jsonl"), ("metaseq", "metaseq-jsonl")] {
        let out = format!("{format}.jsonl");
        ok(&lab, &model, "prompts.jsonl", &out, &[&SAMPLED[..], &["--format", format]].concat());
        let output = lab.run(&["data", &out, "--output", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&found["format"], &found["examples"]), (&json!(name), &json!(15)), "{found}");
        let data = format!("train = {out:?}, valid = {out:?}, tokenizer = {tokenizer:?}, eos = \"none\"");
        lab.write("arms.toml", &three_arms(&data, 20, 4, &format!("recorded = {out:?}"), "centered = true"));
        let results = format!("results-{format}");
        let output = lab.run(&["run", "arms.toml", "--results", &results, "--runs", &format!("runs-{format}")]);
        assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let ids = |line: &Value| [line["prompt_ids"].as_array().unwrap().clone(), line["ids"].as_array().unwrap().clone()].concat();
    for (ours, theirs) in lines(&lab, "jsonl.jsonl").iter().zip(lines(&lab, "metaseq.jsonl")) {
        let beam = &theirs["beam_results"][0];
        assert_eq!(*beam["token_ids"].as_array().unwrap(), ids(ours));
        assert_eq!((&beam["generated_text"], &theirs["prompt_text"]), (&ours["text"], &ours["prompt"]));
        let logit = beam["top_logprobs"][0].as_object().unwrap().values().next().unwrap();
        assert!(logit["logit_score"].is_f64() && logit["logprob_score"].as_f64().unwrap() <= 0.0);
    }
}

/// Oracle: the text without a stop string.
#[test]
fn a_stop_string_ends_a_text_and_is_no_part_of_it() {
    let lab = Lab::empty();
    lab.write("prompts.txt", "Once more\nExit\n");
    let model = folder("smollm2");
    ok(&lab, &model, "prompts.txt", "whole.jsonl", &["--max-new-tokens", "30"]);
    let whole = lines(&lab, "whole.jsonl");
    let text = whole[0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(5).take(2).collect();
    ok(&lab, &model, "prompts.txt", "cut.jsonl", &["--max-new-tokens", "30", "--stop", "never said", "--stop", &stop]);
    let cut = &lines(&lab, "cut.jsonl")[0];
    let at = text.find(&stop).unwrap();
    assert_eq!((&cut["finish"], &cut["text"]), (&json!("stop"), &json!(text[..at])));
    let ids = cut["ids"].as_array().unwrap();
    assert_eq!(ids[..], whole[0]["ids"].as_array().unwrap()[..ids.len()]);
    assert!(ids.len() < 30 && whole[0]["finish"] == "length");
}

/// Oracle: the templates applied by hand.
#[test]
fn templates_and_chat_templates_make_the_prompts() {
    let lab = Lab::empty();
    let model = lab.path().join("chatty");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(folder("llama")).unwrap().flatten() {
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let chat = "{%- for m in messages %}\n<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}\n{%- if add_generation_prompt %}\n<a>\n{%- endif %}";
    std::fs::write(model.join("chat_template.jinja"), chat).unwrap();
    lab.write("chat.jsonl", "{\"messages\": [{\"role\": \"u\", \"content\": \" Hi \"}]}\n");
    ok(&lab, &model, "chat.jsonl", "chat.out", &["--max-new-tokens", "1"]);
    let line = &lines(&lab, "chat.out")[0];
    assert_eq!(line["prompt"], "<u>Hi\n<a>", "as jinja2 with trim_blocks and lstrip_blocks renders it");
    assert_ne!(line["prompt_ids"][0], 0, "the template writes special tokens itself");

    lab.write("fields.jsonl", "{\"q\": \"1+1\"}\n");
    lab.write("q.jinja", "Q: {{ q }}\nA:");
    ok(&lab, &model, "fields.jsonl", "q.out", &["--max-new-tokens", "1", "--template", "q.jinja"]);
    assert_eq!(lines(&lab, "q.out")[0]["prompt"], "Q: 1+1\nA:");
}

/// Oracle: the same weights, exported.
#[test]
fn a_finished_run_writes_what_its_exported_checkpoint_writes() {
    let lab = Lab::trained();
    lab.ok(&["export", "finetune", "--out", "exported"]);
    lab.write("prompts.txt", "the\nof a\n");
    ok(&lab, Path::new("finetune"), "prompts.txt", "run.jsonl", &["--max-new-tokens", "10"]);
    ok(&lab, &lab.path().join("exported"), "prompts.txt", "exported.jsonl", &["--max-new-tokens", "10"]);
    assert_eq!(lines(&lab, "run.jsonl"), lines(&lab, "exported.jsonl"));
}

#[test]
fn wrong_input_is_one_sentence_before_any_work() {
    let lab = Lab::empty();
    lab.write("ok.txt", "Hi\n");
    lab.write("empty.txt", "\n \n");
    lab.write("messages.jsonl", "{\"prompt\": \"a\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
    lab.write("fields.jsonl", "{\"q\": 1}\n{\"p\": 1}\n");
    lab.write("long.jsonl", &format!("{{\"prompt\": \"a\"}}\n{{\"prompt\": {:?}}}\n", "a".repeat(64)));
    lab.write("ids.jsonl", "{\"prompt_ids\": [97]}\n");
    lab.write("list.json", "[{\"prompt\": \"a\"},\n{\"prompt\": \"b\"}]\n");
    lab.write("q.jinja", "{{ q }}");
    lab.write("broken.jinja", "a\n{% if %}");
    lab.write("raises.jinja", "\n{{ raise_exception('roles must alternate') }}");
    let cases: [(&str, &[&str], &str); 17] = [
        ("empty.txt", &[], "empty.txt: there are no prompts in it"),
        ("none.txt", &[], "none.txt"),
        (
            "messages.jsonl",
            &[],
            "messages.jsonl:2: the model has no chat template for \"messages\"; give one with --template FILE",
        ),
        ("fields.jsonl", &[], "fields.jsonl:1: expected a JSON object with a \"prompt\", \"prompt_ids\" or \"messages\""),
        (
            "fields.jsonl",
            &["--template", "q.jinja"],
            "fields.jsonl:2: the template fails: q.jinja:1: it uses a field that is not there",
        ),
        ("ok.txt", &["--template", "broken.jinja"], "broken.jinja:2: "),
        ("ok.txt", &["--template", "raises.jinja"], "ok.txt:1: the template fails: raises.jinja:2: roles must alternate"),
        (
            "long.jsonl",
            &[],
            "long.jsonl:2: the prompt has 64 tokens, but the model's context has room for a prompt of 63 and a new token",
        ),
        ("ids.jsonl", &[], "ids.jsonl:1: token id 97 is outside the vocabulary of 97"),
        ("list.json", &[], "list.json:1: this is one JSON list"),
        ("ok.txt", &["--beams", "4", "--temperature", "1"], "leave out --temperature or --beams"),
        ("ok.txt", &["--beams", "4", "--samples", "2"], "leave out --samples or --beams"),
        ("ok.txt", &["--samples", "2"], "--samples has no effect at temperature 0"),
        ("ok.txt", &["--top-p", "0.9"], "--top-p has no effect at temperature 0"),
        ("ok.txt", &["--temperature", "1", "--top-p", "1.5"], "--top-p 1.5"),
        ("ok.txt", &["--tp", "3"], "num_attention_heads 4 does not divide over tp = 3"),
        ("ok.txt", &["--stop", ""], "--stop is empty"),
    ];
    for (prompts, more, wanted) in cases {
        let (_, code, said) = generate(&lab, &folder("gpt2"), prompts, "out.jsonl", more);
        assert_eq!(code, Some(2), "{prompts} {more:?}: {said}");
        assert!(said.contains(wanted) && said.trim().lines().count() == 1, "{prompts} {more:?}: {said}");
        assert!(!lab.path().join("out.jsonl").exists());
    }
    let (_, code, said) = generate(&lab, Path::new("nothing"), "ok.txt", "out.jsonl", &[]);
    assert!(code == Some(2) && said.contains("there is no folder nothing, and no run of that name under runs"), "{said}");
}

/// Oracle: either prompts or one user error; never a panic.
#[test]
fn damaged_prompts_and_templates_are_read_or_refused() {
    let lab = Lab::empty();
    let tokenizer = tokenizer::open(&folder("llama").join("tokenizer.json")).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, 97, None).unwrap();
    let source = "{% for m in messages %}<{{ m['role'] }}>{{ m.content.strip() | tojson(indent=1) }}\n{% endfor %}{% if prompt is defined %}{{ prompt[0] }}{% endif %}";
    let whole = format!("{PROMPTS}{{\"messages\": [{{\"role\": \"u\", \"content\": \"Hi \"}}]}}\n");
    let (mut read, mut refused) = (0, 0);
    for (round, mut random) in rounds(300) {
        let prompts = lab.path().join("prompts.jsonl");
        std::fs::write(&prompts, of_bytes(whole.as_bytes(), &mut random)).unwrap();
        std::fs::write(lab.path().join("t.jinja"), of_bytes(source.as_bytes(), &mut random)).unwrap();
        let template = Template::of_file(&lab.path().join("t.jinja"));
        for template in [None, Some(&template)] {
            let found = match template {
                Some(Err(error)) => Err(anyhow::Error::new(error.downcast_ref::<UserError>().expect("a user error").clone())),
                template => {
                    let template = template.and_then(|template| template.as_ref().ok());
                    PromptReader { tokenizer: &tokenizer, vocabulary: &vocabulary, template, chat: None, longest: 63 }
                        .read(&prompts)
                }
            };
            match found {
                Ok(_) => read += 1,
                Err(error) => {
                    assert!(error.chain().any(|cause| cause.is::<UserError>()), "round {round}: {error:#}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 0 && refused > 0);
}
