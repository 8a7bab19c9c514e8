//! The special tokens of an exported folder, written out so that transformers does not fill in the defaults of a tokenizer class.
//!
//! The exported tokens are those of `tokenizer.json`, whatever class the checkpoint named: the student was trained with that
//! tokenizer. Declarations in the checkpoint's files, and its chat template, are kept.

use std::fs;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::replace_bytes;
use hydrometer_base::user_error;
use hydrometer_data::ends::declared_ends;
use hydrometer_data::recipe::ExampleRecipe;
use hydrometer_data::special::{
    CONFIG, GENERATION_CONFIG, SPECIAL_TOKENS_MAP, SpecialTokenFiles, TOKENIZER_CONFIG, text_of, usual,
};
use hydrometer_data::{ends, tokenizer};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::model::variant::Family;

/// Keys of `tokenizer_config.json` that apply to any tokenizer; the others belong to a class.
const KEPT: [&str; 8] = [
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_input_names",
    "model_max_length",
    "padding_side",
    "split_special_tokens",
    "truncation_side",
    "spaces_between_special_tokens",
];
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];
const TEMPLATES: [&str; 2] = ["chat_template.jinja", "chat_template.json"];
/// The pre-tokenizer rule that transformers 5 uses for every checkpoint of the Qwen2 family, whatever its files say.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// A folder of additional templates, one file per name.
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// A tokenizer and the declarations of its special tokens.
pub struct SpecialTokens {
    tokenizer: Vec<u8>,
    /// File names and contents.
    files: Vec<(String, Vec<u8>)>,
    /// `bos_token_id`, `eos_token_id` and `pad_token_id`, for `config.json`.
    ids: [(&'static str, Value); 3],
    /// Whether the tokenizer splits text by Qwen2's rule.
    like_qwen2: bool,
}

impl SpecialTokens {
    /// The special tokens of the `tokenizer.json` at `path`. `source` is the checkpoint that the student was initialised from, if
    /// any; `examples` defines the end-of-text token that it has learned.
    pub fn of(path: &Path, source: Option<&Path>, examples: Option<&ExampleRecipe>) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error| user_error!("{}: {error}", path.display()))?;
        let opened = tokenizer::open(path)?;
        // Training is already done, so an unreadable file is treated as empty rather than as an error.
        let said = source.and_then(|folder| SpecialTokenFiles::of(folder).ok()).unwrap_or_default();
        let learned = match examples {
            Some(examples) => ends::ids(&opened, Some(examples)).unwrap_or_default(),
            None => Vec::new(),
        };
        let tokens = Tokens { said: &said, tokenizer: &opened };
        let ends = tokens.ends(&learned);
        let begin = tokens.begin();
        let mut files = vec![
            (TOKENIZER_CONFIG.to_string(), pretty(&tokens.tokenizer_config(begin, ends.first().copied()))),
            (GENERATION_CONFIG.to_string(), pretty(&tokens.generation_config(begin, &ends))),
        ];
        if !said.special_tokens_map.is_empty() {
            files.push((SPECIAL_TOKENS_MAP.to_string(), pretty(&Value::Object(tokens.roles(begin, ends.first().copied())))));
        }
        if let Some(folder) = source {
            files.extend(templates(folder));
        }
        let ids = [
            ("bos_token_id", tokens.id(CONFIG, "bos_token_id").unwrap_or(json!(begin))),
            ("eos_token_id", tokens.end_ids(CONFIG, &ends)),
            ("pad_token_id", tokens.id(CONFIG, "pad_token_id").unwrap_or(json!(tokens.role("pad_token")))),
        ];
        Ok(Self { tokenizer: bytes, files, ids, like_qwen2: tokens.like_qwen2() })
    }

