//! Free text from outside: names of people's own, labels, remarks.
//!
//! Invariant: what passes has no control characters and none that turn the direction of writing, so that no terminal and no
//! page is steered by it; it is escaped where it is shown, never here.

use marey_format::types::{FileName, is_steering};

/// Longest free text, in characters.
pub(crate) const TEXT_CHARS_MAX: usize = 1_000;

/// Checks a free text; `what` is named in the error.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(what: &str, text: &str) -> Result<(), String> {
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err(format!("{what} is longer than {TEXT_CHARS_MAX} characters"));
    }
    if let Some(at) = text.chars().position(is_steering) {
        return Err(format!(
            "{what} has a control character at position {at}; plain text is taken"
        ));
    }
    Ok(())
}

/// A name of a file, as people call it: no path, nothing hidden.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn file_name(name: &str) -> Result<(), String> {
    match FileName::new(name) {
        Ok(name) if name.as_str().len() <= FILE_NAME_BYTES_MAX => Ok(()),
        Ok(_) => Err(format!(
            "a file's name has at most {FILE_NAME_BYTES_MAX} characters"
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// Shorter than what a file system takes: there is more to put behind it.
const FILE_NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_refused() {
        for wrong in [
            "a\u{1b}[2J",
            "a\nb",
            "\u{7f}",
            "a\u{202e}b",
            "\u{9b}1m",
            &"x".repeat(1001),
        ] {
            assert!(check("a text", wrong).is_err(), "{wrong:?}");
        }
        for right in [
            "",
            "walks to the door",
            "<b>höher</b> & weiter",
            &"é".repeat(1000),
        ] {
            assert!(check("a text", right).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn names_of_files_lead_nowhere() {
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            ".hidden",
            "-rf",
            "a..b",
            "a.",
            "a\n",
            "é.mp4",
            "a b",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(file_name(wrong).is_err(), "{wrong:?}");
        }
        for right in ["walk.mp4", "_x", "GoPro-01.MP4", "0"] {
            assert!(file_name(right).is_ok(), "{right:?}");
        }
    }
}
