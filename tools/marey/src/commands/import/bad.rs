//! What of a file can't be a sample: named up to a bound, counted beyond, and reason enough to import nothing.

use crate::output::{Failure, Output, Result};
use std::fmt::Display;
use std::path::Path;

/// Bad ones that are named.
const NAMED_MAX: usize = 20;

/// The bad rows or messages of a file.
#[derive(Debug)]
pub struct Bad<T> {
    pub count: u64,
    /// The first of them.
    pub named: Vec<T>,
}

impl<T> Default for Bad<T> {
    fn default() -> Self {
        Self {
            count: 0,
            named: Vec::new(),
        }
    }
}

impl<T: Display> Bad<T> {
    pub fn take(&mut self, bad: T) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(bad);
        }
    }

    /// Names them; fails if there are any that may not be left out, or nothing else. `what` is what they are, in the plural.
    pub fn judge(&self, path: &Path, what: &str, good: u64, may_skip: bool, output: &Output) -> Result {
        let (path, count) = (path.display(), self.count);
        for bad in &self.named {
            output.warn(format!("{path}, {bad}"));
        }
        let more = count - self.named.len() as u64;
        if more > 0 {
            output.warn(format!("{path}: {more} more bad {what}"));
        }
        match (count, may_skip, good) {
            (1.., false, _) => Err(Failure::fault(format!(
                "{path}: {count} of {} {what} are bad, so nothing was imported; mend them, or leave them out with --skip-bad-{what}",
                count + good
            ))),
            (_, _, 0) => Err(Failure::fault(format!(
                "{path}: it has no good {what}, so nothing was imported"
            ))),
            _ => Ok(()),
        }
    }
}
