//! Special tokens as declared by the files beside a `tokenizer.json`: `tokenizer_config.json`, `special_tokens_map.json`,
//! `config.json` and `generation_config.json`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::guard::read_file;
use hydrometer_base::user_error;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub const CONFIG: &str = "config.json";
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// The files of one folder; a missing file counts as empty.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokenFiles {
    folder: PathBuf,
    pub tokenizer_config: Map<String, Value>,
    pub special_tokens_map: Map<String, Value>,
    pub config: Map<String, Value>,
    pub generation_config: Map<String, Value>,
}

/// Token ids named by a field.
pub struct Named {
    /// Name of the file.
    pub file: &'static str,
    pub ids: Vec<u32>,
    /// Ids in the file that are ordinary tokens, with their texts: defaults that nobody has adapted to the tokenizer.
    pub ordinary: Vec<(u32, String)>,
}

impl SpecialTokenFiles {
    /// Reads the files in `folder`.
    pub fn of(folder: &Path) -> Result<Self> {
        let read = |name: &str| object(&folder.join(name));
        Ok(Self {
            folder: folder.to_path_buf(),
            tokenizer_config: read(TOKENIZER_CONFIG)?,
            special_tokens_map: read(SPECIAL_TOKENS_MAP)?,
            config: read(CONFIG)?,
            generation_config: read(GENERATION_CONFIG)?,
        })
    }

    /// Reads the files beside `path`, a `tokenizer.json`.
    pub fn beside(path: &Path) -> Result<Self> {
        Self::of(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The token that `tokenizer_config.json`, or without it `special_tokens_map.json`, gives for `role` (`eos_token`).
    pub fn token(&self, role: &str, tokenizer: &Tokenizer) -> Result<Option<Named>> {
        let sources = [(TOKENIZER_CONFIG, &self.tokenizer_config), (SPECIAL_TOKENS_MAP, &self.special_tokens_map)];
        let found = sources.into_iter().find_map(|(file, map)| Some((file, map.get(role).filter(|value| !value.is_null())?)));
        let Some((file, value)) = found else { return Ok(None) };
        let path = self.folder.join(file);
        let Some(text) = text_of(value) else {
            return Err(user_error!("{}: {role} is {value}, not the text of a token", path.display()));
        };
        match tokenizer.token_to_id(text) {
            Some(id) => Ok(Some(Named { file, ids: vec![id], ordinary: Vec::new() })),
            None => Err(user_error!(
                "{}: {role} is {text:?}, which tokenizer.json does not have; correct one of them",
                path.display()
            )),
        }
    }

    /// The ids that `config.json` or `generation_config.json` gives for `field` (`eos_token_id`): a number or a list.
    pub fn ids(&self, file: &'static str, field: &str, tokenizer: &Tokenizer) -> Result<Named> {
        let map = if file == CONFIG { &self.config } else { &self.generation_config };
        let path = self.folder.join(file);
        let values = match map.get(field) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(values)) => values,
            Some(value) => std::slice::from_ref(value),
        };
        let mut named = Named { file, ids: Vec::new(), ordinary: Vec::new() };
        for value in values {
            let Some(id) = value.as_u64() else {
                return Err(user_error!("{}: {field} is {value}, not a token id", path.display()));
            };
            let token = u32::try_from(id).ok().and_then(|id| Some((id, tokenizer.id_to_token(id)?)));
            let Some((id, token)) = token else {
                return Err(user_error!("{}: {field} is {id}, but tokenizer.json has no token of that id", path.display()));
            };
            match tokenizer.get_added_tokens_decoder().contains_key(&id) || is_usual(&token) {
                true if named.ids.contains(&id) => {}
                true => named.ids.push(id),
                false => named.ordinary.push((id, token)),
            }
        }
        Ok(named)
    }
}

/// The text of a special token: a string, or the `content` of an object.
pub fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The object in the JSON file at `path`, or an empty one if the file does not exist.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = match read_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        read => read.map_err(|error| user_error!("{}: {error}", path.display()))?,
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(user_error!("{}: expected a JSON object", path.display())),
        Err(error) => Err(user_error!("{}: {error}", path.display())),
    }
}

/// Names that tokenizers give the token that ends a text, in the order in which they are looked for.
const NAMES: [&str; 7] = ["</s>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>"];

/// The token that has a usual name: the first of them.
pub fn usual(tokenizer: &Tokenizer) -> Vec<u32> {
    NAMES.into_iter().find_map(|name| tokenizer.token_to_id(name)).into_iter().collect()
}

/// Whether `token` is a usual name.
pub fn is_usual(token: &str) -> bool {
    NAMES.contains(&token)
}
