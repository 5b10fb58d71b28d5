//! Where verbs print: results on standard output, everything else on standard error.
//!
//! With `--json` a result is one object; progress and log lines never stand between.
//!
//! Invariant: nothing that leaves here steers a terminal, whoever chose the text: text loses such characters, JSON escapes
//! them and loses nothing.

pub use marey_format::types::plain;
use marey_format::types::{is_steering, plain_lines};
use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// How a verb fails: what is said, and which code it exits with.
#[derive(Debug)]
pub enum Failure {
    /// Something is wrong with what was looked at, or it could not be done: 1.
    Fault(String),
    /// The call itself: 2.
    Usage(String),
    /// No hub answered: 3.
    Unreachable(String),
}

impl Failure {
    pub fn fault(what: impl Display) -> Self {
        Self::Fault(what.to_string())
    }

    pub fn code(&self) -> u8 {
        match self {
            Self::Fault(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(what) | Self::Usage(what) | Self::Unreachable(what) => to.write_str(what),
        }
    }
}

/// Every error type that a verb meets is a sentence already.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fault(error.to_string())
    }
}

/// The result of a verb.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Standard output and standard error, used in one way.
#[derive(Debug)]
pub struct Output {
    json: bool,
    progress: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            progress: std::io::stderr().is_terminal(),
        }
    }

    /// Whether somebody sits before a terminal and watches.
    pub fn is_watched(&self) -> bool {
        self.progress
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The result: as JSON, or as text made of it.
    pub fn result<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result {
        let printed = match self.json {
            true => escaped(&serde_json::to_string_pretty(value)?),
            false => plain_lines(&text(value)),
        };
        self.write(&printed)
    }

    /// One line of a result that comes line by line.
    pub fn line(&self, line: &str) -> Result {
        match self.json {
            true => self.write(&escaped(line)),
            false => self.write(&plain_lines(line)),
        }
    }

    fn write(&self, line: &str) -> Result {
        let mut to = std::io::stdout().lock();
        match writeln!(to, "{}", line.trim_end_matches('\n')) {
            // Whoever read has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            done => Ok(done?),
        }
    }

    /// What is being done, for people who wait; on a terminal the line is written over.
    pub fn progress(&self, what: impl Display) {
        let what = plain(&what.to_string());
        let mut to = std::io::stderr().lock();
        let done = match self.progress {
            true => write!(to, "\r\x1b[2K{what}").and_then(|()| to.flush()),
            false => writeln!(to, "{what}"),
        };
        done.ok();
    }

    /// Ends the line that progress was shown on.
    pub fn progress_done(&self) {
        if self.progress {
            write!(std::io::stderr(), "\r\x1b[2K").ok();
        }
    }

    /// Something that a person should know and that does not change the result.
    pub fn warn(&self, what: impl Display) {
        self.progress_done();
        // Whoever listened has heard enough: that ends no work.
        let what = plain_lines(&what.to_string());
        writeln!(std::io::stderr(), "warning: {what}").ok();
    }

    pub fn failure(&self, failure: &Failure) {
        self.progress_done();
        let failure = plain_lines(&failure.to_string());
        writeln!(std::io::stderr(), "marey: {failure}").ok();
    }
}

/// JSON in which no character steers a terminal: those that serde leaves as they are become escapes of the same meaning.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => text.push(c),
            // Below U+10000 all of them.
            c if is_steering(c) => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text
}

/// A table for people: columns as wide as their widest cell, numbers to the right. A cell is one line.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| {
                if is_number(cell) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&head))
        .chain(rows.iter().map(|row| line(row)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A day, from UTC seconds.
pub fn utc_day(utc_s: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(utc_s).map_or_else(
        |_| utc_s.to_string(),
        |at| format!("{:04}-{:02}-{:02}", at.year(), u8::from(at.month()), at.day()),
    )
}

/// A day and a minute, from UTC seconds.
pub fn utc_minute(utc_s: i64) -> String {
    let minute = utc_s.rem_euclid(86_400) / 60;
    format!("{} {:02}:{:02}", utc_day(utc_s), minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_and_no_json_steers_a_terminal() {
        let rows = [vec!["a\nb\u{1b}[2J".to_owned(), "12".to_owned()]];
        let text = table(&["name", "number"], &rows);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let value = serde_json::json!({"agent": "x\u{9b}31m\u{202e}\u{7f}\u{1b}"});
        let json = escaped(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(!json.chars().any(|c| c != '\n' && is_steering(c)), "{json:?}");
        let again: serde_json::Value = serde_json::from_str(&json).expect("it is JSON still");
        assert_eq!(again, value, "nothing is lost");
    }
}
