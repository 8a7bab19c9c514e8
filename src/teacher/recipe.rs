//! The teacher part of a run's recipe, for teachers that are not trained here: where the logprobs come from.

use hydrometer_base::choice;
use hydrometer_data::format::Format;
use serde::{Deserialize, Serialize};

choice! {
    /// In which form an endpoint receives the text that it scores.
    Sent {
        /// Documents as text: the teacher reads a document whole.
        Text = "text",
        /// Sequences as ids: the teacher reads what the student does.
        Tokens = "tokens",
    }
}

choice! {
    /// To which token a row of logprobs in an echoed prompt belongs.
    EchoRows {
        /// The token at the row's own position.
        Own = "own",
        /// The token that follows: llama-cpp-python, if no BOS token is added.
        Next = "next",
    }
}

/// A file of recorded logprobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedRecipe {
    /// SHA-256 of the file's content as stored.
    pub content: String,
    pub format: Format,
}

/// A model behind an API. Its weights cannot be hashed, so its name identifies it, wherever it is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointRecipe {
    pub model: String,
    pub sent: Sent,
    pub echo_rows: EchoRows,
    /// The experiment's `revision`, to be changed when another model is served under the same name.
    pub revision: String,
}
