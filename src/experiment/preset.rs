//! Models and data by name, from `presets/*.toml`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydrometer_base::fs::{sha256_file, sha256_hex};
use hydrometer_base::suggest::unknown;
use hydrometer_base::user_error;
use hydrometer_data::cure::Says;
use hydrometer_data::format::{Format, Keys};
use hydrometer_data::line_error::OnBadLine;
use hydrometer_data::lines::reason;
use hydrometer_data::recipe::{DataFiles, DataRecipe, Ends, Eos, ExampleRecipe, Input, Packing, TokenizerRecipe, Truncation};
use hydrometer_data::survey::{Survey, Wanted, files};
use hydrometer_data::{special, tokenizer};
use hydrometer_torch::model::{ModelConfig, Variant, hf};

use super::keys::{self, Key, Place, Settings};
use super::source::{Setting, Source};
use crate::teacher::recipe::RecordedRecipe;
use crate::train::recipe::StartRecipe;

/// A resolved model.
#[derive(Clone, Debug)]
pub struct Model {
    /// For display.
    pub name: String,
    pub config: ModelConfig,
    /// The checkpoint that it starts from, and its folder.
    pub start: Option<(StartRecipe, PathBuf)>,
}

/// Resolves the names and tables of one experiment file. Results are cached, because a sweep asks for the same ones many
/// times.
pub struct Presets {
    /// Where relative paths start.
    folder: PathBuf,
    models: RefCell<BTreeMap<(String, usize), Model>>,
    data: RefCell<BTreeMap<String, (String, DataRecipe, DataFiles)>>,
    /// Content hashes of files of recorded logprobs.
    hashes: RefCell<BTreeMap<String, String>>,
}

impl Presets {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), models: RefCell::default(), data: RefCell::default(), hashes: RefCell::default() }
    }

    /// The decoder that `setting` names or describes, for `vocab_size` ids.
    pub fn model(&self, setting: &Setting, key: &str, vocab_size: usize) -> Result<Model> {
        let asked = (format!("{key} {}", setting.value.to_string().trim()), vocab_size);
        if let Some(known) = self.models.borrow().get(&asked) {
            return Ok(known.clone());
        }
        let found = model(setting, key, vocab_size, &self.folder)?;
        self.models.borrow_mut().insert(asked, found.clone());
        Ok(found)
    }

    /// The folder of the checkpoint that `setting` names, if it names one.
    pub fn checkpoint(&self, setting: &Setting, key: &str) -> Result<Option<PathBuf>> {
        let (_, settings, base) = resolve(setting, key, "models.toml", &self.folder)?;
        let found = settings.iter().find(|(field, _)| field == "hf");
        found.map(|(_, hf)| folder_of(hf, &base)).transpose()
    }

    /// The name, recipe and files of the data that `setting` names or describes, cut at `context`. `tokenizer` is the default if
    /// the data name none.
    pub fn data(&self, setting: &Setting, context: usize, tokenizer: Option<&Path>) -> Result<(String, DataRecipe, DataFiles)> {
        let asked = format!("{} {tokenizer:?}", setting.value.to_string().trim());
        let known = self.data.borrow().get(&asked).cloned();
        let (name, recipe, files) = match known {
            Some(known) => known,
            None => self.data.borrow_mut().entry(asked).or_insert(data(setting, context, tokenizer, &self.folder)?).clone(),
        };
        Ok((name, DataRecipe { context, ..recipe }, files))
    }
}

impl Presets {
    /// The recorded logprobs that `recorded` names, for students that train on `data`, and their path. The format is that of
    /// `named`, or detected from the lines.
    pub fn recording(&self, recorded: &Setting, named: Option<&Setting>, data: &DataRecipe) -> Result<(RecordedRecipe, PathBuf)> {
        let path = locate("recorded", recorded, &self.folder, "file of recorded logprobs")?;
        let settings = [(&keys::RECORDED, Some(recorded)), (&keys::DATA_FORMAT, named)];
        let map = settings.into_iter().filter_map(|(key, setting)| Some((key.name.to_string(), setting?.clone()))).collect();
        let format = format(&map, &[("recorded".to_string(), path.clone())].into())?;
        if !format.has_answers() {
            let (at, name) = (&named.unwrap_or(recorded).at.0, format.name());
            return Err(user_error!("{at}: {} is of format {name:?}, which holds no logprobs of a teacher", path.display()));
        }
        let asked = path.display().to_string();
        let known = self.hashes.borrow().get(&asked).cloned();
        let content = known.map_or_else(|| content_hash(&path), Ok)?;
        self.hashes.borrow_mut().insert(asked, content.clone());
        if data.examples.is_none() && format != Format::Vllm {
            let (at, name) = (&recorded.at.0, format.name());
            return Err(user_error!(
                "{at}: logprobs of format {name:?} need prompts, which plain documents do not have; set the format of the data"
            ));
        }
        Ok((RecordedRecipe { content, format }, path))
    }
}

