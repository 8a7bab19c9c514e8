//! Turns the settings of a run into its recipe.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::fs::sha256_file;
use hydrometer_base::user_error;
use hydrometer_data::recipe::{DataFiles, DataRecipe, Packing, TokenizerRecipe};
use hydrometer_data::tokenizer;
use hydrometer_torch::model::{Precision, hf};
use hydrometer_torch::objective::Loss;

use super::Options;
use super::keys::{self, Key, Settings};
use super::preset::{Model, Presets};
use super::source::SourceSpan;
use crate::train::recipe::{EvalRecipe, OptimizerRecipe, TrainRecipe};

impl Settings {
    fn context(&self) -> Result<usize> {
        Ok(self.whole(&keys::CONTEXT)? as usize)
    }

    pub fn optimizer(&self) -> Result<OptimizerRecipe> {
        Ok(OptimizerRecipe {
            lr: self.number(&keys::LR)?,
            beta1: self.number(&keys::BETA1)?,
            beta2: self.number(&keys::BETA2)?,
            eps: self.number(&keys::EPS)?,
            weight_decay: self.number(&keys::WEIGHT_DECAY)?,
            clip: self.number(&keys::CLIP)?,
            warmup: self.number(&keys::WARMUP)?,
            final_lr: self.number(&keys::FINAL_LR)?,
        })
    }

    fn eval(&self, tokens: u64) -> Result<EvalRecipe> {
        let fields = self.fields(&keys::EVAL)?;
        let every = fields.get(&keys::EVAL_EVERY).map(|setting| keys::EVAL_EVERY.tokens(setting)).transpose()?;
        let on = fields.held_out_split(&keys::EVAL_ON)?.to_string();
        Ok(EvalRecipe { every: every.unwrap_or(tokens.div_ceil(5).max(1)), on })
    }

    /// The data of a run whose model is under `model_key`. If the model is a checkpoint and the data name no tokenizer, the
    /// checkpoint's tokenizer is used.
    pub fn resolve_data(&self, model_key: &Key, of: &SourceSpan, presets: &Presets) -> Result<ResolvedData> {
        let folder = presets.checkpoint(self.required(model_key, of)?, model_key.name)?;
        let tokenizer = folder.map(|folder| folder.join("tokenizer.json")).filter(|path| path.exists());
        let (name, data, files) = presets.data(self.required(&keys::DATA, of)?, self.context()?, tokenizer.as_deref())?;
        Ok(ResolvedData { name, data: DataRecipe { packing: self.choice(&keys::PACKING, Packing::named)?, ..data }, files })
    }

    /// The recipe, without a teacher, of a run on the data `read` with the model under `model_key`; and that model. Without
    /// `trained` its number of tokens is 0.
    #[expect(clippy::too_many_arguments, reason = "students and teachers differ in each of them")]
    pub fn recipe(
        &self,
        model_key: &Key,
        loss: Loss,
        seed: u64,
        revision: &str,
        of: &SourceSpan,
        presets: &Presets,
        read: &ResolvedData,
        trained: bool,
    ) -> Result<(TrainRecipe, Model)> {
        let ResolvedData { data, files, .. } = read;
        let model = presets.model(self.required(model_key, of)?, model_key.name, data.tokenizer.vocab_size())?;
        if let Some((_, folder)) = &model.start {
            check_tokenizer(folder, read).map_err(|why| user_error!("{}: {why}", self.place(model_key, of).0))?;
        }
        let tokens = if trained { keys::TOKENS.tokens(self.required(&keys::TOKENS, of)?)? } else { 0 };
        let (optimizer, batch) = (self.optimizer()?, self.tokens(&keys::BATCH)?);
        let precision = self.choice(&keys::PRECISION, Precision::named)?;
        let eval = self.eval(tokens)?;
        if !files.splits.contains_key(&eval.on) && !files.splits.contains_key("all") {
            let at = &self.place(&keys::DATA, of).0;
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

/// Checks that involve more than one setting.
pub fn check(recipe: &TrainRecipe, settings: &Settings, at: &SourceSpan, model_key: &Key, options: &Options) -> Result<()> {
    let Options { tp, dp, .. } = *options;
    if !recipe.batch.is_multiple_of(dp as u64) {
        let place = settings.place(&keys::BATCH, at);
        return Err(user_error!("{}: batch {} does not divide over dp = {dp}", place.0, recipe.batch));
    }
    let checked = recipe.model.check(tp).and_then(|()| recipe.model.check_context(recipe.data.context));
    checked.map_err(|why| user_error!("{}: {}: {why}", settings.place(model_key, at).0, model_key.name))?;
    Ok(())
}

/// Checks that the checkpoint in `folder` has the tokens of `read`. The error is a clause that says why not.
fn check_tokenizer(folder: &Path, read: &ResolvedData) -> std::result::Result<(), String> {
    let path = folder.join("tokenizer.json");
    let shown = path.display();
    let own = |error: anyhow::Error| error.to_string();
    let size = hf::open(folder).map_err(own)?.config.vocab_size;
    let (TokenizerRecipe::File { sha256, .. }, Some(data)) = (&read.data.tokenizer, &read.files.tokenizer) else {
        return Err(format!(
            "the checkpoint has its own tokenizer, but the data's is trained here; set tokenizer = {shown:?} in data"
        ));
    };
    let asked = read.data.tokenizer.vocab_size();
    if asked > size && tokenizer::ordinary_ids(&tokenizer::open(data).map_err(own)?) > size {
        return Err(format!("the data has {asked} token ids, the checkpoint {size}; set tokenizer = {shown:?} in data"));
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

/// The data of a run.
#[derive(Clone, Debug)]
pub struct ResolvedData {
    /// For display.
    pub name: String,
    pub data: DataRecipe,
    pub files: DataFiles,
}
