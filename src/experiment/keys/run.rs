//! Keys of a run and of a teacher, in one list, because both have the keys of training.

use hydrometer_data::recipe::Packing;
use hydrometer_torch::model::Precision;
use hydrometer_torch::objective::Tail;

use super::value::{
    ABOVE_0, AMOUNTS, AT_LEAST_0, BETWEEN_0_AND_1, FROM_0_TO_1, FROM_0_TO_BELOW_1, SECONDS, TEMPERATURE_NUMBERS, Value,
};
use super::{ESTIMATORS, Key, Objectives, Place, keys};
use crate::teacher::recipe::{EchoRows, Sent};

const EVERYWHERE: &[Place] = &[Place::Base, Place::Method, Place::Axis, Place::Selector, Place::Smoke];

/// A key of a run.
const RUN: Key =
    Key { name: "", doc: "", value: Value::Text, default: None, objectives: Objectives::All, places: EVERYWHERE, example: "" };
/// A key of a run that has a teacher.
const DISTILLED: Key = Key { objectives: Objectives::AllBut(&["hard-ce"]), ..RUN };
/// A key that a teacher's table may have too.
const SHARED: Key =
    Key { places: &[Place::Base, Place::Method, Place::Axis, Place::Selector, Place::Smoke, Place::Teacher], ..RUN };
/// A key of training, which a checkpoint takes in `adapt`.
const TRAINING: Key = Key {
    places: &[Place::Base, Place::Method, Place::Axis, Place::Selector, Place::Smoke, Place::Teacher, Place::Adapt],
    ..RUN
};
const TEACHER_ONLY: Key = Key { places: &[Place::Teacher], ..RUN };
const ENDPOINT_ONLY: Key = Key { places: &[Place::Teacher, Place::Endpoint], ..RUN };