fn locate(field: &str, found: &Setting, base: &Path, what: &str) -> Result<PathBuf> {
    let given = Path::new(found.text(field)?);
    for path in [base.join(given), given.to_path_buf()] {
        match path.try_exists() {
            Ok(true) => return Ok(path),
            Ok(false) => {}
            // An unreadable parent folder does not mean that the file is missing.
            Err(error) => return Err(user_error!("{}: {}: {}", found.at.0, path.display(), reason(&error))),
        }
    }
    Err(user_error!("{}: no {what} at {}; check {field}", found.at.0, base.join(given).display()))
}

/// Keys of a table with their values, in the order of the file.
type Fields = Vec<(String, Setting)>;

/// The name and settings of the preset that `setting` names, or those of its inline table, and the folder that relative paths in
/// them start from.
fn resolve(setting: &Setting, key: &str, file: &str, folder: &Path) -> Result<(String, Fields, PathBuf)> {
    let Some(name) = setting.value.as_str() else { return Ok((key.into(), setting.fields(key)?, folder.to_path_buf())) };
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let candidates = std::iter::once(absolute.join("presets")).chain(absolute.ancestors().map(|a| a.join("experiments/presets")));
    let Some(path) = candidates.map(|candidate| candidate.join(file)).find(|path| path.exists()) else {
        let at = &setting.at.0;
        return Err(user_error!("{at}: {key} {name:?} is a preset, but there is no presets/{file} beside the experiment file"));
    };
    let source = Source::read(&path, "presets")?;
    let document = source.parse()?;
    let known: Vec<&str> = document.as_table().iter().map(|(name, _)| name).collect();
    let Some(table) = document.get(name).and_then(|item| item.as_table_like()) else {
        return Err(user_error!("{}: {}", setting.at.0, unknown(&format!("{key} preset"), name, &known)));
    };
    let base = path.parent().unwrap_or(Path::new(".")).to_path_buf();
    Ok((name.to_string(), source.settings(table)?, base))
}

/// `settings` by name. An error if one is not a key of `place`.
fn known(settings: Vec<(String, Setting)>, place: Place, within: &str) -> Result<Settings> {
    match settings.iter().find(|(field, _)| keys::find(place, field).is_none()) {
        Some((field, found)) => Err(user_error!("{}: {}", found.at.0, keys::unknown_in(place, field, within))),
        None => Ok(settings.into_iter().collect()),
    }
}

fn model(setting: &Setting, key: &str, vocab_size: usize, folder: &Path) -> Result<Model> {
    let (name, settings, base) = resolve(setting, key, "models.toml", folder)?;
    let map = known(settings, Place::Model, key)?;
    if let Some(hf) = map.get(&keys::HF) {
        return checkpoint(setting, key, name, hf, &map, &base);
    }
    if let Some(layers) = map.get(&keys::LAYERS) {
        return Err(user_error!("{}: layers selects blocks of a checkpoint; add hf, or set num_hidden_layers", layers.at.0));
    }
    let count = |field: &Key| -> Result<usize> {
        let missing = || user_error!("{}: {key} {name:?} lacks {}", setting.at.0, field.name);
        Ok(field.whole(map.get(field).ok_or_else(missing)?)? as usize)
    };
    let config = ModelConfig {
        vocab_size,
        hidden_size: count(&keys::HIDDEN_SIZE)?,
        intermediate_size: count(&keys::INTERMEDIATE_SIZE)?,
        num_hidden_layers: count(&keys::NUM_HIDDEN_LAYERS)?,
        num_attention_heads: count(&keys::NUM_ATTENTION_HEADS)?,
        num_key_value_heads: count(&keys::NUM_KEY_VALUE_HEADS)?,
        rope_theta: map.number(&keys::ROPE_THETA)?,
        rms_norm_eps: map.number(&keys::RMS_NORM_EPS)?,
        initializer_range: map.number(&keys::INITIALIZER_RANGE)?,
        variant: Variant::default(),
    };
    Ok(Model { name, config, start: None })
}

fn folder_of(hf: &Setting, base: &Path) -> Result<PathBuf> {
    let given = Path::new(keys::HF.text(hf)?);
    let found = [base.join(given), given.to_path_buf()].into_iter().find(|path| path.join("config.json").exists());
    found.ok_or_else(|| {
        let at = &hf.at.0;
        user_error!(
            "{at}: no checkpoint at {}: a folder with config.json, safetensors and tokenizer.json",
            base.join(given).display()
        )
    })
}

