//! The part of a run's recipe that says where a teacher's logprobs come from when it is not trained here.

use hydrometer_base::choice;
use hydrometer_data::format::Format;
use serde::{Deserialize, Serialize};

choice! {
    /// As what an endpoint is sent what it is to judge.
    Sent {
        /// Documents as text: the teacher reads a document whole.
        Text = "text",
        /// Sequences as ids: the teacher reads what the student does.
        Tokens = "tokens",
    }
}

choice! {
    /// Of which token a row of answers to an echoed prompt tells.
    EchoRows {
        /// The one that it stands beside.
        Own = "own",
        /// The one that follows: llama-cpp-python, where nothing is put before a text.
        Next = "next",
    }
}

/// A file of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedRecipe {
    /// SHA-256 of the file's content as stored.
    pub content: String,
    pub format: Format,
}

/// A model behind an API. Nobody can hash its weights: it is known by its name, wherever it is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRecipe {
    pub model: String,
    pub sent: Sent,
    pub echo_rows: EchoRows,
    /// The experiment's `revision`: bumped where another model came to be served by that name.
    pub revision: String,
}
