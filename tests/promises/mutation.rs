//! Seeded random damage for tests of parsers. A failure names its round. Two environment variables control the rounds:
//! `HYDROMETER_FUZZ_SECONDS`, a time budget per test (set by `make fuzz`), and `HYDROMETER_FUZZ_SEED`, the number of the first round.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Numbered rounds, each with its own random generator: `count` of them, or as many as the time budget allows.
pub fn rounds(count: usize) -> impl Iterator<Item = (u64, ChaCha8Rng)> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, budget) = (number("HYDROMETER_FUZZ_SEED").unwrap_or(0), number("HYDROMETER_FUZZ_SECONDS"));
    let begun = Instant::now();
    (first..)
        .take_while(move |round| match budget {
            Some(seconds) => begun.elapsed() < Duration::from_secs(seconds),
            None => round - first < count as u64,
        })
        .map(|round| (round, ChaCha8Rng::seed_from_u64(round)))
}

/// `whole` with some bytes flipped, removed, doubled or replaced, or truncated.
pub fn of_bytes(whole: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..random.random_range(1..5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        let end = (at + random.random_range(1..20)).min(bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes.truncate(at),
            4 => bytes[at] = [0, b'\n', b'\r', b'"', b'{', b',', 0x7f, 0xff][random.random_range(0..8)],
            _ => {
                let liked: [&[u8]; 10] = [b"\"", b"{", b"}", b"[", b",", b":", b"null", b"-1", b"1e999", b"99999999999999999999"];
                bytes.splice(at..at, liked[random.random_range(0..liked.len())].iter().copied());
            }
        }
    }
    bytes
}

/// Deletes, renames, copies, nests or replaces something somewhere in a JSON document.
pub fn of_value(value: &mut Value, random: &mut impl Rng) {
    let deeper = random.random_range(0..8) > 0;
    match value {
        Value::Object(fields) if !fields.is_empty() && deeper => {
            let key = fields.keys().nth(random.random_range(0..fields.len())).cloned().unwrap_or_default();
            match random.random_range(0..10) {
                0 => drop(fields.remove(&key)),
                1 => {
                    let moved = fields.remove(&key).unwrap_or_default();
                    fields.insert(format!("{key}\u{e9}"), moved);
                }
                _ => of_value(fields.entry(key).or_insert(Value::Null), random),
            }
        }
        Value::Array(items) if !items.is_empty() && deeper => {
            let at = random.random_range(0..items.len());
            match random.random_range(0..8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => of_value(&mut items[at], random),
            }
        }
        other if random.random_range(0..6) == 0 => *other = json!({ "x": other.clone() }),
        other => {
            let strange = [
                Value::Null,
                json!(true),
                json!(-1),
                json!(0),
                json!(1),
                json!(7),
                json!(0.5),
                json!(4_294_967_295_u64),
                json!(4_294_967_296_u64),
                json!(u64::MAX),
                json!(1e308),
                json!(-1e308),
                json!(""),
                json!("x"),
                json!("\u{0}"),
                json!("(a+)+$"),
                json!("€\u{fffd}▁Ġ\u{10ffff}"),
                json!("bytes:\\xzz"),
                json!("token_id:99999999999999999999"),
                json!([]),
                json!([0]),
                json!([[[[[]]]]]),
                json!({}),
                json!({ "": { "": [] } }),
                json!({ "type": "Sequence" }),
                json!({ "type": "ByteLevel" }),
                json!({ "type": "FixedLength", "length": 0 }),
            ];
            *other = strange[random.random_range(0..strange.len())].clone();
        }
    }
}
