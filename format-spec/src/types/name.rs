//! Names of devices, sessions, streams and fields: full match, and nothing that a reader of Parquet would retype.

use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A device's name: `^[A-Za-z][A-Za-z0-9_-]{0,31}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(String);

/// A session's name: `^[A-Za-z][A-Za-z0-9_-]{0,63}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

/// A person's name at a hub: `^[A-Za-z][A-Za-z0-9_-]{0,31}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// The name of a study, which groups sessions: `^[A-Za-z][A-Za-z0-9_-]{0,63}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StudyId(String);

/// The name of an API key, among those of its user: `^[A-Za-z][A-Za-z0-9_-]{0,31}$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(String);

/// A stream's or field's name: `^[a-z][a-z0-9_]{0,31}$`, without the names of the columns that every file has.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

/// The name of a file that somebody hands in: `^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$` without `..`. Never a path, never
/// hidden, never an option of a command.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

/// Why a name is refused, with a proposal where one comes to mind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name does not match its pattern.
    #[error("{what} {found:?} does not match {pattern}{}", proposal(proposed))]
    Pattern {
        what: &'static str,
        found: String,
        pattern: &'static str,
        proposed: Option<String>,
    },
    /// A word that Parquet readers or operating systems take for something else.
    #[error(
        "{what} {found:?} is a word that readers or file systems take for something else{}",
        proposal(proposed)
    )]
    Reserved {
        what: &'static str,
        found: String,
        proposed: Option<String>,
    },
    /// Not hexadecimal of the right length.
    #[error("{what} takes {digits} hexadecimal digits, found {found:?}")]
    NotHex {
        what: &'static str,
        digits: usize,
        found: String,
    },
}

fn proposal(name: &Option<String>) -> String {
    name.as_ref()
        .map(|name| format!("; try {name:?}"))
        .unwrap_or_default()
}

/// Names that stand in paths, tables and links: what they are of, the longest, the pattern, and what a proposal begins with.
macro_rules! public_name_type {
    ($type:ident, $what:literal, $longest:expr, $pattern:literal, $prefix:literal) => {
        impl $type {
            /// Checks and takes a name.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                public_name($what, name.into(), $longest, $pattern, $prefix).map(Self)
            }
        }
    };
}

public_name_type!(
    DeviceId,
    "device",
    limits::DEVICE_NAME_BYTES_MAX,
    "^[A-Za-z][A-Za-z0-9_-]{0,31}$",
    "d-"
);
public_name_type!(
    SessionId,
    "session",
    limits::SESSION_NAME_BYTES_MAX,
    "^[A-Za-z][A-Za-z0-9_-]{0,63}$",
    "s-"
);
public_name_type!(
    UserId,
    "user",
    limits::USER_NAME_BYTES_MAX,
    "^[A-Za-z][A-Za-z0-9_-]{0,31}$",
    "u-"
);
public_name_type!(
    StudyId,
    "study",
    limits::STUDY_NAME_BYTES_MAX,
    "^[A-Za-z][A-Za-z0-9_-]{0,63}$",
    "s-"
);
public_name_type!(
    KeyName,
    "API key",
    limits::API_KEY_NAME_BYTES_MAX,
    "^[A-Za-z][A-Za-z0-9_-]{0,31}$",
    "k-"
);

impl StreamName {
    /// Columns that every Parquet file of a stream has, and the keys of its path.
    pub const RESERVED: [&'static str; 8] = [
        "time",
        "device_time_ns",
        "epoch",
        "time_err_us",
        "seq",
        "session",
        "stream",
        "device",
    ];

    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let what = "stream or field";
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let matches = matches!(name.as_bytes().first(), Some(b'a'..=b'z'))
            && name.len() <= limits::STREAM_NAME_BYTES_MAX
            && name.bytes().all(fits);
        if !matches {
            return Err(NameError::Pattern {
                what,
                proposed: proposed(
                    &name.to_ascii_lowercase(),
                    "x_",
                    limits::STREAM_NAME_BYTES_MAX,
                    fits,
                ),
                found: shown(&name),
                pattern: "^[a-z][a-z0-9_]{0,31}$",
            });
        }
        if Self::RESERVED.contains(&name.as_str()) || RETYPED.contains(&name.as_str()) {
            return Err(NameError::Reserved {
                what,
                proposed: Some(format!("{name}_")),
                found: name,
            });
        }
        Ok(Self(name))
    }
}

impl FileName {
    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let (name, what) = (name.into(), "file");
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let matches = name
            .as_bytes()
            .first()
            .is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_')
            && name.len() <= limits::FILE_NAME_BYTES_MAX
            && name.bytes().all(fits)
            && !name.contains("..");
        if !matches {
            return Err(NameError::Pattern {
                what,
                found: shown(&name),
                pattern: "^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$ without ..",
                proposed: None,
            });
        }
        // Windows takes CON.txt for CON, and lets a final dot fall.
        let stem = name.split('.').next().unwrap_or_default();
        if is_device_of_windows(&stem.to_ascii_lowercase()) || name.ends_with('.') {
            return Err(NameError::Reserved {
                what,
                proposed: Some(format!("f-{}", name.trim_end_matches('.'))),
                found: name,
            });
        }
        Ok(Self(name))
    }
}

