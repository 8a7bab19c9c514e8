//! `hydrometer why`: shows why a run differs from the existing ones.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hydrometer_base::user_error;
use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::{Output, terminal};
use crate::experiment::{Options, load};
use crate::say;
use crate::sweep::recipe_diff::{nearest, recipes};

#[derive(Args, Debug)]
pub struct Why {
    /// A run id, or its beginning.
    run: String,
    /// The experiment file that plans the run, if it has not been started.
    experiment: Option<PathBuf>,
    /// Use the experiment's `[smoke]` tier.
    #[arg(long)]
    smoke: bool,
    /// Where journals, checkpoints and caches are stored.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

impl Why {
    pub fn why(&self, output: Output) -> Result<ExitCode> {
        let stored = recipes(&self.runs)?;
        let (run, recipe) = self.find(stored.iter().map(|(run, recipe)| (run.clone(), recipe.clone())).collect())?;
        let Some((other, found)) = nearest(&run, &recipe, &stored) else {
            return Err(user_error!("{}: there is no other run to compare {run} with", self.runs.display()));
        };
        if output == Output::Json {
            terminal::json(&json!({ "run": run, "nearest": other, "differences": found }));
            return Ok(ExitCode::SUCCESS);
        }
        let shown = |value: &Option<Value>| match value {
            None => "–".to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let mut table = Builder::default();
        table.push_record(["field", &run, other]);
        for difference in &found {
            table.push_record([difference.field.clone(), shown(&difference.mine), shown(&difference.theirs)]);
        }
        terminal::block(&table.build().with(Style::sharp()).to_string());
        say!("{run} differs from {other}, the nearest run, in {} fields of its recipe", found.len());
        Ok(ExitCode::SUCCESS)
    }

    /// Finds the run among those of the experiment, if one is given, or else among the `stored` ones.
    fn find(&self, stored: Vec<(String, Value)>) -> Result<(String, Value)> {
        let all = match &self.experiment {
            None => stored,
            Some(path) => {
                let experiment = load(path, &Options { smoke: self.smoke, tp: 1, dp: 1 })?;
                let students = experiment.students.iter().map(|student| (student.run.to_string(), &student.recipe));
                let teachers = experiment.teachers.iter().map(|teacher| (teacher.run.to_string(), &teacher.recipe));
                students.chain(teachers).map(|(run, recipe)| Ok((run, serde_json::to_value(recipe)?))).collect::<Result<_>>()?
            }
        };
        let meant: Vec<&(String, Value)> = match all.iter().find(|(run, _)| *run == self.run) {
            Some(exact) => vec![exact],
            None => all.iter().filter(|(run, _)| run.starts_with(&self.run)).collect(),
        };
        match (meant[..].first(), meant.len(), &self.experiment) {
            (Some(only), 1, _) => Ok((*only).clone()),
            (Some(first), n, _) => {
                Err(user_error!("{}: the ids of {n} runs begin with it, {} among them; give more of the id", self.run, first.0))
            }
            (None, _, Some(path)) => {
                Err(user_error!("{}: no run id of {} begins with it; see `hydrometer plan`", self.run, path.display()))
            }
            (None, _, None) => Err(user_error!(
                "{}: no run id under {} begins with it; for a run that was never started, name its experiment: hydrometer why {} E.toml",
                self.run,
                self.runs.display(),
                self.run
            )),
        }
    }
}
