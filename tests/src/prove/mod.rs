//! The proofs of durability that are too long for every day: each by one command, each with a short form among the tests.
//!
//! A proof takes a [`Run`] and gives a [`Tally`]: what was tried, which faults truly happened, what was skipped and why,
//! and each failure with what repeats it. It never asserts: the test or the program that called it does.

pub mod corruption;
pub mod file_systems;
pub mod io_errors;
pub mod kills;
pub mod power_cuts;
pub mod script;
pub mod simulation;

mod rounds;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::io::Write;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many states, kills, seeds or harms; a proof that walks through all of something stops there.
    pub count: u64,
    /// Where random numbers begin. The same seed repeats the same run.
    pub seed: u64,
    /// A durability bug built in on purpose: the proof must find it.
    pub planted: Option<Planted>,
    /// How many threads work on it.
    pub threads: usize,
    /// Only this one, as a failure named it: script, operation, subset.
    pub only: Option<[u64; 3]>,
    /// Say on standard error how far it is.
    pub progress: bool,
}

impl Run {
    /// One of `count`, as a test runs it.
    pub fn short(count: u64) -> Self {
        Self {
            count,
            seed: 1,
            planted: None,
            threads: 2,
            only: None,
            progress: false,
        }
    }

    /// The same with a bug.
    pub fn planted(self, planted: Planted) -> Self {
        Self {
            planted: Some(planted),
            ..self
        }
    }
}

/// A bug that a proof has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Syncs of files say yes and do nothing: an ack before the sync.
    AckBeforeSync,
    /// Syncs of folders say yes and do nothing.
    NoDirectorySync,
    /// What a publication replaces is deleted before it is durable.
    DeleteBeforePublish,
}

impl Planted {
    pub const ALL: [(&'static str, Self); 3] = [
        ("ack-before-sync", Self::AckBeforeSync),
        ("no-directory-sync", Self::NoDirectorySync),
        ("delete-before-publish", Self::DeleteBeforePublish),
    ];
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What was counted: `power cuts`, `kills`.
    pub what: &'static str,
    /// How many of it.
    pub done: u64,
    /// Faults that truly happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Other figures.
    pub figures: BTreeMap<&'static str, f64>,
    /// What this machine could not do, and why.
    pub skipped: Vec<String>,
    /// What broke a promise, with the seed or the place that repeats it. The first of them only, up to [`Self::MOST`].
    pub failures: Vec<String>,
}

impl Tally {
    /// Failures that are listed; a proof may stop there.
    pub const MOST: usize = 10;

    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            ..Self::default()
        }
    }

    /// Whether nothing broke, and something was tried or the skip is said.
    pub fn is_well(&self) -> bool {
        self.failures.is_empty() && (self.done > 0 || !self.skipped.is_empty())
    }

    pub fn fault(&mut self, kind: &'static str, times: u64) {
        *self.faults.entry(kind).or_default() += times;
    }

    /// Adds to a figure.
    pub fn figure(&mut self, name: &'static str, more: f64) {
        *self.figures.entry(name).or_default() += more;
    }

    pub fn fail(&mut self, what: impl Display) {
        if self.failures.len() < Self::MOST {
            self.failures.push(what.to_string());
        }
    }

    /// Adds what another thread counted.
    pub fn add(&mut self, other: Self) {
        self.done += other.done;
        for (kind, times) in other.faults {
            self.fault(kind, times);
        }
        for (name, value) in other.figures {
            self.figure(name, value);
        }
        self.skipped.extend(other.skipped);
        other.failures.into_iter().for_each(|failure| self.fail(failure));
    }

    /// Prints it where a test's output is not hidden: a count that nobody sees proves nothing.
    pub fn show(&self) {
        say(self);
    }

    pub fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "done": self.done,
            "faults": self.faults,
            "figures": self.figures,
            "skipped": self.skipped,
            "failures": self.failures,
        })
    }
}

impl Display for Tally {
    fn fmt(&self, to: &mut Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} {}", self.done, self.what)?;
        for (kind, times) in &self.faults {
            write!(to, ", {kind} {times}")?;
        }
        for (name, value) in &self.figures {
            write!(to, ", {name} {value}")?;
        }
        for skipped in &self.skipped {
            write!(to, "\n  SKIPPED: {skipped}")?;
        }
        match self.failures.len() {
            0 if self.done == 0 => write!(to, "; nothing was tried"),
            0 => write!(to, "; nothing lost, doubled or invented"),
            _ => {
                for failure in &self.failures {
                    write!(to, "\n  FAILED: {failure}")?;
                }
                Ok(())
            }
        }
    }
}

/// A line past the capture of the tests' output.
pub fn say(line: impl Display) {
    let _nobody_reads = writeln!(std::io::stderr(), "{line}");
}
