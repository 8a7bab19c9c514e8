//! Oracle: the fields that transformers 4.57 and 5.24 need so that neither fills in defaults of a class: the tokenizer class that reads
//! only `tokenizer.json`, and every special id, null if there is none. tests/fixtures/check_export.py loads such exports live.

use std::fs;
use std::path::Path;

use hydrometer::dist::Mesh;
use hydrometer::model::hf;
use serde_json::{Value, json};
use tch::{Device, Kind};
use tempfile::TempDir;

use super::fixtures::{CHECKPOINTS, folder};
use super::lab::Lab;

fn read(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap_or_else(|_| panic!("{name} is not there"))).unwrap()
}

fn export(from: &Path, to: &Path) {
    let mesh = Mesh::single(Device::Cpu);
    let checkpoint = hf::open(from).unwrap();
    let weights = checkpoint.weights(Kind::Float, &mesh).unwrap();
    hf::export(to, &checkpoint.config, &weights, Some(&checkpoint.tokenizer().unwrap()), u64::MAX, &mesh).unwrap();
}

fn ids(value: &Value) -> [Value; 3] {
    ["bos_token_id", "eos_token_id", "pad_token_id"].map(|field| value.get(field).unwrap_or(&json!("absent")).clone())
}

/// The fixtures' tokenizers have only `<s>` (0); the ids 1 and 2, special in Llama and OPT, are ordinary tokens here.
#[test]
fn exports_of_every_family_declare_all_special_ids_of_the_tokenizer() {
    for checkpoint in CHECKPOINTS {
        let lab = TempDir::new().unwrap();
        let (once, twice) = (lab.path().join("once"), lab.path().join("twice"));
        export(&folder(checkpoint), &once);
        let begins = ["llama", "opt-norm-before"].contains(&checkpoint) || checkpoint == "gpt2";
        // GPT-2's config.json declares its only special token as the end token as well.
        let end = if checkpoint == "gpt2" { json!(0) } else { Value::Null };
        let begin = if begins { json!(0) } else { Value::Null };
        for name in ["config.json", "generation_config.json"] {
            assert_eq!(ids(&read(&once, name)), [begin.clone(), end.clone(), Value::Null], "{checkpoint}: {name}");
        }
        let said = read(&once, "tokenizer_config.json");
        assert_eq!(said["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!(said["clean_up_tokenization_spaces"], false);
        assert_eq!(said["add_prefix_space"], false);
        assert_eq!(said["added_tokens_decoder"]["0"]["content"], "<s>");
        let token = |id: &Value| if id.is_null() { Value::Null } else { json!("<s>") };
        // A beginning token declared only in `config.json` is not put before texts.
        let put = if checkpoint == "gpt2" { Value::Null } else { token(&begin) };
        assert_eq!((&said["bos_token"], &said["eos_token"]), (&put, &token(&end)), "{checkpoint}");
        export(&once, &twice);
        for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
            assert_eq!(read(&once, name), read(&twice, name), "{checkpoint}: {name}, exported again");
        }
    }
}

#[test]
fn the_checkpoints_own_settings_are_kept() {
    let lab = TempDir::new().unwrap();
    let (from, to) = (lab.path().join("from"), lab.path().join("to"));
    fs::create_dir(&from).unwrap();
    for entry in fs::read_dir(folder("../chat")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, from.join(path.file_name().unwrap())).unwrap();
    }
    let mut tokenizer = read(&from, "tokenizer.json");
    tokenizer["pre_tokenizer"]["add_prefix_space"] = json!(true);
    let write = |name: &str, value: &Value| fs::write(from.join(name), value.to_string()).unwrap();
    write("tokenizer.json", &tokenizer);
    write(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "LlamaTokenizer", "auto_map": {}, "add_bos_token": true, "legacy": true, "model_max_length": 2048,
            "eos_token": { "content": "<|im_end|>", "lstrip": false }, "pad_token": "<|endoftext|>", "bos_token": null,
            "unk_token": "<unk>", "additional_special_tokens": ["<|im_start|>", "<|nonesuch|>"], "chat_template": "{{ messages }}",
            "clean_up_tokenization_spaces": true,
        }),
    );
    let map = json!({ "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>" });
    write("special_tokens_map.json", &map);
    write("generation_config.json", &json!({ "eos_token_id": [2, 0], "pad_token_id": 0, "temperature": 0.7, "do_sample": true }));
    let mut config = read(&from, "config.json");
    (config["eos_token_id"], config["pad_token_id"]) = (json!([2, 0]), json!(0));
    write("config.json", &config);
    fs::write(from.join("chat_template.jinja"), "{{ messages[0] }}").unwrap();
    export(&from, &to);
    assert_eq!(ids(&read(&to, "config.json")), [json!(0), json!([2, 0]), json!(0)]);
    let generation = read(&to, "generation_config.json");
    assert_eq!(ids(&generation), [json!(0), json!([2, 0]), json!(0)]);
    assert_eq!((&generation["temperature"], &generation["do_sample"]), (&json!(0.7), &json!(true)));
    let said = read(&to, "tokenizer_config.json");
    let added = said["added_tokens_decoder"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(added, ["0", "1", "2"]);
    let mut said = said.as_object().unwrap().clone();
    said.remove("added_tokens_decoder");
    // Without the class, its settings, and tokens that tokenizer.json does not have.
    assert_eq!(
        Value::Object(said),
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, "bos_token": null,
            "eos_token": { "content": "<|im_end|>", "lstrip": false }, "pad_token": "<|endoftext|>", "unk_token": null,
            "additional_special_tokens": ["<|im_start|>"], "chat_template": "{{ messages }}",
            "clean_up_tokenization_spaces": true, "add_prefix_space": true,
        })
    );
    let mapped = read(&to, "special_tokens_map.json");
    assert_eq!((&mapped["eos_token"]["content"], &mapped["pad_token"]), (&json!("<|im_end|>"), &map["pad_token"]));
    assert_eq!(fs::read_to_string(to.join("chat_template.jinja")).unwrap(), "{{ messages[0] }}");
    hf::open(&to).unwrap();
}

