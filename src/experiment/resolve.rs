//! From the settings that apply to a run to its recipe.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::sha256_file;
use hydrometer_base::suggest::unknown;
use hydrometer_base::suggest::unknown_key;
use hydrometer_base::text::quoted;
use hydrometer_base::user_error;
use hydrometer_data::recipe::DataFiles;
use hydrometer_data::recipe::{DataRecipe, Packing, TokenizerRecipe};
use hydrometer_data::tokenizer;
use hydrometer_torch::model::Precision;
use hydrometer_torch::model::hf;
use hydrometer_torch::objective::{Loss, Objective, TEMPERATURES, TEMPERATURES_WORDS, Tail};

use super::preset::{Model, Presets};
use super::source::{Setting, SourceSpan};
use crate::train::recipe::{EvalRecipe, OptimizerRecipe, TrainRecipe};

/// Keys of a run; every one may stand in `[base]`, in a method, on an axis of the sweep and in `[smoke]`.
pub const RUN_KEYS: [&str; 28] = [
    "data",
    "student",
    "tokens",
    "batch",
    "context",
    "packing",
    "lr",
    "beta1",
    "beta2",
    "eps",
    "weight_decay",
    "clip",
    "warmup",
    "final_lr",
    "precision",
    "seeds",
    "eval",
    "objective",
    "teacher",
    "top_k",
    "tail",
    "temperature",
    "centered",
    "mse_mean",
    "beta",
    "lambda",
    "temperature_squared",
    "on_purpose",
];
/// Keys of a teacher; what it does not say comes from the run it teaches.
pub const TEACHER_KEYS: [&str; 27] = [
    "model",
    "hf",
    "adapt",
    "tokens",
    "batch",
    "lr",
    "beta1",
    "beta2",
    "eps",
    "weight_decay",
    "clip",
    "warmup",
    "final_lr",
    "precision",
    "seed",
    "eval",
    "recorded",
    "format",
    "endpoint",
    "sent",
    "echo_rows",
    "key_env",
    "concurrency",
    "retries",
    "timeout",
    "price",
    "budget",
];

/// Of those, what says how a teacher is trained; of a checkpoint they stand in `adapt`.
pub const ADAPT_KEYS: [&str; 10] =
    ["tokens", "batch", "lr", "beta1", "beta2", "eps", "weight_decay", "clip", "warmup", "final_lr"];

/// Seeds of an arm, at most.
const SEEDS_MAX: usize = 10_000;

/// Whether `key` means anything to an arm with `objective`.
pub fn applies(key: &str, objective: &str) -> bool {
    match key {
        "teacher" | "top_k" | "lambda" => objective != "hard-ce",
        "tail" => ["soft-ce", "kl-forward"].contains(&objective),
        "temperature" | "temperature_squared" => !["hard-ce", "logit-mse"].contains(&objective),
        "centered" => objective == "logit-mse",
        "mse_mean" => ["logit-mse", "logprob-mse"].contains(&objective),
        "beta" => objective == "jsd",
        "on_purpose" => objective == "logprob-mse",
        _ => true,
    }
}

/// The seed's modes, each the objective that it was pinned to.
pub const MODES: [(&str, &str); 3] =
    [("hard_labels_distillation", "hard-ce"), ("logprobs_distillation", "soft-ce"), ("logits_distillation", "logit-mse")];

/// The objective that `setting` names, itself or by the seed's mode.
pub fn objective_name(setting: &Setting) -> Result<&str> {
    let name = setting.text("objective")?;
    if let Some((_, objective)) = MODES.iter().find(|(mode, _)| *mode == name) {
        return Ok(objective);
    }
    let known: Vec<&str> = Objective::NAMES.into_iter().chain(MODES.map(|(mode, _)| mode)).collect();
    if known.contains(&name) { Ok(name) } else { Err(user_error!("{}: {}", setting.at.0, unknown("objective", name, &known))) }
}

/// The settings that apply to one run, later ones over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Settings(pub BTreeMap<String, Setting>);

impl Settings {
    pub fn overlay(&mut self, more: impl IntoIterator<Item = (String, Setting)>) {
        self.0.extend(more);
    }

    fn get<T>(&self, key: &str, default: T, read: impl Fn(&Setting) -> Result<T>) -> Result<T> {
        self.0.get(key).map_or(Ok(default), read)
    }

