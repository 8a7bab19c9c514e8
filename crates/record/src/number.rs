//! Numbers of the journal in JSON, which has no NaN and infinity: these are the strings `NaN`, `inf` and `-inf`.
//!
//! `null` in place of a number is read as NaN, as older journals write it. Finite numbers are JSON numbers.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<N: Number, S: Serializer>(number: &N, to: S) -> Result<S::Ok, S::Error> {
    number.write(to)
}

pub fn deserialize<'de, N: Number, D: Deserializer<'de>>(from: D) -> Result<N, D::Error> {
    N::read(from)
}

/// Types of event fields with `#[serde(with = "number")]`.
pub trait Number: Sized {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

impl Number for f64 {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Any(*self).serialize(to)
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Any>::deserialize(from)?.map_or(f64::NAN, |number| number.0))
    }
}

impl Number for Option<f64> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.map(Any).serialize(to)
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Any>::deserialize(from)?.map(|number| number.0))
    }
}

/// A number, finite or not.
pub struct Any(pub f64);

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // `NaN`, `inf`, `-inf`, as Rust writes and reads them.
        if self.0.is_finite() { to.serialize_f64(self.0) } else { to.serialize_str(&self.0.to_string()) }
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl Visitor<'_> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number, \"NaN\", \"inf\" or \"-inf\"")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Any, E> {
        Ok(Any(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Any, E> {
        Ok(Any(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Any, E> {
        Ok(Any(value as f64))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Any, E> {
        match value {
            "NaN" | "inf" | "-inf" => value.parse().map(Any).map_err(E::custom),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}
