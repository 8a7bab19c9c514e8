//! Keys of data and of models, in a preset or an inline table.

use hydrometer_data::line_error::OnBadLine;
use hydrometer_data::recipe::{Eos, Input, Truncation};
use hydrometer_torch::model::hf;

use super::value::{ABOVE_0, ABOVE_0_TO_1, Value};
use super::{Key, Objectives, Place, keys};

/// Largest dimension of a model; keeps products of three of them within 64 bits.
pub const MODEL_MAX: u64 = 1 << 20;

const OF_DATA: Key = Key {
    name: "",
    doc: "",
    value: Value::Text,
    default: None,
    objectives: Objectives::All,
    places: &[Place::Data],
    example: "",
};
/// A key that applies only to examples, not to plain documents.
const OF_EXAMPLES: Key = Key { places: &[Place::Data, Place::Examples], ..OF_DATA };
const OF_MODEL: Key = Key { value: Value::Whole(1..=MODEL_MAX), places: &[Place::Model], ..OF_DATA };

keys! { DATA_KEYS:
    DATA_PATH = Key {
        name: "path",
        doc: "a file or folder for all splits: the hash of the text (or of the source, if there is one) assigns 90% of the \
              documents to training, 5% to `valid`, 5% to `test`; or a folder with one subfolder for each of `train`, `valid` \
              and `test`",
        ..OF_DATA
    };
    DATA_FORMAT = Key {
        name: "format",
        doc: "one of the [data formats](data-formats.md). Default: detected from the content of the files, whatever their names",
        value: Value::Format,
        ..OF_DATA
    };
    DATA_TRAIN = Key { name: "train", doc: "a file or folder for training, instead of `path`", ..OF_DATA };
    DATA_VALID = Key { name: "valid", doc: "the same for the `valid` split", ..OF_DATA };
    DATA_TEST = Key { name: "test", doc: "the same for the `test` split", ..OF_DATA };
    TOKENIZER = Key {
        name: "tokenizer",
        doc: "`{ bpe = SIZE }`, trained on the train split, or the path of a `tokenizer.json`",
        value: Value::Tokenizer,
        default: Some("{ bpe = 2048 }"),
        ..OF_DATA
    };
    ON_BAD_LINE = Key {
        name: "on_bad_line",
        doc: "`\"stop\"` at a damaged line, or `\"skip\"` and count it",
        value: Value::Choice(|| OnBadLine::NAMES.to_vec()),
        default: Some("\"stop\""),
        ..OF_DATA
    };
    SOURCE_KEY = Key {
        name: "source_key",
        doc: "the key of the source text, if it differs from the format's own",
        ..OF_EXAMPLES
    };
    TARGET_KEY = Key { name: "target_key", doc: "the key of the target text", ..OF_EXAMPLES };
    PROMPT_EOS = Key {
        name: "prompt_eos",
        doc: "text between source and target, tokenized separately; it is read, not predicted. Default none",
        ..OF_EXAMPLES
    };
    TRUNCATION = Key {
        name: "truncation",
        doc: "where a source that exceeds the context is cut: `\"left\"`, `\"right\"`, or `\"none\"`: such a source is an error",
        value: Value::Choice(|| Truncation::NAMES.to_vec()),
        default: Some("\"none\""),
        ..OF_EXAMPLES
    };
    TARGET_BUDGET = Key {
        name: "target_budget",
        doc: "what a target longer than the context is cut to, as a fraction of the context",
        value: Value::Number(&ABOVE_0_TO_1),
        default: Some("0.7"),
        ..OF_EXAMPLES
    };
    EOS = Key {
        name: "eos",
        doc: "the end-of-text token after a target: `\"once\"` (unless the target already ends in it or was cut), `\"append\"` \
              (always, as metaseq does) or `\"none\"`",
        value: Value::Choice(|| Eos::NAMES.to_vec()),
        default: Some("\"once\""),
        ..OF_EXAMPLES
    };
    EOS_TOKEN = Key {
        name: "eos_token",
        doc: "that token's text in the tokenizer. Default: what the checkpoint's files say, otherwise [a usual \
              name](checkpoints.md#tokenizer)",
        ..OF_EXAMPLES
    };
    INPUT = Key {
        name: "input",
        doc: "the inputs and hard labels of a target with recorded logprobs: the `\"sampled\"` tokens, or the likeliest token \
              of each row, `\"teacher-argmax\"`, as metaseq does",
        value: Value::Choice(|| Input::NAMES.to_vec()),
        default: Some("\"sampled\""),
        ..OF_EXAMPLES
    };
}

keys! { MODEL_KEYS:
    HIDDEN_SIZE = Key { name: "hidden_size", doc: "width of the hidden states", ..OF_MODEL };
    INTERMEDIATE_SIZE = Key { name: "intermediate_size", doc: "width inside the feed-forward layers", ..OF_MODEL };
    NUM_HIDDEN_LAYERS = Key {
        name: "num_hidden_layers",
        doc: "at most 4096",
        // The limit of checkpoints: each layer has a dozen parameters with names and shapes.
        value: Value::Whole(1..=hf::MOST_LAYERS),
        ..OF_MODEL
    };
    NUM_ATTENTION_HEADS = Key { name: "num_attention_heads", doc: "heads of queries", ..OF_MODEL };
    NUM_KEY_VALUE_HEADS = Key { name: "num_key_value_heads", doc: "heads of keys and values", ..OF_MODEL };
    ROPE_THETA = Key {
        name: "rope_theta",
        doc: "base of the rotary embedding",
        value: Value::Number(&ABOVE_0),
        default: Some("10_000"),
        ..OF_MODEL
    };
    RMS_NORM_EPS = Key {
        name: "rms_norm_eps",
        doc: "added to the mean square in RMSNorm",
        value: Value::Number(&ABOVE_0),
        default: Some("1e-5"),
        ..OF_MODEL
    };
    INITIALIZER_RANGE = Key {
        name: "initializer_range",
        doc: "standard deviation of the initial weights",
        value: Value::Number(&ABOVE_0),
        default: Some("0.02"),
        ..OF_MODEL
    };
    HF = Key {
        name: "hf",
        doc: "instead of all these: a [checkpoint](checkpoints.md), the folder's path; training starts from its weights",
        value: Value::Text,
        ..OF_MODEL
    };
    LAYERS = Key {
        name: "layers",
        doc: "with `hf`: the blocks that are kept, e.g. `[0, 4, 8, 12]`; the others are left out",
        value: Value::Layers,
        ..OF_MODEL
    };
}
