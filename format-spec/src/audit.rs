#![doc = include_str!("../audit.md")]

use crate::json;
use crate::limits::{AUDIT_DETAILS_BYTES_MAX, AUDIT_LINE_BYTES_MAX, AUDIT_TEXT_CHARS_MAX};
use crate::types::{HubEpoch, hex, unhex};
use crate::version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A SHA-256.
pub type Hash = [u8; 32];

/// One record, as a line has it; the line's own hash stands apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub v: u32,
    /// From 1, one more each time.
    pub seq: u64,
    /// All records up to this one were synced before this line was written.
    pub synced: u64,
    /// The wall clock, RFC 3339. It can be stepped.
    pub utc: String,
    pub hub_epoch: HubEpoch,
    /// Hub time: never stepped.
    #[serde(with = "json::int")]
    pub hub_ns: i64,
    pub actor: String,
    pub action: String,
    /// What it was done to.
    pub object: Option<String>,
    pub outcome: Outcome,
    pub details: BTreeMap<String, serde_json::Value>,
    /// Hash of the line before; of the hub's id for the first one.
    pub prev: String,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// Whoever asked may not.
    Denied,
    /// Whoever asked may, and it could not be done.
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(self.as_str())
    }
}

/// The newest record of a log: with it a tail that was cut off shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    #[serde(with = "json::int")]
    pub seq: u64,
    #[serde(with = "hash_text")]
    pub hash: Hash,
}

impl AuditHead {
    /// What the first record of a hub's log follows.
    pub fn genesis(hub_id: &[u8; 16]) -> Self {
        let text = format!("marey audit 1 {}", hex(hub_id));
        Self {
            seq: 0,
            hash: Sha256::digest(text.as_bytes()).into(),
        }
    }
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("a line of {0} bytes; {AUDIT_LINE_BYTES_MAX} are the most")]
    TooLong(usize),
    #[error("it does not end with its hash")]
    NoHash,
    #[error("its hash does not fit its bytes")]
    Hash,
    #[error("{0}")]
    Json(String),
    #[error("version {0} is not known")]
    Version(u32),
}

/// What stands between a line's body and its hash.
const HASH_KEY: &[u8] = b",\"hash\":\"";
/// What a line ends with.
const END: &[u8] = b"\"}";

/// A record as a line without its newline, and the line's hash.
pub fn to_line(record: &AuditRecord) -> (String, Hash) {
    let mut line = escape(&serde_json::to_string(record).expect("string keys and plain values"));
    // The hash covers everything that stands before it.
    line.pop();
    let hash: Hash = Sha256::digest(line.as_bytes()).into();
    line.push_str(",\"hash\":\"");
    line.push_str(&hex(&hash));
    line.push_str("\"}");
    (line, hash)
}

/// The record of a line, without its newline, and its hash, which was held against the bytes.
///
/// # Errors
/// What is wrong with it. Whether it follows the line before is the caller's to see.
pub fn parse_line(line: &[u8]) -> Result<(AuditRecord, Hash), LineError> {
    if line.len() > AUDIT_LINE_BYTES_MAX {
        return Err(LineError::TooLong(line.len()));
    }
    let body = line.len().checked_sub(HASH_KEY.len() + 64 + END.len());
    let (body, rest) = line.split_at(body.ok_or(LineError::NoHash)?);
    let digits = rest
        .strip_prefix(HASH_KEY)
        .and_then(|rest| rest.strip_suffix(END))
        .ok_or(LineError::NoHash)?;
    let hash: Hash = Sha256::digest(body).into();
    // As text: upper-case digits are another line.
    if digits != hex(&hash).as_bytes() {
        return Err(LineError::Hash);
    }
    let record: AuditRecord =
        serde_json::from_slice(line).map_err(|error| LineError::Json(error.to_string()))?;
    if record.v != version::AUDIT {
        return Err(LineError::Version(record.v));
    }
    Ok((record, hash))
}

/// Text from outside, cut to what a record takes of it.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(AUDIT_TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// Details, cut to what a record takes of them; what was left out is counted under `cut`.
pub fn bounded_details(details: &BTreeMap<String, serde_json::Value>) -> BTreeMap<String, serde_json::Value> {
    let mut kept = BTreeMap::new();
    let (mut bytes, mut cut) = (0, 0);
    for (key, value) in details {
        let value = match value {
            serde_json::Value::String(text) => bounded(text).into(),
            other => other.clone(),
        };
        let key = bounded(key);
        let takes =
            escape(&value.to_string()).len() + escape(&serde_json::Value::from(&*key).to_string()).len();
        if bytes + takes > AUDIT_DETAILS_BYTES_MAX {
            cut += 1;
            continue;
        }
        bytes += takes;
        kept.insert(key, value);
    }
    if cut > 0 {
        kept.insert("cut".to_owned(), cut.into());
    }
    kept
}

/// Characters that steer a terminal, or hide, as `\uXXXX`. They stand in strings alone, so that it is the same JSON.
fn escape(json: &str) -> String {
    let mut to = String::with_capacity(json.len());
    for c in json.chars() {
        match hides(c) {
            false => to.push(c),
            true => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    to.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    to
}

/// Control characters, and those that turn the direction of text, join, or have no width.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

mod hash_text {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(hash))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(from)?;
        unhex(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AuditRecord {
        AuditRecord {
            v: version::AUDIT,
            seq: 7,
            synced: 6,
            utc: "2026-11-21T08:00:00.123456Z".to_owned(),
            hub_epoch: HubEpoch(0x0102),
            hub_ns: -5,
            actor: "uid:1000".to_owned(),
            action: "device.revoke".to_owned(),
            object: Some("phone\u{1b}[2J\u{202e}\u{7f}\u{9b}\nü".to_owned()),
            outcome: Outcome::Denied,
            details: BTreeMap::from([("why".to_owned(), "\u{0}\"quote\"".into())]),
            prev: hex(&AuditHead::genesis(&[1; 16]).hash),
        }
    }

    #[test]
    fn a_line_gives_the_record_back_and_steers_no_terminal() {
        let (line, hash) = to_line(&record());
        assert_eq!(parse_line(line.as_bytes()), Ok((record(), hash)));
        assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line}");
        assert!(line.contains("ü"), "what people write stays readable: {line}");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let (line, _) = to_line(&record());
        for at in 0..line.len() {
            for flip in [1, 0x20, 0x80] {
                let mut other = line.clone().into_bytes();
                other[at] ^= flip;
                assert!(parse_line(&other).is_err(), "byte {at} ^ {flip:#x}");
            }
            assert!(parse_line(&line.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_longest_record_is_within_the_limit() {
        let long = "\u{202e}".repeat(100_000);
        let details = (0..1000)
            .map(|n| (format!("{n}{long}"), long.clone().into()))
            .collect();
        let record = AuditRecord {
            actor: bounded(&long),
            action: bounded(&long),
            object: Some(bounded(&long)),
            details: bounded_details(&details),
            ..record()
        };
        let (line, hash) = to_line(&record);
        assert_eq!(parse_line(line.as_bytes()).map(|(_, hash)| hash), Ok(hash));
        assert!(record.details.contains_key("cut"));
    }
}
