//! A teacher known only by its logprobs: in a file, or behind an endpoint.

use std::path::PathBuf;

use hydrometer_base::identity::identity;
use hydrometer_data::format::Format;
use hydrometer_data::line_error::OnBadLine;
use hydrometer_data::recipe::{DataFiles, DataRecipe};

use super::endpoint::service::Service;
use super::recipe::{EndpointRecipe, RecordedRecipe};
use super::target_spec::TargetSpec;

/// A teacher's logprobs for some data, and what their cache must store.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The teacher's name.
    pub name: String,
    pub origin: Origin,
    pub data: DataRecipe,
    pub files: DataFiles,
    /// What the cache stores per token, enough for all arms.
    pub kept: TargetSpec,
}

/// Where the logprobs come from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(AnswerFile),
    Endpoint(Asked),
}

/// A file of recorded logprobs.
#[derive(Clone, Debug)]
pub struct AnswerFile {
    pub recipe: RecordedRecipe,
    pub path: PathBuf,
    pub on_bad_line: OnBadLine,
}

/// A model that scores text on request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub recipe: EndpointRecipe,
    pub service: Service,
}

impl Origin {
    /// The identity of the logprobs for `data`.
    pub fn identity(&self, data: &DataRecipe) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => identity(&(recipe, data)),
            Self::Endpoint(Asked { recipe, .. }) => identity(&(recipe, data)),
        }
    }

    /// For display: the format of a file, or the name of the model.
    pub fn words(&self) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => format!("recorded, {}", recipe.format.name()),
            Self::Endpoint(Asked { recipe, .. }) => format!("endpoint, {}", recipe.model),
        }
    }

    /// The format of the logprobs.
    pub fn format(&self) -> &'static str {
        match self {
            Self::File(AnswerFile { recipe, .. }) => recipe.format.name(),
            Self::Endpoint(_) => Format::OpenAi.name(),
        }
    }
}