    /// A warning for users of an exported folder of `family` that no file in it can express.
    pub fn warning(&self, family: Family) -> Option<&'static str> {
        (family == Family::Qwen2 && !self.like_qwen2).then_some(
            "AutoTokenizer of transformers 5 splits text by Qwen2's rule in every qwen2 checkpoint, but this tokenizer.json has another; \
             load it with PreTrainedTokenizerFast.from_pretrained",
        )
    }

    /// Adds the ids to the fields of a `config.json`.
    pub fn complete(&self, fields: &mut Value) {
        for (field, value) in &self.ids {
            fields[*field] = value.clone();
        }
    }

    /// Writes `tokenizer.json` and the files that go with it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        replace_bytes(&folder.join("tokenizer.json"), &self.tokenizer)?;
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            replace_bytes(&path, bytes)?;
        }
        Ok(())
    }
}

struct Tokens<'a> {
    said: &'a SpecialTokenFiles,
    tokenizer: &'a Tokenizer,
}

impl Tokens<'_> {
    /// The id that the files give for `role`, if the tokenizer has it.
    fn role(&self, role: &str) -> Option<u32> {
        self.said.token(role, self.tokenizer).ok().flatten().and_then(|named| named.ids.first().copied())
    }

    fn like_qwen2(&self) -> bool {
        let part = |value: serde_json::Result<Value>| value.unwrap_or_default();
        let rules = part(serde_json::to_value(self.tokenizer.get_pre_tokenizer()));
        let first = &rules["pretokenizers"][0];
        let nfc = part(serde_json::to_value(self.tokenizer.get_normalizer()))["type"] == "NFC";
        let level = &rules["pretokenizers"][1];
        let plain = level["type"] == "ByteLevel" && level["use_regex"] == false && level["add_prefix_space"] == false;
        nfc && plain && first["pattern"]["Regex"] == QWEN2 && first["behavior"] == "Isolated" && first["invert"] == false
    }

    /// The BOS token: the one the files name, else the first that the tokenizer puts before a text.
    fn begin(&self) -> Option<u32> {
        let put = || {
            let encoding = tokenizer::encode(self.tokenizer, "a", true).ok()?;
            let first = encoding.get_special_tokens_mask().first() == Some(&1);
            encoding.get_ids().first().copied().filter(|_| first)
        };
        self.role("bos_token").or_else(put)
    }

    /// The end-of-text tokens, the one that the student has learned first.
    fn ends(&self, learned: &[u32]) -> Vec<u32> {
        let said = declared_ends(self.said, self.tokenizer, &mut Vec::new()).ok().flatten().map(|(ids, _)| ids);
        let known = said.unwrap_or_else(|| usual(self.tokenizer));
        let mut all = learned.to_vec();
        all.extend(known.into_iter().filter(|id| !learned.contains(id)));
        all
    }

    /// The value of `field` in `file`, if all of its ids are special tokens; null is allowed.
    fn id(&self, file: &'static str, field: &str) -> Option<Value> {
        let map = if file == CONFIG { &self.said.config } else { &self.said.generation_config };
        let value = map.get(field)?;
        let named = self.said.ids(file, field, self.tokenizer).ok()?;
        named.ordinary.is_empty().then(|| value.clone())
    }

    /// The `eos_token_id` of `file`, if it includes the first of `ends`; else all of `ends`.
    fn end_ids(&self, file: &'static str, ends: &[u32]) -> Value {
        let has = |value: &Value, id: u32| match value {
            Value::Array(values) => values.contains(&json!(id)),
            value => *value == json!(id),
        };
        match (self.id(file, "eos_token_id"), ends) {
            (_, []) => Value::Null,
            (Some(own), [first, ..]) if has(&own, *first) => own,
            (_, [only]) => json!(only),
            (_, several) => json!(several),
        }
    }

    fn generation_config(&self, begin: Option<u32>, ends: &[u32]) -> Value {
        let mut map = self.said.generation_config.clone();
        map.insert("eos_token_id".into(), self.end_ids(GENERATION_CONFIG, ends));
        for (field, otherwise) in [("bos_token_id", json!(begin)), ("pad_token_id", json!(self.role("pad_token")))] {
            let own = self.id(GENERATION_CONFIG, field).or_else(|| self.id(CONFIG, field));
            map.insert(field.into(), own.unwrap_or(otherwise));
        }
        Value::Object(map)
    }

    /// The tokens by role: the checkpoint's, without those that the tokenizer does not have.
    fn roles(&self, begin: Option<u32>, end: Option<u32>) -> Map<String, Value> {
        let mut map = Map::new();
        let known = |value: &Value| text_of(value).is_some_and(|text| self.tokenizer.token_to_id(text).is_some());
        for role in ROLES {
            let own = [&self.said.tokenizer_config, &self.said.special_tokens_map].into_iter().find_map(|map| map.get(role));
            if let Some(value) = own.filter(|value| value.is_null() || known(value)) {
                map.insert(role.into(), value.clone());
            }
        }
        for list in LISTS {
            let own = [&self.said.tokenizer_config, &self.said.special_tokens_map].into_iter().find_map(|map| map.get(list));
            let kept = match own {
                Some(Value::Array(values)) => values.iter().filter(|value| known(value)).cloned().collect(),
                Some(Value::Object(values)) => Value::Object(
                    values.iter().filter(|(_, value)| known(value)).map(|(role, value)| (role.clone(), value.clone())).collect(),
                ),
                _ => continue,
            };
            map.insert(list.into(), kept);
        }
        let mut set = |role: &str, id: Option<u32>, replace: bool| {
            if let Some(text) = id.and_then(|id| self.tokenizer.id_to_token(id))
                && (replace || !map.contains_key(role))
            {
                map.insert(role.into(), json!(text));
            }
        };
        set("bos_token", begin, false);
        // The student may have learned another end-of-text token than its checkpoint's.
        set("eos_token", end, self.role("eos_token") != end);
        map
    }

    fn tokenizer_config(&self, begin: Option<u32>, end: Option<u32>) -> Value {
        let mut map = self.roles(begin, end);
        // If these are missing, transformers 5 gives every qwen2 checkpoint the tokens of Qwen2, as new ids if need be.
        for role in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            map.entry(role).or_insert(Value::Null);
        }
        map.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        map.insert("clean_up_tokenization_spaces".into(), json!(false));
        for key in KEPT {
            if let Some(value) = self.said.tokenizer_config.get(key).filter(|value| !value.is_null()) {
                map.insert(key.into(), value.clone());
            }
        }
        // transformers 4 overrides this setting in the pre-tokenizer, whatever tokenizer.json says.
        let rules = serde_json::to_value(self.tokenizer.get_pre_tokenizer()).unwrap_or_default();
        if let Some(prefix) = rules.get("add_prefix_space").filter(|value| value.is_boolean()) {
            map.insert("add_prefix_space".into(), prefix.clone());
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let decoder: Map<String, Value> = added
            .iter()
            .map(|(id, token)| {
                let value = json!({
                    "content": token.content,
                    "lstrip": token.lstrip,
                    "normalized": token.normalized,
                    "rstrip": token.rstrip,
                    "single_word": token.single_word,
                    "special": token.special,
                });
                (id.to_string(), value)
            })
            .collect();
        map.insert("added_tokens_decoder".into(), Value::Object(decoder));
        Value::Object(map)
    }
}

/// The chat templates in `folder` that are separate files.
fn templates(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let more = fs::read_dir(folder.join(MORE_TEMPLATES)).into_iter().flatten().flatten();
    let more = more.map(|entry| format!("{MORE_TEMPLATES}/{}", entry.file_name().to_string_lossy()));
    let mut names: Vec<String> =
        TEMPLATES.into_iter().map(str::to_string).chain(more.filter(|name| name.ends_with(".jinja"))).collect();
    names.sort();
    names.into_iter().filter_map(|name| fs::read(folder.join(&name)).ok().map(|bytes| (name, bytes))).collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
