//! Text from outside: what may stand in a record, and how it is shown to people.

use crate::limits;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A short text for people: 1 to 1,000 bytes of UTF-8, nothing in it that steers a terminal or turns the direction of
/// writing round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a label of {bytes} bytes; it takes 1 to {}", limits::LABEL_BYTES_MAX)]
    Length { bytes: usize },
    #[error("a label with the control character U+{code:04X} at byte {at}; leave it out")]
    Control { code: u32, at: usize },
}

impl Label {
    /// Checks and takes a text.
    pub fn new(text: impl Into<String>) -> Result<Self, LabelError> {
        let text = text.into();
        if text.is_empty() || text.len() > limits::LABEL_BYTES_MAX {
            return Err(LabelError::Length { bytes: text.len() });
        }
        match text.char_indices().find(|(_, c)| is_steering(*c)) {
            Some((at, c)) => Err(LabelError::Control { code: c as u32, at }),
            None => Ok(Self(text)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.pad(&self.0)
    }
}

impl std::str::FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        Self::new(text)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Text from outside as it may go to a terminal or into a line of a log: what steers either is replaced.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_steering(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// The same for text of several lines: line ends and tabs stay.
pub fn plain_lines(text: &str) -> String {
    let replaced = |c| !matches!(c, '\n' | '\t') && is_steering(c);
    text.chars()
        .map(|c| {
            if replaced(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Control characters (C0, DEL, C1), separators of lines and paragraphs, and what turns the direction of writing.
pub fn is_steering(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_hold_words_and_nothing_that_is_steering() {
        for good in [
            "a",
            "stood up",
            "\u{00E9}t\u{00E9} \u{2192} \u{1F44B}",
            &"x".repeat(1000),
        ] {
            assert_eq!(Label::new(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "a\n",
            "\u{1b}[2J",
            "a\u{0}",
            "\u{9b}31m",
            "\u{202E}txt",
            &"x".repeat(1001),
        ] {
            assert!(Label::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Label::new("ab\u{7}"), Err(LabelError::Control { code: 7, at: 2 }));
    }

    #[test]
    fn plain_text_keeps_its_length_and_loses_its_power() {
        assert_eq!(plain("a\u{1b}[31mb\r\n"), "a\u{FFFD}[31mb\u{FFFD}\u{FFFD}");
        assert_eq!(plain_lines("a\n\tb\u{1b}\r"), "a\n\tb\u{FFFD}\u{FFFD}");
        assert_eq!(plain("pl\u{00E4}in \u{1F44B}"), "pl\u{00E4}in \u{1F44B}");
    }
}