    fn required(&self, key: &str, of: &SourceSpan) -> Result<&Setting> {
        self.0.get(key).ok_or_else(|| user_error!("{}: {key} is missing; set it in [base]", of.0))
    }

    /// Where `key` was written, or `otherwise`.
    pub fn place<'a>(&'a self, key: &str, otherwise: &'a SourceSpan) -> &'a SourceSpan {
        self.0.get(key).map_or(otherwise, |setting| &setting.at)
    }

    /// Seeds of the arm.
    pub fn seeds(&self) -> Result<Vec<u64>> {
        let Some(setting) = self.0.get("seeds") else { return Ok(vec![0, 1, 2]) };
        let bad = || {
            user_error!("{}: seeds must be a count of at most {SEEDS_MAX}, or a list of different whole numbers", setting.at.0)
        };
        let Some(array) = setting.value.as_array() else {
            let count = setting.whole("seeds", 1..=SEEDS_MAX as u64).map_err(|_| bad())?;
            return Ok((0..count).collect());
        };
        let seeds: Option<Vec<u64>> = array.iter().map(|v| v.as_integer().and_then(|n| u64::try_from(n).ok())).collect();
        let seeds = seeds.filter(|seeds| !seeds.is_empty()).ok_or_else(bad)?;
        let distinct: std::collections::BTreeSet<&u64> = seeds.iter().collect();
        if distinct.len() != seeds.len() { Err(bad()) } else { Ok(seeds) }
    }

    /// The name of the teacher, if any is named.
    pub fn teacher(&self) -> Result<Option<&str>> {
        self.0.get("teacher").map(|setting| setting.text("teacher")).transpose()
    }

    pub fn top_k(&self) -> Result<usize> {
        self.get("top_k", 20, |setting| Ok(setting.whole("top_k", 1..=1 << 20)? as usize))
    }

    pub fn loss(&self, of: &SourceSpan) -> Result<Loss> {
        let named = self.0.get("objective").ok_or_else(|| {
            let known = Objective::NAMES.join(", ");
            user_error!("{}: this method has no objective; add e.g. objective = \"hard-ce\" (known are {known})", of.0)
        })?;
        let flag = |key: &str| self.get(key, false, |setting| setting.flag(key));
        let (temperature, mse_mean) = (self.temperature()?, flag("mse_mean")?);
        let objective = match objective_name(named)? {
            "hard-ce" => Objective::HardCe,
            "soft-ce" => Objective::SoftCe { tail: self.tail(Tail::Raw)?, temperature },
            "kl-forward" => Objective::KlForward { tail: self.tail(Tail::Bucket)?, temperature },
            "kl-reverse" => Objective::KlReverse { temperature },
            "jsd" => Objective::Jsd { beta: self.beta()?, temperature },
            "logit-mse" => Objective::LogitMse { centered: flag("centered")?, mse_mean },
            _ if !flag("on_purpose")? => {
                let at = &named.at.0;
                return Err(user_error!(
                    "{at}: logprob-mse rarely converges; add on_purpose = true if it is what you study, or use logit-mse"
                ));
            }
            _ => Objective::LogprobMse { mse_mean, temperature },
        };
        if let Objective::KlForward { tail: Tail::Metaseq, .. } = objective {
            let at = &self.place("tail", of).0;
            return Err(user_error!("{at}: tail \"metaseq\" is the seed's soft-ce; it is no divergence, use soft-ce with it"));
        }
        Ok(Loss { objective, lambda: self.lambda()?, temperature_squared: flag("temperature_squared")? })
    }

    fn beta(&self) -> Result<f64> {
        self.get("beta", 0.5, |setting| setting.number("beta", "a number above 0 and below 1", |b| b > 0.0 && b < 1.0))
    }

    fn lambda(&self) -> Result<f64> {
        self.get("lambda", 0.0, |setting| setting.number("lambda", "a number from 0 to 1", |l| (0.0..=1.0).contains(&l)))
    }

    fn context(&self) -> Result<usize> {
        self.get("context", 256, |setting| Ok(setting.whole("context", 8..=1 << 20)? as usize))
    }

    fn packing(&self) -> Result<Packing> {
        self.get("packing", Packing::None, |setting| {
            let name = setting.text("packing")?;
            Packing::named(name).ok_or_else(|| user_error!("{}: {}", setting.at.0, unknown("packing", name, Packing::NAMES)))
        })
    }