const RETYPED: [&str; 7] = ["nan", "inf", "infinity", "true", "false", "null", "none"];

fn public_name(
    what: &'static str,
    name: String,
    longest: usize,
    pattern: &'static str,
    prefix: &'static str,
) -> Result<String, NameError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let matches = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && name.len() <= longest
        && name.bytes().all(fits);
    if !matches {
        let proposed = proposed(&name, prefix, longest, fits);
        return Err(NameError::Pattern {
            what,
            found: shown(&name),
            pattern,
            proposed,
        });
    }
    if is_taken_for_another(&name) {
        return Err(NameError::Reserved {
            what,
            proposed: Some(format!("{prefix}{name}")),
            found: name,
        });
    }
    Ok(name)
}

/// The nearest name that would pass: other characters become `_`, a prefix makes it begin with a letter.
fn proposed(name: &str, prefix: &str, longest: usize, fits: impl Fn(u8) -> bool) -> Option<String> {
    let body: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii() && fits(c as u8) { c } else { '_' })
        .collect();
    if !body.bytes().any(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let starts_well = body.as_bytes()[0].is_ascii_alphabetic();
    let mut whole = if starts_well {
        body
    } else {
        format!("{prefix}{body}")
    };
    whole.truncate(longest);
    // A word that is refused itself helps nobody.
    if is_taken_for_another(&whole) || StreamName::RESERVED.contains(&whole.as_str()) {
        whole = format!("{prefix}{whole}");
    }
    Some(whole)
}

/// Whether readers or file systems take a word for something else, whatever its case.
fn is_taken_for_another(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    is_device_of_windows(&lower) || RETYPED.contains(&lower.as_str())
}

fn is_device_of_windows(lower: &str) -> bool {
    ["con", "prn", "aux", "nul"].contains(&lower)
        || (lower.len() == 4
            && (lower.starts_with("com") || lower.starts_with("lpt"))
            && lower.as_bytes()[3].is_ascii_digit())
}

/// At most 64 characters of a refused name, so that an error stays a sentence.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

macro_rules! name_type {
    ($type:ident) => {
        impl $type {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.pad(&self.0)
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(to, "{}({})", stringify!($type), self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(D::Error::custom)
            }
        }
    };
}

name_type!(DeviceId);
name_type!(SessionId);
name_type!(UserId);
name_type!(StudyId);
name_type!(KeyName);
name_type!(StreamName);
name_type!(FileName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_full() {
        for good in ["a", "phone_1", "Watch-2", &"d".repeat(32)] {
            assert!(DeviceId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a\n", "a b", "a/b", "..", "é", &"d".repeat(33)] {
            assert!(DeviceId::new(bad).is_err(), "{bad:?}");
        }
        assert!(SessionId::new("s".repeat(64)).is_ok());
        assert!(SessionId::new("s".repeat(65)).is_err());
        assert!(
            UserId::new("ada-l").is_ok() && StudyId::new("gait_2").is_ok() && KeyName::new("nightly").is_ok()
        );
        for bad in ["", "ada@lab", "ada lovelace", "1", "../x", "a\u{202e}"] {
            assert!(UserId::new(bad).is_err() && StudyId::new(bad).is_err() && KeyName::new(bad).is_err());
        }
    }

    #[test]
    fn a_file_name_is_no_path() {
        for good in ["a", "clip_1.mp4", "2026-11-21.csv", "_x", &"f".repeat(255)] {
            assert!(FileName::new(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            ".",
            "..",
            ".hidden",
            "-rf",
            "a/b",
            "a\\b",
            "a..b",
            "a\n",
            "a\0",
            "CON",
            "con.txt",
            "a.",
            "C:a",
            "\u{e9}",
            &"f".repeat(256),
        ];
        for bad in bad {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_proposed_is_taken() {
        let NameError::Pattern { proposed, .. } = StreamName::new("NaN").unwrap_err() else {
            panic!()
        };
        assert_eq!(proposed.as_deref(), Some("x_nan"));
        let NameError::Pattern { proposed, .. } = SessionId::new(" con ").unwrap_err() else {
            panic!()
        };
        assert_eq!(proposed.as_deref(), Some("s-con"));
        let NameError::Pattern { proposed, .. } = StreamName::new("Seq").unwrap_err() else {
            panic!()
        };
        assert!(StreamName::new(proposed.unwrap()).is_ok());
    }

    #[test]
    fn what_readers_retype_is_refused_with_a_proposal() {
        let NameError::Pattern { proposed, .. } = SessionId::new("2026-11-21").unwrap_err() else {
            panic!()
        };
        assert_eq!(proposed.as_deref(), Some("s-2026-11-21"));
        let NameError::Pattern { proposed, .. } = SessionId::new("1e5").unwrap_err() else {
            panic!()
        };
        assert_eq!(proposed.as_deref(), Some("s-1e5"));
        for word in ["nan", "INF", "True", "null", "con", "COM1", "lpt9"] {
            assert!(
                matches!(SessionId::new(word), Err(NameError::Reserved { .. })),
                "{word}"
            );
        }
        for word in StreamName::RESERVED {
            assert!(StreamName::new(word).is_err(), "{word}");
        }
        assert!(StreamName::new("Acc").is_err());
    }
}
