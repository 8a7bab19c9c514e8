//! The tables of an experiment file, and the keys of those without settings of runs.

use hydrometer_base::choice;

use super::value::{LEVELS, Shape, Value};
use super::{Key, Objectives, Place, keys};

choice! {
    /// The budget that the arms of a comparison share.
    Match {
        Tokens = "tokens",
        Updates = "updates",
        TotalFlops = "total-flops",
    }
}

const IN_FILE: Key =
    Key { name: "", doc: "", value: Value::Text, default: None, objectives: Objectives::All, places: &[Place::Top], example: "" };
const IN_CLAIM: Key = Key { places: &[Place::Claim], ..IN_FILE };

keys! { TOP_KEYS:
    QUESTION = Key {
        name: "question",
        doc: "the question in one sentence; the report's title. Default: the file's name",
        ..IN_FILE
    };
    HYPOTHESIS = Key { name: "hypothesis", doc: "the expected answer, written before the run", ..IN_FILE };
    REVISION = Key {
        name: "revision",
        doc: "part of every run's identity: change it to run everything anew",
        default: Some("\"1\""),
        ..IN_FILE
    };
    BASE = Key {
        name: "base",
        doc: "settings that every run starts from: [keys of a run](#keys-of-a-run)",
        value: Value::Table(Shape::One, Place::Base),
        ..IN_FILE
    };
    TEACHERS = Key {
        name: "teacher",
        doc: "`[teacher.NAME]`, any number: [keys of a teacher](#keys-of-a-teacher)",
        value: Value::Table(Shape::Named, Place::Teacher),
        ..IN_FILE
    };
    METHODS = Key {
        name: "method",
        doc: "`[method.NAME]`, the arms, in the order of the report: keys of a run, which override `base`",
        value: Value::Table(Shape::Named, Place::Method),
        ..IN_FILE
    };
    SWEEP = Key {
        name: "sweep",
        doc: "the axes that multiply the arms: [sweep](#sweep)",
        value: Value::Table(Shape::One, Place::Sweep),
        ..IN_FILE
    };
    FAIR = Key {
        name: "fair",
        doc: "what the arms must have in common: [fair](#fair)",
        value: Value::Table(Shape::One, Place::Fair),
        ..IN_FILE
    };
    TASKS = Key {
        name: "task",
        doc: "`[task.NAME]`, any number: what the students are asked to write: [tasks](#tasks)",
        value: Value::Table(Shape::Named, Place::Task),
        ..IN_FILE
    };
    SMOKE = Key {
        name: "smoke",
        doc: "a small version of the same experiment: [smoke](#smoke)",
        value: Value::Table(Shape::One, Place::Smoke),
        ..IN_FILE
    };
    CLAIMS = Key {
        name: "claim",
        doc: "`[[claim]]`, any number: statements that the results are tested against: [claims](#claims)",
        value: Value::Table(Shape::List, Place::Claim),
        ..IN_FILE
    };
}

keys! { TABLE_KEYS:
    GRID = Key {
        name: "grid",
        doc: "`{ key = [values], ... }`: one axis per key, all crossed with each other",
        value: Value::Axes,
        places: &[Place::Sweep, Place::When],
        ..IN_FILE
    };
    ZIP = Key {
        name: "zip",
        doc: "`{ key = [values], ... }`: one axis whose points set all keys together; the lists must have the same length",
        value: Value::Axes,
        places: &[Place::Sweep, Place::When],
        ..IN_FILE
    };
    WHEN = Key {
        name: "when",
        doc: "`[[sweep.when]]`: axes for some runs only",
        value: Value::Table(Shape::List, Place::When),
        places: &[Place::Sweep],
        ..IN_FILE
    };
    SKIP = Key {
        name: "skip",
        doc: "`[[sweep.skip]]`: runs to leave out",
        value: Value::Table(Shape::List, Place::Skip),
        places: &[Place::Sweep],
        ..IN_FILE
    };
    BECAUSE = Key { name: "because", doc: "the reason, in one sentence", places: &[Place::Skip], ..IN_FILE };
    MATCH = Key {
        name: "match",
        doc: "`\"tokens\"`, `\"updates\"` or `\"total-flops\"`",
        value: Value::Choice(|| Match::NAMES.to_vec()),
        places: &[Place::Fair],
        ..IN_FILE
    };
    CLAIM_ID = Key { name: "id", doc: "a short name", ..IN_CLAIM };
    CLAIM_SAYS = Key { name: "says", doc: "the claim in one sentence. Default: `expect`", ..IN_CLAIM };
    CLAIM_AT = Key {
        name: "at",
        doc: "what both arms have in common: `{ tokens = \"100k\" }`",
        value: Value::Select,
        ..IN_CLAIM
    };
    CLAIM_A = Key {
        name: "a",
        doc: "the first arm: `{ method = \"soft-ce\", top_k = 20 }`; selects like `when`",
        value: Value::Select,
        ..IN_CLAIM
    };
    CLAIM_B = Key {
        name: "b",
        doc: "the second arm; omitted if `expect` does not use it",
        value: Value::Select,
        ..IN_CLAIM
    };
    CLAIM_EXPECT = Key {
        name: "expect",
        doc: "a comparison (`<`, `<=`, `>`, `>=`) of two expressions in numbers, `+ - * /`, parentheses, and metrics or scores of `a` and `b`",
        ..IN_CLAIM
    };
    CLAIM_LEVEL = Key {
        name: "level",
        doc: "coverage of the interval that decides",
        value: Value::Number(&LEVELS),
        default: Some("0.95"),
        ..IN_CLAIM
    };
}