    fn batch(&self) -> Result<u64> {
        self.get("batch", 4000, |setting| setting.tokens("batch"))
    }

    pub fn optimizer(&self) -> Result<OptimizerRecipe> {
        let number = |key: &str, default: f64, wanted: &str, ok: fn(f64) -> bool| {
            self.get(key, default, |setting| setting.number(key, wanted, ok))
        };
        let fraction = |key: &str, default: f64| number(key, default, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x));
        Ok(OptimizerRecipe {
            lr: number("lr", 1e-3, "a number above 0", |x| x > 0.0)?,
            beta1: number("beta1", 0.9, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
            beta2: number("beta2", 0.95, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
            eps: number("eps", 1e-8, "a number above 0", |x| x > 0.0)?,
            weight_decay: number("weight_decay", 0.1, "a number of at least 0", |x| x >= 0.0)?,
            clip: number("clip", 1.0, "a number of at least 0", |x| x >= 0.0)?,
            warmup: fraction("warmup", 0.05)?,
            final_lr: fraction("final_lr", 0.1)?,
        })
    }

    fn precision(&self) -> Result<Precision> {
        self.get("precision", Precision::F32, |setting| {
            let name = setting.text("precision")?;
            Precision::named(name)
                .ok_or_else(|| user_error!("{}: {}", setting.at.0, unknown("precision", name, Precision::NAMES)))
        })
    }

    fn eval(&self, tokens: u64) -> Result<EvalRecipe> {
        let mut eval = EvalRecipe { every: tokens.div_ceil(5).max(1), on: "valid".into() };
        let Some(setting) = self.0.get("eval") else { return Ok(eval) };
        for (field, found) in setting.fields("eval")? {
            match field.as_str() {
                "every" => eval.every = found.tokens("eval.every")?,
                "on" => eval.on = found.text("eval.on")?.to_string(),
                _ => return Err(user_error!("{}: {}", found.at.0, unknown_key(&field, "eval", &["every", "on"]))),
            }
        }
        if !["valid", "test"].contains(&eval.on.as_str()) {
            let at = &setting.at.0;
            return Err(user_error!(
                "{at}: eval.on must be a held-out split of the data (valid or test), not {}",
                quoted(&eval.on)
            ));
        }
        Ok(eval)
    }

    /// Whether every value can be read, even where no run would: a mistake in `[smoke]` shows without `--smoke`.
    pub fn check(&self) -> Result<()> {
        self.seeds()?;
        self.teacher()?;
        self.top_k()?;
        self.context()?;
        self.packing()?;
        self.batch()?;
        self.optimizer()?;
        self.precision()?;
        self.eval(1)?;
        for key in ["tokens", "teacher_tokens"] {
            self.get(key, 0, |setting| setting.tokens(key))?;
        }
        self.0.get("seed").map(|setting| setting.whole("seed", 0..=i64::MAX as u64)).transpose()?;
        if let Some(named) = self.0.get("objective") {
            objective_name(named)?;
        }
        if let Some(adapt) = self.0.get("adapt") {
            let fields = adapt.fields("adapt")?;
            if let Some((field, found)) = fields.iter().find(|(field, _)| !ADAPT_KEYS.contains(&field.as_str())) {
                return Err(user_error!("{}: {}", found.at.0, unknown_key(field, "adapt", &ADAPT_KEYS)));
            }
            Settings(fields.into_iter().collect()).check()?;
        }
        self.tail(Tail::Raw)?;
        self.temperature()?;
        self.beta()?;
        self.lambda()?;
        for key in ["centered", "mse_mean", "temperature_squared", "on_purpose"] {
            self.get(key, false, |setting| setting.flag(key))?;
        }
        Ok(())
    }

    fn tail(&self, default: Tail) -> Result<Tail> {
        self.get("tail", default, |setting| {
            let name = setting.text("tail")?;
            let found = Tail::ALL.into_iter().find(|tail| tail.name() == name);
            found.ok_or_else(|| user_error!("{}: {}", setting.at.0, unknown("tail", name, &Tail::ALL.map(Tail::name))))
        })
    }

    fn temperature(&self) -> Result<f64> {
        self.get("temperature", 1.0, |setting| setting.number("temperature", TEMPERATURES_WORDS, |t| TEMPERATURES.contains(&t)))
    }

    /// What a run reads whose model stands under `model_key`: in that model's tokens, where it is a checkpoint and the data name
    /// no others.
    pub fn reading(&self, model_key: &str, of: &SourceSpan, presets: &Presets) -> Result<ResolvedData> {
        let folder = presets.checkpoint(self.required(model_key, of)?, model_key)?;
        let tokenizer = folder.map(|folder| folder.join("tokenizer.json")).filter(|path| path.exists());
        let (name, data, files) = presets.data(self.required("data", of)?, self.context()?, tokenizer.as_deref())?;
        Ok(ResolvedData { name, data: DataRecipe { packing: self.packing()?, ..data }, files })
    }

    /// The recipe, less teacher, of a run on what is read whose model stands under `model_key`; of no tokens where nothing is
    /// trained. And the model.
    pub fn recipe(
        &self,
        model_key: &str,
        loss: Loss,
        seed: u64,
        revision: &str,
        of: &SourceSpan,
        presets: &Presets,
        read: &ResolvedData,
        trained: bool,
    ) -> Result<(TrainRecipe, Model)> {
        let ResolvedData { data, files, .. } = read;
        let model = presets.model(self.required(model_key, of)?, model_key, data.tokenizer.vocab_size())?;
        if let Some((_, folder)) = &model.start {
            read_alike(folder, read).map_err(|why| user_error!("{}: {why}", self.place(model_key, of).0))?;
        }
        let tokens = if trained { self.required("tokens", of)?.tokens("tokens")? } else { 0 };
        let (optimizer, precision, batch) = (self.optimizer()?, self.precision()?, self.batch()?);
        let eval = self.eval(tokens)?;
        if !files.splits.contains_key(&eval.on) && !files.splits.contains_key("all") {
            let at = &self.place("data", of).0;
            let on = &eval.on;
            return Err(user_error!(
                "{at}: the data has no {on} split to evaluate on; add {on}, or give a single path to be split"
            ));
        }
        let recipe = TrainRecipe {
            data: data.clone(),
            model: model.config.clone(),
            start: model.start.as_ref().map(|(start, _)| start.clone()),
            loss,
            teacher: None,
            tokens,
            batch,
            optimizer,
            seed,
            precision,
            eval,
            revision: revision.to_string(),
        };
        Ok((recipe, model))
    }
}

/// Whether the checkpoint in `folder` knows the tokens that `read` is in; else why not, as a clause.
fn read_alike(folder: &Path, read: &ResolvedData) -> std::result::Result<(), String> {
    let path = folder.join("tokenizer.json");
    let shown = path.display();
    let own = |error: anyhow::Error| error.to_string();
    let size = hf::open(folder).map_err(own)?.config.vocab_size;
    let (TokenizerRecipe::File { sha256, .. }, Some(data)) = (&read.data.tokenizer, &read.files.tokenizer) else {
        return Err(format!(
            "the checkpoint reads tokens of its own, but the data's are trained here; say tokenizer = {shown:?} in data"
        ));
    };
    let asked = read.data.tokenizer.vocab_size();
    if asked > size && tokenizer::ordinary_ids(&tokenizer::open(data).map_err(own)?) > size {
        return Err(format!("the data has {asked} token ids, the checkpoint {size}; say tokenizer = {shown:?} in data"));
    }
    if !path.exists() || sha256_file(&path).map_err(own)? == *sha256 {
        return Ok(());
    }
    let (theirs, mine) = (tokenizer::open(&path).map_err(own)?, tokenizer::open(data).map_err(own)?);
    let different = tokenizer::differences(&mine, &theirs);
    if different.is_empty() {
        return Ok(());
    }
    let of = |token: &Option<String>| token.as_ref().map_or("nothing".to_string(), |token| format!("{token:?}"));
    let some: Vec<String> = different.iter().take(3).map(|(id, a, b)| format!("{id} is {} and {}", of(a), of(b))).collect();
    let (count, data) = (different.len(), data.display());
    Err(format!("{data} and {shown} differ in {count} tokens ({}); use one tokenizer for both", some.join(", ")))
}

/// What a run reads.
#[derive(Clone, Debug)]
pub struct ResolvedData {
    /// For people.
    pub name: String,
    pub data: DataRecipe,
    pub files: DataFiles,
}
