//! Oracle: the files of a checkpoint. tests/fixtures/chat is a student whose tokenizer has `<|endoftext|>` (0), `<|im_start|>` (1) and
//! `<|im_end|>` (2), and whose config.json, generation_config.json and tokenizer_config.json declare the third as the end token.

use std::fs;
use std::path::Path;

use hydrometer::data::tokens::{self, TokenizedSplit};
use hydrometer::experiment::{Experiment, Options, load};
use serde_json::{Value, json};

use super::fixtures::folder;
use super::lab::Lab;

const PAIRS: &str = "{\"src\": \"Question?\", \"tgt\": \"The old mill\"}\n";

/// A lab with a copy of the student and an experiment on `lines`; `more` is appended to the data table.
fn lab(lines: &str, more: &str) -> Lab {
    let lab = Lab::empty();
    fs::create_dir(lab.path().join("student")).unwrap();
    for entry in fs::read_dir(folder("../chat")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, lab.path().join("student").join(path.file_name().unwrap())).unwrap();
    }
    lab.write("data.jsonl", &lines.repeat(8));
    lab.write(
        "e.toml",
        &format!(
            "[base]\ndata = {{ train = \"data.jsonl\", valid = \"data.jsonl\"{more} }}\nstudent = {{ hf = \"student\" }}\n\
             context = 64\ntokens = \"400\"\nbatch = 100\nseeds = 1\n[method.finetune]\nobjective = \"hard-ce\"\n"
        ),
    );
    lab
}

/// Sets what each file declares; `Null` removes the file, or the field of config.json's.
fn declare(lab: &Lab, tokenizer: Value, map: Value, config: Value, generation: Value) {
    let student = lab.path().join("student");
    let mut whole: Value = serde_json::from_slice(&fs::read(folder("../chat").join("config.json")).unwrap()).unwrap();
    whole["eos_token_id"] = config;
    fs::write(student.join("config.json"), whole.to_string()).unwrap();
    let files = [("tokenizer_config.json", tokenizer), ("special_tokens_map.json", map), ("generation_config.json", generation)];
    for (name, value) in files {
        match value {
            Value::Null => drop(fs::remove_file(student.join(name))),
            value => fs::write(student.join(name), value.to_string()).unwrap(),
        }
    }
}

fn resolved(lab: &Lab) -> anyhow::Result<Experiment> {
    load(&lab.path().join("e.toml"), &Options { smoke: false, tp: 1, dp: 1 })
}

/// The documents of the train split.
fn documents(lab: &Lab) -> Vec<Vec<u32>> {
    let experiment = resolved(lab).unwrap();
    let student = &experiment.students[0];
    let data = lab.path().join("tokens");
    tokens::prepare(&student.recipe.data, &student.data, &["train"], &data).unwrap();
    let split = TokenizedSplit::read(&data.join("train.tokens")).unwrap();
    (0..split.len()).map(|index| split.document(index).to_vec()).collect()
}

#[test]
fn pairs_end_with_the_end_of_turn_token() {
    for document in documents(&lab(PAIRS, "")) {
        assert_eq!(document[document.len() - 4..], [283, 289, 281, 2]);
    }
}

#[test]
fn an_answer_that_has_an_end_token_gets_no_second() {
    for end in [2, 0] {
        let row = |id: u32| json!({ id.to_string(): { "logprob": -0.25, "rank": 1 }, "262": { "logprob": -2.5, "rank": 2 } });
        let ids = [283, 289, 281, end];
        let line = json!({ "id": "a", "prompt": "<|im_start|>user<|im_end|>", "outputs": [{
            "text": "The old mill", "finish_reason": "stop", "token_ids": ids, "logprobs": ids.map(row),
        }]});
        for document in documents(&lab(&format!("{line}\n"), "")) {
            assert_eq!(document[document.len() - 5..], [2, 283, 289, 281, end]);
        }
    }
}

#[test]
fn the_majority_of_files_decides_then_their_order() {
    let lab = lab(PAIRS, "");
    let (null, turn) = (Value::Null, json!({ "eos_token": "<|im_end|>" }));
    for (tokenizer, map, config, generation, ids, from) in [
        (&null, &null, &null, &json!({ "eos_token_id": [2, 0] }), &[2, 0][..], "generation_config.json"),
        (&null, &null, &json!([0, 2]), &null, &[0, 2][..], "config.json"),
        (&null, &null, &json!(2), &json!({ "eos_token_id": 0 }), &[2, 0][..], "config.json"),
        (
            &json!({ "eos_token": { "content": "<|im_end|>", "lstrip": false } }),
            &null,
            &null,
            &null,
            &[2][..],
            "tokenizer_config.json",
        ),
        (&null, &turn, &null, &null, &[2][..], "special_tokens_map.json"),
        (&turn, &null, &json!(0), &null, &[2, 0][..], "tokenizer_config.json"),
        (&turn, &null, &json!(0), &json!({ "eos_token_id": [0] }), &[0, 2][..], "config.json, generation_config.json"),
        (
            &turn,
            &null,
            &json!(2),
            &json!({ "eos_token_id": [0, 2] }),
            &[2, 0][..],
            "tokenizer_config.json, config.json, generation_config.json",
        ),
        (&null, &null, &null, &json!({ "eos_token_id": [] }), &[0][..], "its usual name"),
        // An id that is an ordinary token here.
        (&null, &null, &json!(7), &null, &[0][..], "its usual name"),
        (&turn, &null, &json!(7), &json!({ "eos_token_id": 7 }), &[2][..], "tokenizer_config.json"),
    ] {
        declare(&lab, tokenizer.clone(), map.clone(), config.clone(), generation.clone());
        let experiment = resolved(&lab).unwrap();
        let ends = experiment.students[0].data.ends.clone().unwrap();
        assert_eq!((&ends.ids[..], &ends.from[..]), (ids, from));
        let ordinary = [config, &generation["eos_token_id"]].into_iter().filter(|said| **said == json!(7)).count();
        assert_eq!(ends.ignored.len(), ordinary, "{:?}", ends.ignored);
        // The default end token is not written into the recipe, so existing runs keep their identity.
        let recipe = serde_json::to_value(experiment.students[0].recipe.data.examples.as_ref().unwrap()).unwrap();
        assert_eq!(recipe.get("ends").cloned(), (ids != [0]).then(|| json!(ids)));
    }
}

