//! A model as `--model` names it: a Hugging Face folder, or a finished run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hydrometer_base::fs::sha256_file;
use hydrometer_base::user_error;
use hydrometer_data::ends::{self, declared_ends};
use hydrometer_data::special::{SpecialTokenFiles, usual};
use hydrometer_torch::dist::Mesh;
use hydrometer_torch::model::variant::Positions;
use hydrometer_torch::model::{Decoder, ModelConfig, hf};
use tch::Kind;
use tokenizers::Tokenizer;

use super::finished_run::FinishedRun;
use crate::train::checkpoint;
use crate::train::recipe::TrainRecipe;

/// A model whose weights can be read.
pub struct NamedModel {
    pub config: ModelConfig,
    /// The path of its `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The folder with its chat template and the files that name its special tokens.
    pub files: Option<PathBuf>,
    weights: Weights,
}

enum Weights {
    Checkpoint(Box<hf::Checkpoint>),
    Run(Box<TrainRecipe>, PathBuf),
}

impl NamedModel {
    /// The checkpoint in the folder `name`, or the run under `runs` whose id begins with `name`.
    pub fn open(name: &Path, runs: &Path) -> Result<Self> {
        if name.join("job.json").exists() {
            let runs = name.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Self::of_run(FinishedRun::find(&name.file_name().unwrap_or_default().to_string_lossy(), runs)?);
        }
        if name.exists() {
            return Self::of_checkpoint(hf::open(name)?);
        }
        let run = name.to_str().filter(|run| !run.contains('/') && runs.is_dir());
        let run = run.ok_or_else(|| {
            let under = runs.display();
            user_error!("there is no folder {}, and no run of that name under {under}; correct --model or --runs", name.display())
        })?;
        Self::of_run(FinishedRun::find(run, runs)?)
    }

    fn of_checkpoint(checkpoint: hf::Checkpoint) -> Result<Self> {
        Ok(Self {
            config: checkpoint.config.clone(),
            tokenizer: checkpoint.tokenizer()?,
            files: Some(checkpoint.folder.clone()),
            weights: Weights::Checkpoint(Box::new(checkpoint)),
        })
    }

    fn of_run(run: FinishedRun) -> Result<Self> {
        let FinishedRun { recipe, start, data, weights, .. } = run;
        match (weights, start) {
            (Some(path), start) => Ok(Self {
                config: recipe.model.clone(),
                tokenizer: data.join("tokenizer.json"),
                files: start.filter(|folder| folder.join("config.json").exists()),
                weights: Weights::Run(recipe, path),
            }),
            (None, start) => {
                let (of, folder) = recipe.start.as_ref().zip(start).context("an unmodified checkpoint has a folder")?;
                Self::of_checkpoint(of.open(&folder)?)
            }
        }
    }

    /// What identifies its weights.
    pub fn content(&self) -> Result<String> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.content(),
            Weights::Run(_, path) => sha256_file(path),
        }
    }

    /// The ids that end a text: those that its files declare, and those that it was trained with.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut all = match &self.weights {
            Weights::Run(recipe, _) => match &recipe.data.examples {
                Some(examples) => ends::ids(tokenizer, Some(examples))?,
                None => Vec::new(),
            },
            Weights::Checkpoint(_) => Vec::new(),
        };
        let files = self.files.as_deref().map(SpecialTokenFiles::of).transpose()?.unwrap_or_default();
        let declared = declared_ends(&files, tokenizer, &mut Vec::new())?.map_or_else(|| usual(tokenizer), |(ids, _)| ids);
        all.extend(declared);
        let known = all.iter().copied().filter(|&id| (id as usize) < self.config.vocab_size);
        Ok(known.fold(Vec::new(), |mut ids, id| {
            if !ids.contains(&id) {
                ids.push(id);
            }
            ids
        }))
    }

    /// The most tokens of a sequence.
    pub fn longest_context(&self) -> usize {
        match self.config.variant.positions {
            Positions::Learned { count, .. } => count,
            Positions::Rotary => self.config.variant.trained_positions.unwrap_or(usize::MAX),
        }
    }

    /// This rank's share of the decoder, for sequences of up to `context` tokens.
    pub fn decoder(&self, context: usize, kind: Kind, mesh: &Mesh) -> Result<Decoder> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.decoder(context, kind, mesh),
            Weights::Run(_, path) => {
                let leaves = checkpoint::load_frozen(path, &self.config, kind, mesh)?;
                Ok(Decoder::new(&self.config, context, &leaves, mesh))
            }
        }
    }
}
