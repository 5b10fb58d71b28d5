//! Integers in JSON: beyond 2^53 many parsers lose digits, so 64-bit counters and stamps travel as strings.
//!
//! Writers always write the string; readers take either.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use std::fmt::Display;
use std::str::FromStr;

/// For `#[serde(with = "crate::json::int")]` on u64 and i64.
pub mod int {
    use super::*;

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr,
        D: Deserializer<'de>,
    {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<'a> {
            Unsigned(u64),
            Signed(i64),
            Text(#[serde(borrow)] std::borrow::Cow<'a, str>),
        }
        let text = match Either::deserialize(from)? {
            Either::Unsigned(n) => n.to_string(),
            Either::Signed(n) => n.to_string(),
            Either::Text(text) => text.into_owned(),
        };
        text.parse()
            .map_err(|_| D::Error::custom(format_args!("not an integer in range: {text:?}")))
    }
}

/// Pairs of u64, as `[["1","5"]]`: half-open ranges of sequences.
pub mod ranges {
    use super::*;
    use serde::Serialize;

    #[derive(Serialize, Deserialize)]
    struct Range(
        #[serde(with = "super::int")] u64,
        #[serde(with = "super::int")] u64,
    );

    pub fn serialize<S: Serializer>(value: &[(u64, u64)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().map(|&(a, b)| Range(a, b)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(u64, u64)>, D::Error> {
        Ok(Vec::<Range>::deserialize(from)?
            .into_iter()
            .map(|r| (r.0, r.1))
            .collect())
    }
}
