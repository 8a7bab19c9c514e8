//! Keys of a task and of its decoding.

use super::value::{ABOVE_0_TO_1, AT_LEAST_0, Value};
use super::{Key, Objectives, Place, keys};

const OF_TASK: Key = Key {
    name: "",
    doc: "",
    value: Value::Text,
    default: None,
    objectives: Objectives::All,
    places: &[Place::Task],
    example: "",
};
const OF_DECODING: Key = Key { places: &[Place::Decode], ..OF_TASK };

keys! { TASK_KEYS:
    TASK_DATA = Key {
        name: "data",
        doc: "prompts and references: a preset of `presets/data.toml`, or a table: [data](#data). Default: the `data` of `[base]`",
        value: Value::Preset(Place::Data),
        ..OF_TASK
    };
    TASK_ON = Key {
        name: "on",
        doc: "the split of the prompts, `\"valid\"` or `\"test\"`",
        value: Value::HeldOutSplit,
        default: Some("\"valid\""),
        ..OF_TASK
    };
    TASK_PROMPTS = Key {
        name: "prompts",
        doc: "number of prompts, from the beginning of the split. Default: all",
        value: Value::Whole(1..=1 << 32),
        ..OF_TASK
    };
    TASK_SAMPLES = Key {
        name: "samples",
        doc: "completions of each prompt",
        value: Value::Whole(1..=10_000),
        default: Some("1"),
        ..OF_TASK
    };
    TASK_DECODE = Key {
        name: "decode",
        doc: "how tokens are chosen: `{ temperature = 0.8, top_p = 0.95 }` or `{ beams = 4 }`, with the keys [below](#decode). \
              Default: greedy",
        value: Value::Fields(Place::Decode),
        ..OF_TASK
    };
    MAX_NEW_TOKENS = Key {
        name: "max_new_tokens",
        doc: "length at which a completion is cut",
        value: Value::Whole(1..=1 << 20),
        default: Some("64"),
        ..OF_TASK
    };
    STOP = Key {
        name: "stop",
        doc: "a string, or a list of them: the first that occurs in a completion ends it, and is not part of it. Default: only \
              end-of-text tokens end it",
        value: Value::Texts,
        ..OF_TASK
    };
    SHOTS = Key {
        name: "shots",
        doc: "number of examples, from the beginning of the train split, before each prompt",
        value: Value::Whole(0..=1_000),
        default: Some("0"),
        ..OF_TASK
    };
    TEMPLATE = Key {
        name: "template",
        doc: "a file with a Jinja template of the model's input, in which `prompt` is the prompt and `shots` a list of `{ prompt, \
              completion }`. Default: each shot's prompt and completion with a line break after them, then the prompt",
        ..OF_TASK
    };
    SCORE = Key {
        name: "score",
        doc: "a list of [scores](scores.md), e.g. `[\"exact-match\", \"pass@4\"]`",
        value: Value::Scores,
        ..OF_TASK
    };
}

keys! { DECODE_KEYS:
    DECODE_TEMPERATURE = Key {
        name: "temperature",
        doc: "what logits are divided by before a token is drawn; 0 is greedy",
        value: Value::Number(&AT_LEAST_0),
        default: Some("0"),
        ..OF_DECODING
    };
    DECODE_TOP_K = Key {
        name: "top_k",
        doc: "draw only from this many of the likeliest tokens. Default: all",
        value: Value::Whole(1..=1 << 20),
        ..OF_DECODING
    };
    DECODE_TOP_P = Key {
        name: "top_p",
        doc: "draw only from the fewest likeliest tokens whose probabilities sum to this. Default: all",
        value: Value::Number(&ABOVE_0_TO_1),
        ..OF_DECODING
    };
    DECODE_BEAMS = Key {
        name: "beams",
        doc: "instead of the other keys: beam search with this many beams, whose best text counts",
        value: Value::Whole(2..=256),
        ..OF_DECODING
    };
}
