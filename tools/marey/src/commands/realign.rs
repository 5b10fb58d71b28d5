//! `marey realign SESSION`: aligns the clocks of a session anew, publishes it with the new times, and says how far they moved.
//! The logs are read and not touched; the map of the times before stays.

use super::compact;
use crate::hubdir;
use crate::output::{Failure, Output, Result, plain, table};
use marey_engine::compact::{Generation, Manifest, PublishedMap, earlier_map, read_map};
use marey_engine::disk::OsDisk;
use marey_engine::{Session, SessionError};
use marey_format::SessionId;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    session: SessionId,
}

#[derive(Debug, Serialize)]
struct Realigned {
    session: SessionId,
    /// Version of the alignment before and now.
    alignment_before: u32,
    alignment: u32,
    generation: u32,
    /// Where the map of the times before stands, below the session's folder.
    kept: Option<String>,
    clocks: Vec<Moved>,
}

/// How far the times of one clock moved, at the corners of both maps.
#[derive(Debug, PartialEq, Serialize)]
struct Moved {
    device: String,
    clock: String,
    /// None where one of the two has no such clock.
    most_us: Option<f64>,
    rms_us: Option<f64>,
    /// The median bound of the pieces; none where that has no end.
    err_before_us: Option<f64>,
    err_us: Option<f64>,
}

pub fn run(arguments: Arguments, dir: Option<PathBuf>, output: &Output) -> Result {
    let dir = hubdir::find(dir)?;
    let session = arguments.session;
    let disk = OsDisk::new(&dir);
    let folder = Session::dir(&session);
    if !dir.join(&folder).is_dir() {
        return Err(Failure::fault(SessionError::Unknown(session)));
    }
    let Some(before) = read_manifest(&disk, &folder, &session)? else {
        return Err(Failure::fault(format!(
            "session {session} was never published, so there is nothing to realign; `marey compact {session}` publishes one \
             that was stopped"
        )));
    };
    let generation = compact::publish(&dir, &session, Generation::Always, output)?;
    let now = published(&disk, &folder)?;
    let kept = earlier_map(before.generation);
    // By the manifest: a file of this name may be somebody else's.
    let old = match now.earlier_maps.iter().any(|map| map.path == kept) {
        true => read_map(&disk, &folder, Some(&kept))?,
        false => None,
    };
    let new = read_map(&disk, &folder, None)?.unwrap_or_default();
    let clocks = moved(old.as_deref().unwrap_or_default(), &new);
    let realigned = Realigned {
        session,
        alignment_before: before.alignment,
        alignment: now.alignment,
        generation,
        kept: old.map(|_| kept),
        clocks,
    };
    output.result(&realigned, show)
}

/// The manifest of a session, if it was published; where that is damaged, with what helps.
pub fn read_manifest(disk: &OsDisk, folder: &Path, session: &SessionId) -> Result<Option<Manifest>> {
    Manifest::read(disk, folder).map_err(|error| {
        Failure::fault(format!(
            "{error}; `marey compact {session} --again` makes it again"
        ))
    })
}

fn published(disk: &OsDisk, folder: &Path) -> Result<Manifest> {
    Manifest::read(disk, folder)?.ok_or_else(|| Failure::fault("the manifest that was just written is gone"))
}

fn moved(old: &[PublishedMap], new: &[PublishedMap]) -> Vec<Moved> {
    let same = |a: &PublishedMap, b: &PublishedMap| (&a.device, &a.clock) == (&b.device, &b.clock);
    let gone = old.iter().filter(|map| !new.iter().any(|now| same(map, now)));
    let alone = |map: &PublishedMap, is_new: bool| Moved {
        device: map.device.clone(),
        clock: map.clock.clone(),
        most_us: None,
        rms_us: None,
        err_before_us: median_err_us(map).filter(|_| !is_new),
        err_us: median_err_us(map).filter(|_| is_new),
    };
    let each = new.iter().map(|now| match old.iter().find(|map| same(map, now)) {
        None => alone(now, true),
        Some(before) => {
            let corners = before.rows.iter().chain(&now.rows).map(|row| row.device_time_ns);
            let steps_us: Vec<f64> = corners
                .filter_map(|at| Some(now.at(at)?.abs_diff(before.at(at)?) as f64 / 1e3))
                .collect();
            let squares: f64 = steps_us.iter().map(|step| step * step).sum();
            Moved {
                most_us: Some(steps_us.iter().copied().fold(0.0, f64::max)),
                rms_us: Some((squares / steps_us.len().max(1) as f64).sqrt()),
                err_before_us: median_err_us(before),
                ..alone(now, true)
            }
        }
    });
    each.chain(gone.map(|map| alone(map, false))).collect()
}

/// None where it has no end.
fn median_err_us(map: &PublishedMap) -> Option<f64> {
    let mut errs: Vec<f64> = map.rows.iter().map(|row| row.err_ns / 1e3).collect();
    errs.sort_by(f64::total_cmp);
    errs.get(errs.len() / 2).copied().filter(|err| err.is_finite())
}

fn show(realigned: &Realigned) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let row = |moved: &Moved| {
        let numbers = [moved.most_us, moved.rms_us, moved.err_before_us, moved.err_us];
        let named = [plain(&moved.device), plain(&moved.clock)];
        named
            .into_iter()
            .chain(numbers.map(number))
            .collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = realigned.clocks.iter().map(row).collect();
    let head = [
        "device",
        "clock",
        "moved by at most us",
        "rms us",
        "bound before us",
        "bound us",
    ];
    let kept = match &realigned.kept {
        Some(kept) => format!("The map of the times before stays as {kept}."),
        None => "There was no map of the times before that could be kept.".to_owned(),
    };
    format!(
        "session {}: generation {} stands, alignment {} (before: {})\n\n{}\n\n{kept}",
        realigned.session,
        realigned.generation,
        realigned.alignment,
        realigned.alignment_before,
        table(&head, &rows),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use marey_engine::clock::MapRow;

    fn map(clock: &str, rows: &[(i64, i64, f64)]) -> PublishedMap {
        let row = |&(device_time_ns, session_ns, err_ns): &(i64, i64, f64)| MapRow {
            device_time_ns,
            session_ns,
            rate: 1.0,
            err_ns,
            detectable_ns: 0.0,
            segment: 0,
        };
        PublishedMap {
            device: "phone".into(),
            clock: clock.into(),
            epochs: "0".into(),
            rows: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn moves_are_told_at_the_corners_of_both_maps() {
        let old = [
            map("a", &[(0, 100, 2e3), (1_000, 1_100, 4e3)]),
            map("gone", &[(0, 0, 1e3)]),
        ];
        let new = [
            map("a", &[(0, 100, 1e3), (500, 3_600, 1e3)]),
            map("new", &[(0, 0, f64::INFINITY)]),
        ];
        let moved = moved(&old, &new);
        assert_eq!(moved.len(), 3);
        // 0 where both begin, 3 us at 500 and at 1000, of four corners.
        assert_eq!(moved[0].most_us, Some(3.0));
        assert_eq!(moved[0].rms_us, Some((18.0_f64 / 4.0).sqrt()));
        assert_eq!((moved[0].err_before_us, moved[0].err_us), (Some(4.0), Some(1.0)));
        assert_eq!((moved[1].most_us, moved[1].err_us), (None, None));
        assert_eq!(
            (moved[2].clock.as_str(), moved[2].err_before_us),
            ("gone", Some(1.0))
        );
    }
}
