//! A log names a token by id, bytes or text; in every format the most reliable of these decides. The tokens of a line must spell its text,
//! and a line without identifiable tokens, valid scores or a prompt is refused with the reason.
//!
//! The oracle for ids is the vocabulary file: in `parts.json` (byte-level) `The` is 282, ` mill` 280, ` \xe2\x82` 294, `\xac`
//! 174, `.` 48, `</s>` 1; in `sentencepiece.json` (as Llama 2 has it) a line end is the byte token `<0x0A>`, 13.

use hydrometer::data::corpus::Reader;
use hydrometer::data::encode::{Encoded, Encoder};
use hydrometer::data::format::{Format, Keys};
use hydrometer::data::line_error::{LineError, OnBadLine};
use hydrometer::data::tokenizer;
use hydrometer::data::vocabulary::Vocabulary;
use hydrometer::experiment::{Options, load};
use rand::RngExt;
use serde_json::{Value, json};

use super::lab::Lab;
use super::metaseq_lines_give_what_metaseq_derives::fixture;
use super::mutation::{of_value, rounds};

/// Encodes `lines` as an experiment does: for each line the example, or why it is refused.
fn learned(format: &str, tokenizer_file: &str, lines: &[String]) -> Vec<Result<Encoded, LineError>> {
    let lab = Lab::new();
    let path = lab.write("lines.jsonl", &lines.join("\n"));
    let file = fixture(tokenizer_file);
    lab.write(
        "x.toml",
        &format!(
            r#"
[base]
data = {{ train = {path:?}, valid = {path:?}, format = {format:?}, tokenizer = {file:?} }}
student = {{ hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }}
context = 64
tokens = 64
batch = 16
seeds = 1
[method.finetune]
objective = "hard-ce"
"#
        ),
    );
    let experiment = load(&lab.path().join("x.toml"), &Options { smoke: false, tp: 1, dp: 1 }).unwrap();
    let recipe = &experiment.students[0].recipe.data;
    let tokenizer = tokenizer::open(&file).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, recipe.tokenizer.vocab_size(), None).unwrap();
    let encoder = Encoder::new(&vocabulary, recipe.examples.as_ref(), 64).unwrap();
    let mut all = Vec::new();
    let mut reader = Reader::new(&path, Format::named(format).unwrap(), Keys::default(), OnBadLine::Skip).unwrap();
    while let Some(example) = reader.next_example().unwrap() {
        all.push(encoder.encode(&example).unwrap());
    }
    all
}

fn one(format: &str, tokenizer: &str, line: &Value) -> Encoded {
    let mut all = learned(format, tokenizer, &[line.to_string()]);
    assert_eq!(all.len(), 1, "{line} cannot be read");
    all.remove(0).unwrap_or_else(|damage| panic!("{line}: {damage}"))
}

/// The target tokens, and the ids in each row of teacher targets.
fn target(encoded: &Encoded) -> (Vec<u32>, Vec<Vec<u32>>) {
    let prompt = encoded.prompt.unwrap();
    let row = |answer: &Option<_>| -> Vec<u32> {
        let answer: &hydrometer::data::answers::Answer = answer.as_ref().unwrap();
        answer.entries.iter().map(|&(id, _)| id).collect()
    };
    (encoded.ids[prompt..].to_vec(), encoded.answers[prompt..].iter().map(row).collect())
}

const IDS: [u32; 5] = [282, 280, 294, 174, 48];
const BYTES: [&[u8]; 5] = [b"The", b" mill", b" \xe2\x82", b"\xac", b"."];
/// The tokens' texts as llama-server truncates them, and as decoding single tokens gives them.
const CUT: [&str; 5] = ["The", " mill", " ", "", "."];
const REPLACED: [&str; 5] = ["The", " mill", " \u{fffd}", "\u{fffd}", "."];

