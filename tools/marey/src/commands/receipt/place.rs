//! Which receipt is meant: that of a session by name or folder, or a file.

use crate::hubdir;
use crate::output::{Failure, Result};
use marey_engine::Session;
use marey_engine::compact::{Receipt, number_of, receipt_numbers};
use marey_engine::disk::Disk;
use marey_engine::salvage::{Source, What};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a receipt stands.
pub struct Place {
    pub disk: Arc<dyn Disk>,
    /// The session's folder on that disk.
    pub dir: PathBuf,
    pub number: u32,
    /// The receipt itself, absolute.
    pub path: PathBuf,
}

impl Place {
    /// The newest receipt of what was named, or that of a generation.
    pub fn find(given: &Path, number: Option<u32>, dir: Option<PathBuf>) -> Result<Self> {
        if !given.is_file() {
            return Self::of_session(hubdir::source(Some(given), dir)?, number);
        }
        let name = given
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Some(named) = number_of(name) else {
            let what = "is no receipt; one is called receipt-NNNN.json and stands in its session's folder";
            return Err(Failure::Usage(format!("{} {what}", given.display())));
        };
        if number.is_some_and(|number| number != named) {
            return Err(Failure::Usage(format!(
                "{name} is that of generation {named}; leave --number out"
            )));
        }
        let folder = std::path::absolute(given)?;
        let folder = folder.parent().unwrap_or(Path::new("/"));
        Self::of_session(Source::at(folder)?, Some(named))
    }

    fn of_session(source: Source, number: Option<u32>) -> Result<Self> {
        let What::Session { session } = source.what() else {
            let what = "is no session; name one, such as `marey receipt walk-01`";
            return Err(Failure::Usage(format!("{} {what}", source.path().display())));
        };
        let (disk, dir) = (source.disk(), Session::dir(session));
        let numbers = receipt_numbers(&*disk, &dir)?;
        let found = match number {
            None => numbers.last().copied(),
            Some(number) => numbers.iter().copied().find(|&known| known == number),
        };
        let Some(found) = found else {
            let known: Vec<String> = numbers.iter().map(u32::to_string).collect();
            return Err(Failure::fault(match (number, known.is_empty()) {
                (_, true) => format!(
                    "session {session} has no receipt: it was never sealed; `marey session stop {session} --wait` does that"
                ),
                (Some(number), false) => {
                    format!(
                        "session {session} has no receipt {number}; it has {}",
                        known.join(", ")
                    )
                }
                (None, false) => unreachable!("the newest of some was found"),
            }));
        };
        let path = disk.describe(&dir.join(Receipt::name(found)));
        Ok(Self {
            path,
            number: found,
            disk,
            dir,
        })
    }

    /// The hub that the session stands in, if it does.
    pub fn hub_dir(&self) -> Option<PathBuf> {
        let hub = self
            .path
            .ancestors()
            .find(|folder| folder.join("hub.json").is_file());
        hub.map(Path::to_owned)
    }
}
