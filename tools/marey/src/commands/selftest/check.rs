//! After the restart: whether every record that was reported is there.

use super::records::{self, Found, Kind, Run};
use super::{plug, witness};
use crate::output::{Failure, Output, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
struct Checked {
    run: String,
    folder: PathBuf,
    /// Records that were reported as synced: 1 to this one.
    acknowledged: u64,
    /// Of those, by the way in which they were written.
    lost: BTreeMap<&'static str, u64>,
    /// The first of those that are lost.
    first_lost: Vec<Lost>,
    /// Records that are there and were not reported any more: as good as lost, and no promise broken.
    beyond: u64,
}

#[derive(Debug, Serialize)]
struct Lost {
    number: u64,
    kind: Kind,
    file: String,
    offset: u64,
    what: &'static str,
}

pub fn run(folder: &Path, reported: &str, output: &Output) -> Result {
    let own = records::folder(folder);
    let Some(run) = records::begun(folder)? else {
        return Err(Failure::fault(format!(
            "no test stands in {}: none was begun in {}, or a folder that was synced is lost",
            own.display(),
            folder.display()
        )));
    };
    let acknowledged = acknowledged(reported, &run)?;
    let checked = check(&own, &run, acknowledged, output)?;
    output.progress_done();
    output.result(&checked, show)?;
    let lost: u64 = checked.lost.values().sum();
    if lost > 0 {
        return Err(Failure::fault(format!(
            "{lost} of {acknowledged} records that the disk said it had are lost: do not record on it; what is left is in \
             {}",
            own.display()
        )));
    }
    records::remove(folder)
        .map_err(|error| Failure::fault(format!("all is well, but removing {}: {error}", own.display())))
}

/// The highest number that the witness has of a test.
fn acknowledged(reported: &str, run: &Run) -> Result<u64> {
    let unknown = || {
        Failure::fault(format!(
            "{reported} has nothing of the test {}, which is the one that stands here",
            run.run
        ))
    };
    if Path::new(reported).is_file() {
        let noted = witness::read(Path::new(reported))?;
        return noted.get(&run.run).copied().ok_or_else(unknown);
    }
    if !reported.contains(':') {
        return Err(Failure::Usage(format!(
            "{reported} is no file, and no HOST:PORT of a witness"
        )));
    }
    let mut socket = plug::dial(reported)?;
    let reply = plug::ask(&mut socket, &format!("last {}", run.run))?;
    reply.parse().map_err(|_| unknown())
}

fn check(own: &Path, run: &Run, acknowledged: u64, output: &Output) -> Result<Checked> {
    let mut checked = Checked {
        run: run.run.clone(),
        folder: own.to_owned(),
        acknowledged,
        lost: Kind::ALL.iter().map(|kind| (kind.as_str(), 0)).collect(),
        first_lost: Vec::new(),
        beyond: 0,
    };
    for number in 1..=acknowledged {
        if number.is_multiple_of(TELL_EVERY) {
            output.progress(format!("checking: {number} of {acknowledged}"));
        }
        let what = match records::look(own, run, number)? {
            Found::Whole => continue,
            Found::Missing => "is not there",
            Found::Changed => "holds other bytes",
        };
        let place = records::place(number);
        *checked.lost.entry(place.kind.as_str()).or_default() += 1;
        if checked.first_lost.len() < LISTED {
            checked.first_lost.push(Lost {
                number,
                kind: place.kind,
                file: place.file,
                offset: place.offset,
                what,
            });
        }
    }
    for number in acknowledged + 1..=acknowledged + BEYOND {
        checked.beyond += u64::from(records::look(own, run, number)? == Found::Whole);
    }
    Ok(checked)
}

fn show(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked
        .first_lost
        .iter()
        .map(|lost| {
            format!(
                "lost: record {} ({}, {} at offset {}) {}",
                lost.number,
                lost.kind.as_str(),
                lost.file,
                lost.offset,
                lost.what
            )
        })
        .collect();
    let (lost, all) = (checked.lost.values().sum::<u64>(), checked.acknowledged);
    if lost > checked.first_lost.len() as u64 {
        lines.push(format!("and {} more", lost - checked.first_lost.len() as u64));
    }
    match lost {
        0 => lines.push(format!(
            "{all} records were reported as synced, and all of them are there. That was one cut; a disk that loses \
             something does not do so every time: repeat it, ten times if you can."
        )),
        _ => {
            let kinds: Vec<String> = checked.lost.iter().map(|(kind, lost)| format!("{lost} {kind}")).collect();
            lines.push(format!(
                "{all} records were reported as synced, {lost} of them are lost: {}",
                kinds.join(", ")
            ));
        }
    }
    lines.join("\n")
}

/// Lost records that are listed.
const LISTED: usize = 20;
/// How far behind the last report is looked.
const BEYOND: u64 = 64;
const TELL_EVERY: u64 = 10_000;