fn chat(content: &str, item: impl Fn(usize) -> Value) -> Value {
    let items: Vec<Value> = (0..5)
        .map(|at| {
            let mut own = item(at);
            own["logprob"] = json!(-0.5);
            let other = json!({ "token": " a", "bytes": b" a", "logprob": -2.0 });
            let top = json!([own.clone(), other]);
            own["top_logprobs"] = top;
            own
        })
        .collect();
    let message = json!({ "role": "assistant", "content": content });
    json!({ "messages": [{ "role": "user", "content": "Price?" }],
        "choices": [{ "finish_reason": "stop", "message": message, "logprobs": { "content": items } }] })
}

fn completion(text: &str, tokens: [&str; 5], ids: Value, beside: Value) -> Value {
    let tops: Vec<Value> = tokens.iter().map(|token| json!({ *token: -0.5, " a": -2.0 })).collect();
    let mut line = json!({ "prompt": "Price?", "choices": [{ "finish_reason": "stop", "text": text, "logprobs": {
        "tokens": tokens, "token_logprobs": [-0.5, -0.5, -0.5, -0.5, -0.5], "top_logprobs": tops } }] });
    if !ids.is_null() {
        line["choices"][0]["logprobs"]["token_ids"] = ids;
    }
    if !beside.is_null() {
        line["choices"][0]["token_ids"] = beside;
    }
    line
}

fn metaseq(rows_by: [&str; 5], ids: bool, beside: Value) -> Value {
    let rows: Vec<Value> = (0..5)
        .map(|at| {
            let id = if ids { json!(IDS[at]) } else { Value::Null };
            json!({ rows_by[at]: { "token_id": id, "logprob_score": -0.5 }, " a": { "token_id": null, "logprob_score": -2.0 } })
        })
        .collect();
    let mut line = json!({ "src": "Price?", "tgt": "The mill €.", "top_logprobs": rows });
    line["token_ids"] = beside;
    line
}

#[test]
fn every_format_resolves_tokens_by_id_then_bytes_then_text() {
    let named: Vec<String> = IDS.iter().map(|id| format!("token_id:{id}")).collect();
    let named: [&str; 5] = std::array::from_fn(|at| named[at].as_str());
    let escaped = ["The", " mill", "bytes: \\xe2\\x82", "bytes:\\xac", "."];
    let raw = ["The", "Ġmill", "ĠâĤ", "¬", "."];
    let whole = "The mill €.";
    let mut choice = chat(whole, |at| json!({ "token": REPLACED[at] }));
    choice["choices"][0]["token_ids"] = json!(IDS);
    choice["choices"][0]["prompt_token_ids"] = json!([50, 67]);
    let vllm = json!({ "prompt": "Price?", "outputs": [{ "text": whole, "token_ids": IDS, "finish_reason": "stop",
        "logprobs": IDS.iter().zip(REPLACED).map(|(id, text)| json!({
            id.to_string(): { "logprob": -0.5, "rank": 1, "decoded_token": text },
            "261": { "logprob": -2.0, "rank": 2, "decoded_token": " a" } })).collect::<Vec<_>>() }] });
    let flat = completion(whole, escaped, Value::Null, Value::Null);
    let flat = json!({ "source": "Price?", "text": whole, "logprobs": flat["choices"][0]["logprobs"] });
    let cases = [
        ("openai-jsonl", chat("The mill .", |at| json!({ "id": IDS[at], "token": CUT[at], "bytes": BYTES[at] }))),
        ("openai-jsonl", chat(whole, |at| json!({ "token_id": IDS[at], "token": REPLACED[at] }))),
        ("openai-jsonl", chat(whole, |at| json!({ "token": CUT[at], "bytes": BYTES[at] }))),
        ("openai-jsonl", chat(whole, |at| json!({ "token": null, "bytes": BYTES[at] }))),
        ("openai-jsonl", chat(whole, |at| json!({ "token": named[at], "bytes": named[at].as_bytes() }))),
        ("openai-jsonl", choice),
        ("openai-jsonl", completion("The mill \u{fffd}.", REPLACED, json!(IDS), Value::Null)),
        ("openai-jsonl", completion(whole, CUT, Value::Null, json!(IDS))),
        ("openai-jsonl", completion(whole, named, Value::Null, Value::Null)),
        (
            "openai-jsonl",
            completion(
                "The mill bytes:\\xe2bytes:\\x82bytes:\\xac.",
                ["The", " mill", "token_id:294", "bytes:\\xac", "."],
                Value::Null,
                Value::Null,
            ),
        ),
        ("openai-jsonl", flat_with(flat, json!(IDS))),
        ("vllm-jsonl", vllm),
        ("metaseq-jsonl", metaseq(CUT, true, json!(IDS))),
        ("metaseq-jsonl", metaseq(raw, true, json!(IDS))),
    ];
    for (format, line) in cases {
        let (ids, rows) = target(&one(format, "parts.json", &line));
        assert_eq!(ids, [282, 280, 294, 174, 48, 1], "{line}");
        let wanted: Vec<Vec<u32>> = IDS.iter().map(|&id| vec![id, 261]).chain([vec![1]]).collect();
        assert_eq!(rows, wanted, "{line}");
    }
}