fn checkpoint(setting: &Setting, key: &str, name: String, hf: &Setting, map: &Settings, base: &Path) -> Result<Model> {
    let own = [keys::HF.name, keys::LAYERS.name];
    if let Some((field, found)) = map.0.iter().find(|(field, _)| !own.contains(&field.as_str())) {
        return Err(user_error!("{}: {field} is determined by the checkpoint; remove it, or remove hf", found.at.0));
    }
    let folder = folder_of(hf, base)?;
    let whole = hf::open(&folder)?;
    let content = whole.content()?;
    let layers = map.get(&keys::LAYERS).map(|found| layers(found, whole.config.num_hidden_layers)).transpose()?;
    let start = StartRecipe { content, layers };
    let config = start.open(&folder)?.config;
    // An inline table has no name; use the folder's.
    let own = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = if setting.value.is_str() { name } else { own.unwrap_or_else(|| key.to_string()) };
    let name = start.layers.as_ref().map_or(name.clone(), |layers| format!("{name}, {} layers", layers.len()));
    Ok(Model { name, config, start: Some((start, folder)) })
}

fn layers(found: &Setting, count: usize) -> Result<Vec<usize>> {
    let wrong = || user_error!("{}: layers must be a list of different numbers from 0 to {}, in order", found.at.0, count - 1);
    let array = found.value.as_array().ok_or_else(wrong)?;
    let all: Option<Vec<usize>> = array.iter().map(|layer| usize::try_from(layer.as_integer()?).ok()).collect();
    let all = all.filter(|all| !all.is_empty() && all.is_sorted_by(|a, b| a < b) && all.iter().all(|&layer| layer < count));
    all.ok_or_else(wrong)
}

fn data(setting: &Setting, context: usize, tokenizer: Option<&Path>, folder: &Path) -> Result<(String, DataRecipe, DataFiles)> {
    let (name, settings, base) = resolve(setting, "data", "data.toml", folder)?;
    let map = known(settings, Place::Data, "data")?;
    let locate = |field: &str, found: &Setting| {
        let what = if field == "tokenizer" { "tokenizer" } else { "corpus file" };
        locate(field, found, &base, what)
    };
    let mut splits = BTreeMap::new();
    let files =
        [(&keys::DATA_PATH, "all"), (&keys::DATA_TRAIN, "train"), (&keys::DATA_VALID, "valid"), (&keys::DATA_TEST, "test")];
    for (key, split) in files {
        if let Some(found) = map.get(key) {
            splits.insert(split.to_string(), locate(key.name, found)?);
        }
    }
    if !splits.contains_key("train") && !splits.contains_key("all") {
        return Err(user_error!("{}: data needs a path, or train and valid files", setting.at.0));
    }
    if let (true, Some(split)) = (splits.contains_key("all"), splits.keys().find(|split| *split != "all")) {
        return Err(user_error!("{}: data has both a path and a {split} file; keep one", setting.at.0));
    }
    if let Some(all) = splits.get("all").filter(|path| path.join("train").is_dir()).cloned() {
        // A folder with one subfolder per split, as in metaseq.
        let folders = ["train", "valid", "test"].map(|split| (split.to_string(), all.join(split)));
        splits = folders.into_iter().filter(|(_, folder)| folder.is_dir()).collect();
    }
    let format = format(&map, &splits)?;
    let mut examples = examples(&map, format)?;
    let mut ends = None;
    let keys = line_keys(&map)?;
    let on_bad_line = map.choice(&keys::ON_BAD_LINE, OnBadLine::named)?;
    let content = splits.iter().map(|(split, path)| Ok((split.clone(), content_hash(path)?))).collect::<Result<_>>()?;
    let mut of_file = |path: PathBuf| -> Result<(TokenizerRecipe, Option<PathBuf>)> {
        let opened = tokenizer::open(&path)?;
        let vocab_size = tokenizer::vocab_size(&opened);
        if vocab_size == 0 {
            return Err(user_error!("{}: {} has an empty vocabulary", setting.at.0, path.display()));
        }
        if let Some(recipe) = &mut examples {
            ends = Ends::of(recipe, &opened, &path, tokenizer.and_then(Path::parent))?;
            let said = ends.as_ref().filter(|_| recipe.eos_token.is_none()).map(|ends| ends.ids.clone()).unwrap_or_default();
            // Left empty for the token of a usual name, so that the identities of earlier runs do not change.
            recipe.ends = if said == special::usual(&opened) { Vec::new() } else { said };
        }
        Ok((TokenizerRecipe::File { sha256: sha256_file(&path)?, vocab_size }, Some(path)))
    };
    let (tokenizer, file) = match (map.get(&keys::TOKENIZER), tokenizer) {
        (None, Some(path)) => of_file(path.to_path_buf())?,
        (Some(found), _) if found.value.is_str() => of_file(locate("tokenizer", found)?)?,
        _ => match &map.or_default(&keys::TOKENIZER).fields("tokenizer")?[..] {
            [(field, size)] if field == "bpe" => {
                // The 256 bytes and the token that begins a document.
                let vocab_size = size.whole("bpe", 257..=keys::MODEL_MAX)? as usize;
                (TokenizerRecipe::Bpe { vocab_size }, None)
            }
            _ => {
                return Err(user_error!(
                    "{}: tokenizer must be {{ bpe = SIZE }} or a tokenizer.json",
                    map.place(&keys::TOKENIZER, &setting.at).0
                ));
            }
        },
    };
    if let (None, Some(ExampleRecipe { eos_token: None, .. })) = (&file, &examples) {
        ends = Some(tokenizer::own_end());
    }
    let files = DataFiles { splits, tokenizer: file, format, keys, on_bad_line, ends };
    Ok((name, DataRecipe { content, tokenizer, context, examples, packing: Packing::None }, files))
}

