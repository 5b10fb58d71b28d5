//! Where verbs print: results on standard output, everything else on standard error.
//!
//! With `--json` a result is one object; progress and log lines never stand between.

use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

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
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result {
        let printed = match self.json {
            true => serde_json::to_string_pretty(value)?,
            false => text(value),
        };
        self.line(&printed)
    }

    /// One line of a result that comes line by line.
    pub fn line(&self, line: &str) -> Result {
        let mut to = std::io::stdout().lock();
        match writeln!(to, "{}", line.trim_end_matches('\n')) {
            // Whoever read has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            done => Ok(done?),
        }
    }

    /// What is being done, for people who wait; on a terminal the line is written over.
    pub fn progress(&self, what: impl Display) {
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
        writeln!(std::io::stderr(), "warning: {what}").ok();
    }

    pub fn failure(&self, failure: &Failure) {
        self.progress_done();
        writeln!(std::io::stderr(), "marey: {failure}").ok();
    }
}

/// Log lines on standard error: warnings, or more. `MAREY_LOG` takes a filter.
pub fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("MAREY_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}

/// A table for people: columns as wide as their widest cell, numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
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

/// Text from outside without the characters that steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}