fn flat_with(mut flat: Value, ids: Value) -> Value {
    flat["logprobs"]["token_ids"] = ids;
    flat
}

#[test]
fn alternatives_with_the_same_text_are_different_tokens() {
    let line = json!({ "prompt": "Price?", "choices": [{ "message": { "content": "The" }, "logprobs": { "content": [
        { "id": 282, "token": "The", "bytes": b"The", "logprob": -0.5, "top_logprobs": [
            { "id": 282, "token": "The", "bytes": b"The", "logprob": -0.5 },
            { "id": 34, "token": " ", "bytes": b" ", "logprob": -1.5 },
            { "token": " ", "bytes": b" \xe2\x82", "logprob": -2.5 }] }] } }] });
    let encoded = one("openai-jsonl", "parts.json", &line);
    assert_eq!(target(&encoded), (vec![282, 1], vec![vec![282, 34, 294], vec![1]]));
    assert_eq!((encoded.counts.duplicate, encoded.counts.unmapped), (0, 0));
}

#[test]
fn a_sentencepiece_line_end_is_its_byte_token() {
    let (tokens, text) = (["The", " old", " mill", "\n", "The"], "The old mill\nThe");
    let by_text = completion(text, tokens, Value::Null, Value::Null);
    let raw = completion(text, ["The", "▁old", "▁mill", "<0x0A>", "The"], Value::Null, Value::Null);
    let chat = chat(text, |at| json!({ "token": tokens[at], "bytes": tokens[at].as_bytes() }));
    let rows: Vec<Value> = tokens.iter().map(|token| json!({ *token: { "token_id": null, "logprob_score": -0.5 } })).collect();
    let metaseq =
        json!({ "prompt_text": "Say:", "beam_results": [{ "generated_text": text, "tokens": tokens, "top_logprobs": rows }] });
    for (format, line) in [("openai-jsonl", by_text), ("openai-jsonl", raw), ("openai-jsonl", chat), ("metaseq-jsonl", metaseq)] {
        let (ids, rows) = target(&one(format, "sentencepiece.json", &line));
        assert_eq!(ids, [370, 359, 363, 13, 370, 2], "{line}");
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ids, "{line}");
    }
}

#[test]
fn an_empty_last_token_of_a_stopped_answer_is_the_end_token() {
    let line = |reason: &str| {
        json!({ "prompt": "q", "choices": [{ "finish_reason": reason, "message": { "content": "The" }, "logprobs": { "content": [
            { "token": "The", "bytes": b"The", "logprob": -0.5, "top_logprobs": [] },
            { "token": "", "bytes": [], "logprob": -0.25, "top_logprobs": [{ "token": "", "bytes": [], "logprob": -0.25 }] }] } }] })
    };
    let (ids, rows) = target(&one("openai-jsonl", "parts.json", &line("stop")));
    assert_eq!((ids, rows), (vec![282, 1], vec![vec![282], vec![1]]), "once");
    let damage = learned("openai-jsonl", "parts.json", &[line("length").to_string()]).remove(0).unwrap_err();
    assert_eq!(damage.kind.name(), "unknown-token");
    assert!(damage.what.contains("token 2 of the answer: a token has neither an id, nor bytes, nor a text"), "{damage}");
}

