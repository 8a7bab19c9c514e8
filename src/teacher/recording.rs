//! A teacher of which there are only logprobs: in a file, or behind an endpoint.

use std::path::PathBuf;

use hydrometer_base::identity::identity;
use hydrometer_data::format::Format;
use hydrometer_data::line_error::OnBadLine;
use hydrometer_data::recipe::{DataFiles, DataRecipe};

use super::endpoint::service::Service;
use super::recipe::{EndpointRecipe, RecordedRecipe};
use super::target_spec::TargetSpec;

/// A teacher's answers, and what its cache must hold for which data.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The teacher's.
    pub name: String,
    pub origin: Origin,
    pub data: DataRecipe,
    pub files: DataFiles,
    /// Of its answers, for all arms.
    pub kept: TargetSpec,
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(AnswerFile),
    Endpoint(Asked),
}

/// A file of answers.
#[derive(Clone, Debug)]
pub struct AnswerFile {
    pub recipe: RecordedRecipe,
    pub path: PathBuf,
    pub on_bad_line: OnBadLine,
}

/// A model that is asked for its answers.
#[derive(Clone, Debug)]
pub struct Asked {
    pub recipe: EndpointRecipe,
    pub service: Service,
}

impl Origin {
    /// What the answers for `data` are known by.
    pub fn identity(&self, data: &DataRecipe) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => identity(&(recipe, data)),
            Self::Endpoint(Asked { recipe, .. }) => identity(&(recipe, data)),
        }
    }

    /// For people: the format of a file, or the model that is asked.
    pub fn words(&self) -> String {
        match self {
            Self::File(AnswerFile { recipe, .. }) => format!("recorded, {}", recipe.format.name()),
            Self::Endpoint(Asked { recipe, .. }) => format!("endpoint, {}", recipe.model),
        }
    }

    /// The format of the answers.
    pub fn format(&self) -> &'static str {
        match self {
            Self::File(AnswerFile { recipe, .. }) => recipe.format.name(),
            Self::Endpoint(_) => Format::OpenAi.name(),
        }
    }
}
