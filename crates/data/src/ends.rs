//! The end-of-text tokens: the one the user names; else those that the checkpoint's files name; else one with a usual name.

use std::path::Path;

use anyhow::Result;
use hydrometer_base::user_error;
use tokenizers::Tokenizer;

use super::special::{CONFIG, GENERATION_CONFIG, SpecialTokenFiles, usual};
use crate::recipe::{Ends, Eos, ExampleRecipe};

impl Ends {
    /// The ends of examples in the tokens of `tokenizer`, the file at `path`. `model` is the folder of the student's checkpoint,
    /// consulted if the files beside the tokenizer declare none. `None` if no end is known and none is needed.
    pub fn of(recipe: &ExampleRecipe, tokenizer: &Tokenizer, path: &Path, model: Option<&Path>) -> Result<Option<Self>> {
        if let Some(name) = &recipe.eos_token {
            let ids = vec![named(tokenizer, name)?];
            return Ok(Some(Self::new(ids, tokenizer, "eos_token of the data".into(), Vec::new())));
        }
        let mut ignored = Vec::new();
        let mut asked = vec![SpecialTokenFiles::beside(path)?];
        if let Some(model) = model.filter(|model| Some(*model) != path.parent()) {
            asked.push(SpecialTokenFiles::of(model)?);
        }
        for said in asked {
            if let Some((ids, from)) = declared_ends(&said, tokenizer, &mut ignored)? {
                return Ok(Some(Self::new(ids, tokenizer, from, ignored)));
            }
        }
        let usual = usual(tokenizer);
        if usual.is_empty() && recipe.eos != Eos::None {
            let why = ignored.iter().map(|clause| format!(" ({clause})")).collect::<String>();
            return Err(user_error!(
                "{}: no token is known to end a text{why}; name it with eos_token, or set eos = \"none\"",
                path.display()
            ));
        }
        let found = || Self::new(usual.clone(), tokenizer, "its usual name".into(), ignored);
        Ok((!usual.is_empty()).then(found))
    }

    fn new(ids: Vec<u32>, tokenizer: &Tokenizer, from: String, ignored: Vec<String>) -> Self {
        let tokens = ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap_or_default()).collect();
        Self { ids, tokens, from, ignored }
    }

    /// A description for a sentence.
    pub fn words(&self) -> String {
        let mut all = self.tokens.iter().zip(&self.ids).map(|(token, id)| format!("{token:?} (id {id})"));
        let first = all.next().unwrap_or_default();
        let others = all.collect::<Vec<_>>().join(", ");
        let others = if others.is_empty() { others } else { format!("; an answer that ends in {others} gets no second end") };
        let ignored: String = self.ignored.iter().map(|clause| format!("; {clause}")).collect();
        format!("{first}, from {}{others}{ignored}", self.from)
    }
}

/// The ids that end a text in examples of `recipe`, the one to append first; empty if the tokenizer has no such token.
pub fn ids(tokenizer: &Tokenizer, recipe: Option<&ExampleRecipe>) -> Result<Vec<u32>> {
    match recipe {
        Some(ExampleRecipe { eos_token: Some(name), .. }) => Ok(vec![named(tokenizer, name)?]),
        Some(ExampleRecipe { ends, .. }) if !ends.is_empty() => Ok(ends.clone()),
        _ => Ok(usual(tokenizer)),
    }
}

fn named(tokenizer: &Tokenizer, name: &str) -> Result<u32> {
    let id = tokenizer.token_to_id(name);
    id.ok_or_else(|| user_error!("the tokenizer has no token {name:?}; correct eos_token of the data"))
}

/// The ends that the files of a folder declare together, the one to append first, and the files that name that one. The id that
/// most files name wins; ties go by the order of files: those of the tokenizer, then `config.json`, then
/// `generation_config.json`.
pub fn declared_ends(
    said: &SpecialTokenFiles,
    tokenizer: &Tokenizer,
    ignored: &mut Vec<String>,
) -> Result<Option<(Vec<u32>, String)>> {
    let mut all = Vec::from_iter(said.token("eos_token", tokenizer)?);
    for file in [CONFIG, GENERATION_CONFIG] {
        let mut named = said.ids(file, "eos_token_id", tokenizer)?;
        for (id, token) in std::mem::take(&mut named.ordinary) {
            match all.first().is_some_and(|first| first.ids.contains(&id)) {
                true => named.ids.push(id),
                false => {
                    ignored.push(format!("eos_token_id {id} of {file} is {token:?}, an ordinary token, and is not followed"))
                }
            }
        }
        all.push(named);
    }
    let naming = |id: u32| all.iter().filter(move |named| named.ids.contains(&id));
    let mut ids: Vec<u32> = Vec::new();
    for &id in all.iter().flat_map(|named| &named.ids) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    // `max_by_key` returns the last maximum, so iterating in reverse yields the first.
    let Some(&end) = ids.iter().rev().max_by_key(|&&id| naming(id).count()) else { return Ok(None) };
    ids.retain(|&id| id != end);
    ids.insert(0, end);
    let files: Vec<&str> = naming(end).map(|named| named.file).collect();
    Ok(Some((ids, files.join(", "))))
}