#[test]
fn unidentifiable_and_contradictory_tokens_are_refused() {
    let replaced = chat("The mill €.", |at| json!({ "token": REPLACED[at], "bytes": REPLACED[at].as_bytes() }));
    let other_text = chat("The old €.", |at| json!({ "token": CUT[at], "bytes": BYTES[at] }));
    let other_id =
        chat("The mill €.", |at| json!({ "id": IDS[at] + u32::from(at == 1) * 8, "token": CUT[at], "bytes": BYTES[at] }));
    let mut other_row = chat("The mill €.", |at| json!({ "token": CUT[at], "bytes": BYTES[at] }));
    other_row["choices"][0]["logprobs"]["content"][1]["top_logprobs"][1]["id"] = json!(282);
    let outside = chat("The mill €.", |at| json!({ "token_id": 70_000, "token": CUT[at] }));
    let prompt = json!({ "prompt": "The river", "prompt_token_ids": [282, 280], "outputs": [{ "text": ".", "token_ids": [48],
        "logprobs": [{ "48": { "logprob": -0.5 } }] }] });
    let judged = json!({ "prompt": "The river", "prompt_token_ids": [282, 280], "prompt_logprobs": [null, { "280": { "logprob": -0.5 } }] });
    let mut exported = metaseq(CUT, true, json!(IDS));
    exported["tgt"] = json!("The mill of the river.");
    let cases = [
        ("openai-jsonl", replaced, "unknown-token", "is a part of a character, and neither an id nor its bytes tell which"),
        (
            "openai-jsonl",
            other_text,
            "contradictory",
            "the tokens of the answer spell \"The mill €.\" but its text is \"The old €.\"",
        ),
        (
            "openai-jsonl",
            other_id,
            "contradictory",
            "row 2 of the logprobs: token id 288 is \" old\" in the tokenizer but \" mill\" in the log",
        ),
        (
            "openai-jsonl",
            other_row,
            "contradictory",
            "row 2 of the logprobs: token id 282 is \"The\" in the tokenizer but \" a\"",
        ),
        ("openai-jsonl", outside, "unknown-token", "token id 70000 is outside the vocabulary of 295"),
        (
            "openai-jsonl",
            completion("The mill.", CUT, Value::Null, Value::Null),
            "unknown-token",
            "neither an id, nor bytes, nor a text",
        ),
        ("vllm-jsonl", prompt, "contradictory", "the tokens of the source spell \"The mill\" but its text is \"The river\""),
        ("vllm-jsonl", judged, "contradictory", "the tokens of the answer spell \"The mill\""),
        ("metaseq-jsonl", exported, "contradictory", "but its text is \"The mill of the river.\""),
    ];
    for (format, line, kind, told) in cases {
        let damage = learned(format, "parts.json", &[line.to_string()]).remove(0).expect_err(&line.to_string());
        assert_eq!(damage.kind.name(), kind, "{damage}");
        assert!(damage.what.contains(told), "{damage}");
    }
}