keys! { RUN_AND_TEACHER_KEYS:
    DATA = Key {
        name: "data",
        doc: "a preset of `presets/data.toml`, or a table: [data](#data)",
        value: Value::Preset(Place::Data),
        example: r#"["first-preset", "second-preset"]"#,
        ..RUN
    };
    STUDENT = Key {
        name: "student",
        doc: "a preset of `presets/models.toml`, or a table: [models](#models)",
        value: Value::Preset(Place::Model),
        example: r#"["llama-1m", "llama-2m"]"#,
        ..RUN
    };
    MODEL = Key {
        name: "model",
        doc: "like `student` of a run",
        value: Value::Preset(Place::Model),
        ..ENDPOINT_ONLY
    };
    HF_TEACHER = Key {
        name: "hf",
        doc: "instead of `model`: a checkpoint, used unmodified",
        ..TEACHER_ONLY
    };
    ADAPT = Key {
        name: "adapt",
        doc: "with `hf`: first train it on the data, `{ tokens = \"1M\", lr = 1e-4 }`; takes the keys from `tokens` to \
              `final_lr`. Counted in the teacher's FLOPs",
        value: Value::Fields(Place::Adapt),
        ..TEACHER_ONLY
    };
    TOKENS = Key {
        name: "tokens",
        doc: "target tokens to train on, exactly",
        value: Value::Tokens,
        example: r#"["100k", "1M"]"#,
        ..TRAINING
    };
    BATCH = Key {
        name: "batch",
        doc: "target tokens per update, exactly",
        value: Value::Tokens,
        default: Some("4_000"),
        example: r#"["4k", "8k"]"#,
        ..TRAINING
    };
    CONTEXT = Key {
        name: "context",
        doc: "maximum tokens of a sequence; documents are cut",
        value: Value::Whole(8..=1 << 20),
        default: Some("256"),
        example: "[128, 256]",
        ..RUN
    };
    PACKING = Key {
        name: "packing",
        doc: "`\"none\"`: one sequence per row of a batch, or `\"documents\"`: several sequences per row, which do not see \
              each other: [packing](data-formats.md#packing)",
        value: Value::Choice(|| Packing::NAMES.to_vec()),
        default: Some("\"none\""),
        example: r#"["none", "documents"]"#,
        ..RUN
    };
    LR = Key {
        name: "lr",
        doc: "peak learning rate of AdamW",
        value: Value::Number(&ABOVE_0),
        default: Some("1e-3"),
        example: "[1e-3, 2e-3]",
        ..TRAINING
    };
    BETA1 = Key {
        name: "beta1",
        doc: "decay of AdamW's mean of gradients",
        value: Value::Number(&FROM_0_TO_BELOW_1),
        default: Some("0.9"),
        example: "[0.9, 0.95]",
        ..TRAINING
    };
    BETA2 = Key {
        name: "beta2",
        doc: "decay of AdamW's mean of squared gradients",
        value: Value::Number(&FROM_0_TO_BELOW_1),
        default: Some("0.95"),
        example: "[0.9, 0.95]",
        ..TRAINING
    };
    EPS = Key {
        name: "eps",
        doc: "added to AdamW's denominator",
        value: Value::Number(&ABOVE_0),
        default: Some("1e-8"),
        example: "[1e-8, 1e-6]",
        ..TRAINING
    };
    WEIGHT_DECAY = Key {
        name: "weight_decay",
        doc: "decoupled, on matrices only",
        value: Value::Number(&AT_LEAST_0),
        default: Some("0.1"),
        example: "[0.1, 0.5]",
        ..TRAINING
    };
    CLIP = Key {
        name: "clip",
        doc: "maximum gradient norm; 0 disables clipping",
        value: Value::Number(&AT_LEAST_0),
        default: Some("1"),
        example: "[0.0, 1.0]",
        ..TRAINING
    };
    WARMUP = Key {
        name: "warmup",
        doc: "fraction of the updates over which the learning rate rises",
        value: Value::Number(&FROM_0_TO_1),
        default: Some("0.05"),
        example: "[0.1, 0.5]",
        ..TRAINING
    };
    FINAL_LR = Key {
        name: "final_lr",
        doc: "learning rate at the end of its cosine, as a fraction of the peak",
        value: Value::Number(&FROM_0_TO_1),
        default: Some("0.1"),
        example: "[0.1, 0.5]",
        ..TRAINING
    };
    PRECISION = Key {
        name: "precision",
        doc: "`\"f32\"` or `\"bf16\"`",
        value: Value::Choice(|| Precision::NAMES.to_vec()),
        default: Some("\"f32\""),
        example: r#"["f32", "bf16"]"#,
        ..SHARED
    };
    SEEDS = Key {
        name: "seeds",
        doc: "a count (3 means 0, 1, 2), or a list of seeds",
        value: Value::Seeds,
        default: Some("3"),
        places: &[Place::Base, Place::Method, Place::Smoke],
        ..RUN
    };
    SEED = Key {
        name: "seed",
        doc: "of its initial weights and the order of its data",
        value: Value::Whole(0..=i64::MAX as u64),
        default: Some("0"),
        ..TEACHER_ONLY
    };
    EVAL = Key {
        name: "eval",
        doc: "`{ every = TOKENS, on = \"valid\" }`, `\"valid\"` or `\"test\"`. Default: five times, on `\"valid\"`",
        value: Value::Fields(Place::Eval),
        example: r#"[{ every = "100k" }, { every = "200k" }]"#,
        ..SHARED
    };
    OBJECTIVE = Key {
        name: "objective",
        doc: "`\"hard-ce\"`, `\"soft-ce\"`, `\"kl-forward\"`, `\"kl-reverse\"`, `\"jsd\"`, `\"logit-mse\"` or \
              `\"logprob-mse\"`: [objectives](objectives.md); or one of metaseq's modes, `\"hard_labels_distillation\"` \
              (hard-ce), `\"logprobs_distillation\"` (soft-ce) or `\"logits_distillation\"` (logit-mse)",
        value: Value::Objective,
        places: &[Place::Base, Place::Method, Place::Selector, Place::Smoke],
        ..RUN
    };
    LABEL_SMOOTHING = Key {
        name: "label_smoothing",
        doc: "fraction of the target that is spread evenly over all ids (hard-ce), at least 0 and below 1",
        value: Value::Number(&FROM_0_TO_BELOW_1),
        default: Some("0"),
        objectives: Objectives::Only(&["hard-ce"]),
        example: "[0.0, 0.1]",
        ..RUN
    };
    TEACHER = Key {
        name: "teacher",
        doc: "a `[teacher.NAME]`; may be omitted if there is only one",
        example: r#"["small", "big"]"#,
        ..DISTILLED
    };
    TOP_K = Key {
        name: "top_k",
        doc: "targets per token from the teacher: its likeliest ids, or as many draws if `tail` is `\"sampled\"`",
        value: Value::Whole(1..=1 << 20),
        default: Some("20"),
        example: "[5, 20]",
        ..DISTILLED
    };
    TAIL = Key {
        name: "tail",
        doc: "how the teacher's mass outside its top-k is treated (soft-ce, kl-forward, kl-reverse): `\"raw\"`, `\"metaseq\"` \
              (soft-ce only), `\"renormalize\"` (kl-reverse: only with `skew`), `\"double-renormalize\"`, `\"bucket\"`, \
              `\"uniform\"`, or `\"sampled\"` (not kl-reverse): there is no tail, because the targets are draws from the \
              teacher's full distribution. Default `\"raw\"` for soft-ce, `\"bucket\"` for the KLs",
        value: Value::Choice(|| Tail::ALL.map(Tail::name).to_vec()),
        objectives: Objectives::Only(&["soft-ce", "kl-forward", "kl-reverse"]),
        example: r#"["raw", "bucket"]"#,
        ..RUN
    };
    TEMPERATURE = Key {
        name: "temperature",
        doc: "of student and teacher (all but hard-ce and logit-mse), from 10^-6 to 10^6",
        value: Value::Number(&TEMPERATURE_NUMBERS),
        default: Some("1"),
        objectives: Objectives::AllBut(&["hard-ce", "logit-mse"]),
        example: "[1.0, 2.0]",
        ..RUN
    };
    CENTERED = Key {
        name: "centered",
        doc: "compare logits after subtracting their mean over the k ids (logit-mse)",
        value: Value::Flag,
        default: Some("false"),
        objectives: Objectives::Only(&["logit-mse"]),
        example: "[false, true]",
        ..RUN
    };
    MSE_MEAN = Key {
        name: "mse_mean",
        doc: "divide by the number of ids compared (logit-mse, logprob-mse)",
        value: Value::Flag,
        default: Some("false"),
        objectives: Objectives::Only(&["logit-mse", "logprob-mse"]),
        example: "[false, true]",
        ..RUN
    };
    BETA = Key {
        name: "beta",
        doc: "the teacher's weight in jsd's mixture, above 0 and below 1",
        value: Value::Number(&BETWEEN_0_AND_1),
        default: Some("0.5"),
        objectives: Objectives::Only(&["jsd"]),
        example: "[0.1, 0.5]",
        ..RUN
    };
    SKEW = Key {
        name: "skew",
        doc: "share of the KL's first distribution that is mixed into its second (kl-forward, kl-reverse), at least 0 and below 1",
        value: Value::Number(&FROM_0_TO_BELOW_1),
        default: Some("0"),
        objectives: Objectives::Only(&["kl-forward", "kl-reverse"]),
        example: "[0.0, 0.1]",
        ..RUN
    };
    ESTIMATOR = Key {
        name: "estimator",
        doc: "how kl-reverse on text that the student writes is computed: over all ids (`\"exact\"`), over the teacher's \
              (`\"top-k\"`), or from the written id alone, by `\"k1\"`, `\"k2\"` or `\"k3-as-loss\"`, which descends the forward KL and \
              is refused under the name `\"k3\"`: [estimators](objectives.md#estimators)",
        value: Value::Choice(|| ESTIMATORS.to_vec()),
        objectives: Objectives::Only(&["kl-reverse"]),
        example: r#"["k1", "k2"]"#,
        ..RUN
    };
    LAMBDA = Key {
        name: "lambda",
        doc: "weight of hard-ce mixed into a distilled arm, 0 to 1",
        value: Value::Number(&FROM_0_TO_1),
        default: Some("0"),
        example: "[0.1, 0.5]",
        ..DISTILLED
    };
    TEMPERATURE_SQUARED = Key {
        name: "temperature_squared",
        doc: "multiply value and gradient by temperature² (all but hard-ce and logit-mse)",
        value: Value::Flag,
        default: Some("false"),
        objectives: Objectives::AllBut(&["hard-ce", "logit-mse"]),
        example: "[false, true]",
        ..RUN
    };
    ON_PURPOSE = Key {
        name: "on_purpose",
        doc: "`true` lets logprob-mse run, which rarely converges",
        value: Value::Flag,
        default: Some("false"),
        objectives: Objectives::Only(&["logprob-mse"]),
        example: "[false, true]",
        ..RUN
    };
    TEACHER_TOKENS = Key {
        name: "teacher_tokens",
        doc: "tokens of the teachers. Default: the `tokens` of `[smoke]`",
        value: Value::Tokens,
        places: &[Place::Smoke],
        ..RUN
    };
    RECORDED = Key {
        name: "recorded",
        doc: "instead of all other keys: a file or folder of the teacher's recorded logprobs: \
              [formats](data-formats.md#recorded-teachers)",
        places: &[Place::Teacher, Place::Recorded],
        ..RUN
    };
    RECORDED_FORMAT = Key {
        name: "format",
        doc: "of that file. Default: detected from its first line",
        value: Value::Format,
        places: &[Place::Teacher, Place::Recorded],
        ..RUN
    };
    ENDPOINT = Key {
        name: "endpoint",
        doc: "the address of an OpenAI-compatible API whose model scores the text of the data, e.g. \
              `\"http://localhost:8000/v1\"`: [endpoints](teachers.md#a-model-behind-an-api). It goes with `model`, the name \
              by which the API knows the model, and the keys below",
        ..ENDPOINT_ONLY
    };
    SENT = Key {
        name: "sent",
        doc: "`\"text\"`, document by document, or `\"tokens\"`, sequence by sequence as ids, if the API accepts them",
        value: Value::Choice(|| Sent::NAMES.to_vec()),
        default: Some("\"text\""),
        ..ENDPOINT_ONLY
    };
    ECHO_ROWS = Key {
        name: "echo_rows",
        doc: "which token a logprob row of an echoed prompt describes: its `\"own\"`, or the `\"next\"`",
        value: Value::Choice(|| EchoRows::NAMES.to_vec()),
        default: Some("\"own\""),
        ..ENDPOINT_ONLY
    };
    KEY_ENV = Key {
        name: "key_env",
        doc: "the environment variable that holds the API key. The key is sent, and never stored or shown. Default: no key is \
              sent",
        ..ENDPOINT_ONLY
    };
    CONCURRENCY = Key {
        name: "concurrency",
        doc: "concurrent requests",
        value: Value::Whole(1..=256),
        default: Some("4"),
        ..ENDPOINT_ONLY
    };
    RETRIES = Key {
        name: "retries",
        doc: "retries of a request",
        value: Value::Whole(0..=100),
        default: Some("8"),
        ..ENDPOINT_ONLY
    };
    TIMEOUT = Key {
        name: "timeout",
        doc: "seconds to wait for a response",
        value: Value::Number(&SECONDS),
        default: Some("120"),
        ..ENDPOINT_ONLY
    };
    PRICE = Key {
        name: "price",
        doc: "per million tokens: `{ input = 0.15, output = 0.6 }`",
        value: Value::Fields(Place::Price),
        ..ENDPOINT_ONLY
    };
    BUDGET = Key {
        name: "budget",
        doc: "the most that may be spent on this teacher in total: `{ tokens = \"2M\" }`, `{ cost = 5 }` or both",
        value: Value::Fields(Place::Budget),
        ..ENDPOINT_ONLY
    };
    EVAL_EVERY = Key {
        name: "every",
        doc: "target tokens from one evaluation to the next",
        value: Value::Tokens,
        places: &[Place::Eval],
        ..RUN
    };
    EVAL_ON = Key {
        name: "on",
        doc: "the split that is evaluated",
        value: Value::HeldOutSplit,
        default: Some("\"valid\""),
        places: &[Place::Eval],
        ..RUN
    };
    PRICE_INPUT = Key {
        name: "input",
        doc: "price of a million tokens sent",
        value: Value::Number(&AMOUNTS),
        default: Some("0"),
        places: &[Place::Price],
        ..RUN
    };
    PRICE_OUTPUT = Key {
        name: "output",
        doc: "price of a million tokens received",
        value: Value::Number(&AMOUNTS),
        default: Some("0"),
        places: &[Place::Price],
        ..RUN
    };
    BUDGET_TOKENS = Key {
        name: "tokens",
        doc: "tokens sent and received, in total",
        value: Value::Tokens,
        places: &[Place::Budget],
        ..RUN
    };
    BUDGET_COST = Key {
        name: "cost",
        doc: "cost by `price`, in total",
        value: Value::Number(&AMOUNTS),
        places: &[Place::Budget],
        ..RUN
    };
}