/// The format that is named, or detected from the files. An error if a file has another format.
fn format(map: &Settings, splits: &BTreeMap<String, PathBuf>) -> Result<Format> {
    let wanted = match map.get(&keys::DATA_FORMAT) {
        None => Wanted::Any,
        Some(found) => Wanted::Named(keys::DATA_FORMAT.choice(found, Format::named)?),
    };
    let mut first: Option<(Format, &Path)> = None;
    for (split, path) in splits {
        let survey = Survey::of(path, wanted, Says::Keys).map_err(|error| {
            match map.0.get(split).or_else(|| map.get(&keys::DATA_PATH)) {
                Some(found) => user_error!("{}: {error:#}", found.at.0),
                None => error,
            }
        })?;
        let found = survey.format;
        first = match first {
            None => Some((found, path)),
            Some((known, at)) if known == found => Some((known, at)),
            // Both are plain documents; the format `text` also reads JSON lines with a text.
            Some((known, at)) if known.is_plain() && found.is_plain() => Some((Format::Text, at)),
            Some((known, at)) => {
                let (known, found, path, at) = (known.name(), found.name(), path.display(), at.display());
                return Err(user_error!("{path} is of format {found:?}, but {at} of {known:?}; name the format of the data"));
            }
        };
    }
    Ok(first.map_or(Format::Text, |(format, _)| format))
}

/// The keys of a line's texts.
fn line_keys(map: &Settings) -> Result<Keys> {
    let text = |key: &Key| map.text(key).map(|text| text.map(str::to_string));
    Ok(Keys { source: text(&keys::SOURCE_KEY)?, target: text(&keys::TARGET_KEY)? })
}

/// How lines become examples; `None` for plain documents.
fn examples(map: &Settings, format: Format) -> Result<Option<ExampleRecipe>> {
    if format.is_plain() {
        let stray = keys::keys_of(Place::Examples).find_map(|key| Some((key.name, map.get(key)?)));
        return match stray {
            Some((key, found)) => {
                let (at, format) = (&found.at.0, format.name());
                Err(user_error!("{at}: {key} does not apply to data of format {format:?}, plain documents; remove it"))
            }
            None => Ok(None),
        };
    }
    Ok(Some(ExampleRecipe {
        format,
        keys: line_keys(map)?,
        prompt_eos: map.text(&keys::PROMPT_EOS)?.unwrap_or_default().to_string(),
        truncation: map.choice(&keys::TRUNCATION, Truncation::named)?,
        target_budget: map.number(&keys::TARGET_BUDGET)?,
        eos: map.choice(&keys::EOS, Eos::named)?,
        eos_token: map.text(&keys::EOS_TOKEN)?.map(str::to_string),
        ends: Vec::new(),
        input: map.choice(&keys::INPUT, Input::named)?,
    }))
}

/// SHA-256 of a file, or over the names and hashes of the files under a folder.
fn content_hash(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return sha256_file(path);
    }
    let mut list = String::new();
    for file in files(path)? {
        list += &format!("{} {}\n", sha256_file(&file)?, file.strip_prefix(path).unwrap_or(&file).display());
    }
    Ok(sha256_hex(list.as_bytes()))
}