#[test]
fn eos_token_in_the_experiment_overrides_every_file() {
    let lab = lab(PAIRS, ", eos_token = \"<|im_start|>\"");
    declare(&lab, json!({ "eos_token": "nonesuch" }), Value::Null, json!(-3), Value::Null);
    assert_eq!(resolved(&lab).unwrap().students[0].data.ends.as_ref().unwrap().ids, [1]);
    assert!(documents(&lab).iter().all(|document| document.ends_with(&[281, 1])));
}

#[test]
fn an_end_token_that_does_not_exist_is_refused() {
    let lab = lab(PAIRS, "");
    let null = Value::Null;
    let refused = |said: &str| {
        let error = resolved(&lab).unwrap_err();
        assert!(error.is::<hydrometer::UserError>() && error.to_string().contains(said), "{error}\nexpected: {said}");
    };
    for (value, said) in [
        (json!(-1), "config.json: eos_token_id is -1, not a token id"),
        (json!("2"), "config.json: eos_token_id is \"2\", not a token id"),
        (json!(2.5), "eos_token_id is 2.5, not a token id"),
        (json!(true), "eos_token_id is true, not a token id"),
        (json!([2, [0]]), "eos_token_id is [0], not a token id"),
        (json!({ "id": 2 }), "eos_token_id is {\"id\":2}, not a token id"),
        (json!(294), "eos_token_id is 294, but tokenizer.json has no token of that id"),
        (json!(u64::MAX), "eos_token_id is 18446744073709551615, but"),
    ] {
        declare(&lab, null.clone(), null.clone(), value.clone(), null.clone());
        refused(said);
        declare(&lab, null.clone(), null.clone(), null.clone(), json!({ "eos_token_id": value }));
        refused(&said.replace("config.json", "generation_config.json"));
    }
    declare(&lab, json!({ "eos_token": "nonesuch" }), null.clone(), null.clone(), null.clone());
    refused("tokenizer_config.json: eos_token is \"nonesuch\", which tokenizer.json does not have");
    declare(&lab, json!({ "eos_token": 2 }), null.clone(), null.clone(), null.clone());
    refused("tokenizer_config.json: eos_token is 2, not the text of a token");
    declare(&lab, null.clone(), json!([1]), null.clone(), null.clone());
    refused("special_tokens_map.json: expected a JSON object");
}

#[test]
fn plan_run_and_export_state_the_end_token() {
    let lab = lab(PAIRS, "");
    let output = lab.run(&["plan", "e.toml", "--output", "json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let end = &plan["ends"][0];
    assert_eq!((&end["token"], &end["id"], &end["ids"]), (&json!("<|im_end|>"), &json!(2), &json!([2, 0])));
    assert_eq!(end["from"], "tokenizer_config.json, config.json, generation_config.json");
    let words = String::from_utf8(lab.run(&["plan", "e.toml"]).stdout).unwrap();
    let line = "ends in \"<|im_end|>\" (id 2), from tokenizer_config.json, config.json, generation_config.json; an answer that ends in \
                \"<|endoftext|>\" (id 0) gets no second end";
    assert!(words.contains(line), "{words}");
    let output = lab.run(&["run", "e.toml"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains(line), "{output:?}");
    let file = lab.path().join("results/e/imports.parquet");
    assert_eq!(ends_column(&file), ["<|im_end|> <|endoftext|>"; 2]);
    let exported = lab.path().join("out");
    lab.ok(&["export", "finetune", "--out", exported.to_str().unwrap()]);
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(exported.join(name)).unwrap()).unwrap() };
    assert_eq!(read("config.json")["eos_token_id"], 2);
    assert_eq!(read("config.json")["bos_token_id"], 0);
    assert_eq!(read("generation_config.json"), json!({ "eos_token_id": [2, 0], "pad_token_id": 0, "bos_token_id": 0 }));
    assert_eq!(read("tokenizer_config.json")["eos_token"], "<|im_end|>");
}

fn ends_column(path: &Path) -> Vec<String> {
    use polars_io::SerReader;
    let frame = polars_io::prelude::ParquetReader::new(fs::File::open(path).unwrap()).finish().unwrap();
    let column = frame.column("ends").unwrap();
    column.str().unwrap().iter().map(|value| value.unwrap().to_string()).collect()
}