/// The tokenizer is trained by hydrometer: `<|begin|>` begins every text, and `<|end|>` ends examples.
#[test]
fn a_student_with_a_trained_tokenizer_declares_its_special_tokens() {
    let lab = Lab::new();
    let tiny = "student = { hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2, \
                num_key_value_heads = 1 }\ncontext = 32\ntokens = 200\nbatch = 100\nseeds = 1\n[method.finetune]\nobjective = \"hard-ce\"\n";
    let pairs = "{\"src\": \"Question?\", \"tgt\": \"The old mill\"}\n".repeat(20);
    lab.write("pairs.jsonl", &pairs);
    for (name, data, end) in
        [("text", "train.txt\", valid = \"valid.txt", Value::Null), ("pairs", "pairs.jsonl\", valid = \"pairs.jsonl", json!(1))]
    {
        lab.write(
            &format!("{name}.toml"),
            &format!("[base]\ndata = {{ train = \"{data}\", tokenizer = {{ bpe = 280 }} }}\n{tiny}"),
        );
        let file = format!("{name}.toml");
        lab.ok(&["run", &file, "--runs", name]);
        lab.ok(&["export", "finetune", "--runs", name, "--out", &format!("{name}-hf")]);
        let to = lab.path().join(format!("{name}-hf"));
        for file in ["config.json", "generation_config.json"] {
            assert_eq!(ids(&read(&to, file)), [json!(0), end.clone(), Value::Null], "{name}: {file}");
        }
        let said = read(&to, "tokenizer_config.json");
        let token = if end.is_null() { Value::Null } else { json!("<|end|>") };
        assert_eq!((&said["bos_token"], &said["eos_token"]), (&json!("<|begin|>"), &token), "{name}");
    }
}