/// Puts valid and invalid scores into a row of each format.
#[test]
fn invalid_scores_are_the_same_in_every_format() {
    let rows = |written: &str| {
        let entry = format!(r#"{{"token_id": null, "logprob_score": {written}}}"#);
        [
            (
                "metaseq-jsonl",
                format!(
                    r#"{{"src": "q", "tgt": "The", "top_logprobs": [{{"The": {{"token_id": 282, "logprob_score": -0.5}}, " a": {entry}}}]}}"#
                ),
            ),
            (
                "vllm-jsonl",
                format!(
                    r#"{{"prompt": "q", "outputs": [{{"token_ids": [282], "logprobs": [{{"282": {{"logprob": -0.5}}, "261": {{"logprob": {written}}}}}]}}]}}"#
                ),
            ),
            (
                "openai-jsonl",
                format!(
                    r#"{{"prompt": "q", "choices": [{{"logprobs": {{"tokens": ["The"], "token_logprobs": [-0.5], "top_logprobs": [{{" a": {written}}}]}}}}]}}"#
                ),
            ),
            (
                "openai-jsonl",
                format!(
                    r#"{{"prompt": "q", "choices": [{{"logprobs": {{"content": [{{"token": "The", "logprob": -0.5, "top_logprobs": [{{"token": " a", "logprob": {written}}}]}}]}}}}]}}"#
                ),
            ),
        ]
    };
    for (written, listed) in [("-2.0", true), ("-9999.0", false)] {
        for (format, line) in rows(written) {
            let (_, rows) = target(&learned(format, "parts.json", std::slice::from_ref(&line)).remove(0).unwrap());
            assert_eq!(rows[0], if listed { vec![282, 261] } else { vec![282] }, "{line}");
        }
    }
    let others = ["NaN", "Infinity", "0.5", "1e300", "null", "\"-2.0\"", "[-2.0]", "true"].map(rows);
    for at in 0..others[0].len() {
        let (format, lab) = (others[0][at].0, Lab::new());
        let good = rows("-2.0")[at].1.clone();
        let lines = others.iter().map(|rows| rows[at].1.clone()).chain([good]).collect::<Vec<_>>();
        lab.write("lines.jsonl", &lines.join("\n"));
        let output = lab.run(&["data", "lines.jsonl", "--format", format, "--on-bad-line", "skip", "--output", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["bad"], json!({ "bad-score": others.len() }), "{format} {at}");
    }
}

const EXPERIMENT: &str = r#"
[base]
data = { train = "answers.jsonl", valid = "answers.jsonl", tokenizer = "TOKENIZER" }
student = { hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }
tokens = 64
batch = 32
seeds = 1
[teacher.log]
recorded = "answers.jsonl"
[method.soft]
objective = "soft-ce"
top_k = 2
"#;

/// `data` and `run` give the same errors, and nothing is trained.
#[test]
fn answers_without_prompts_and_api_errors_are_reported_as_such() {
    let answer = |with: Value| {
        let mut line = chat("The mill €.", |at| json!({ "token": CUT[at], "bytes": BYTES[at] }));
        line.as_object_mut().unwrap().remove("messages");
        let mut line = json!({ "custom_id": "q-0", "response": { "status_code": 200, "body": line }, "error": null });
        if !with.is_null() {
            line["request"] = json!({ "body": { "messages": with } });
        }
        line
    };
    let asked = answer(json!([{ "role": "user", "content": "Price?" }]));
    let refused = json!({ "custom_id": "q-1", "response": { "status_code": 400, "body": { "error": { "message": "max_tokens is too large" } } }, "error": null });
    let expired = json!({ "custom_id": "q-2", "response": null, "error": { "code": "batch_expired", "message": "not in time" } });
    let vllm = json!({ "outputs": [{ "text": "The", "token_ids": [282], "logprobs": [{ "282": { "logprob": -0.5 } }] }] });
    let picture = answer(json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }]));
    for (lines, told) in [
        (
            vec![answer(Value::Null)],
            "answers.jsonl:1: the prompt that this answers is not there; put the request's \"prompt\" or \"messages\"",
        ),
        (vec![vllm], "answers.jsonl:1: the prompt that this answers is not there"),
        (
            vec![asked.clone(), refused.clone()],
            "answers.jsonl:2: the API has refused this request (status 400): \"max_tokens is too large\"",
        ),
        (vec![refused.clone(), asked.clone()], "answers.jsonl:1: the API has refused this request (status 400)"),
        (vec![asked.clone(), expired.clone()], "answers.jsonl:2: the API has refused this request: \"not in time\""),
        (
            vec![answer(Value::Null), refused.clone()],
            "line 2: the API has refused this request (status 400): \"max_tokens is too large\"",
        ),
        (vec![asked.clone(), picture], "answers.jsonl:2: message 1: it has a part of type \"image_url\", which is no text"),
    ] {
        let lab = Lab::new();
        lab.write("answers.jsonl", &lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
        lab.write("x.toml", &EXPERIMENT.replace("TOKENIZER", fixture("parts.json").to_str().unwrap()));
        for verb in [["data", "answers.jsonl"], ["run", "x.toml"]] {
            let output = lab.run(&verb);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{verb:?}: {said}");
            assert!(said.contains(told), "{verb:?}: {said}");
        }
    }
    // If skipped, they are counted by kind, and the first is quoted.
    let lab = Lab::new();
    lab.write("answers.jsonl", &[asked, refused, expired].map(|line| line.to_string()).join("\n"));
    let output = lab.run(&["data", "answers.jsonl", "--on-bad-line", "skip"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2 of 3 lines left out: refused 2") && said.contains("max_tokens is too large"), "{said}");
}

/// Each line has one to three random changes; nothing panics or fails with another error.
#[test]
fn randomly_changed_lines_are_read_or_refused() {
    let named = ["token_id:282", "bytes:\\xe2", "\u{fffd}", "", "."];
    let good = [
        ("openai-jsonl", chat("The mill €.", |at| json!({ "id": IDS[at], "token": CUT[at], "bytes": BYTES[at] }))),
        ("openai-jsonl", completion("The", named, json!(IDS), json!(IDS))),
        ("openai-jsonl", json!({ "response": { "status_code": 200, "body": { "choices": [] } }, "error": { "message": "x" } })),
        (
            "vllm-jsonl",
            json!({ "prompt": "q", "prompt_token_ids": [282], "outputs": [{ "text": "The", "token_ids": [282],
            "finish_reason": "stop", "logprobs": [{ "282": { "logprob": -0.5, "decoded_token": "The" } }] }] }),
        ),
        (
            "vllm-jsonl",
            json!({ "prompt": "The mill", "prompt_token_ids": [282, 280], "prompt_logprobs": [null, { "280": -0.5 }] }),
        ),
        ("metaseq-jsonl", metaseq(CUT, true, json!(IDS))),
        (
            "metaseq-jsonl",
            json!({ "prompt_text": "q", "beam_results": [{ "generated_text": "The", "tokens": ["The"],
            "top_logits": [{ "The": { "token_id": 282, "logit_score": 3.5, "logprob_score": -0.5 } }] }] }),
        ),
        ("src-tgt-jsonl", json!({ "src": "q", "tgt": "The mill" })),
        ("jsonl", json!({ "text": "The mill" })),
    ];
    let known = ["parts.json", "sentencepiece.json"];
    for (round, mut random) in rounds(60) {
        let (format, line) = &good[round as usize % good.len()];
        let mutated: Vec<String> = (0..60)
            .map(|_| {
                let mut line = line.clone();
                (0..random.random_range(1..=3)).for_each(|_| of_value(&mut line, &mut random));
                line.to_string()
            })
            .collect();
        for found in learned_if_any(format, known[round as usize / good.len() % 2], &mutated).into_iter().flatten() {
            assert!(found.answers.is_empty() || found.answers.len() == found.ids.len(), "{format} in round {round}");
        }
    }
}

/// [`learned`] of the lines that are still JSON objects.
fn learned_if_any(format: &str, tokenizer: &str, lines: &[String]) -> Vec<Result<Encoded, LineError>> {
    let whole: Vec<String> = lines.iter().filter(|line| line.starts_with('{')).cloned().collect();
    learned(format, tokenizer, &whole)
}
