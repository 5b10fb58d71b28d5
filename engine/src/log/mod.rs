//! Device logs: one for each device and session, in segments.
//!
//! `scan` says of bytes what is valid, what is damage and what is torn tail; `read` streams the frames of a log;
//! `writer` takes frames into a `segment` and says what is to be written (`pending` holds it), `flushing` writes it; `recover` makes a log writable again
//! after a crash, from a `landmark` on where there is one. What the frames mean is `state`'s business.

mod flushing;
mod landmark;
mod pending;
mod read;
mod recover;
mod replay;
mod scan;
mod segment;
mod window;
mod writer;

pub(crate) use flushing::{FlushError, Flushing, Seal, sync_footer};
pub(crate) use landmark::is_landmark;
pub use read::{LogFrame, LogReader, SegmentSummary, read_frame};
pub(crate) use recover::{JournalFound, JournalFrames, recover};
pub use replay::{Replay, Replayed};
pub use scan::{Fault, FaultKind};
pub(crate) use segment::Before;
pub(crate) use writer::{Log, TakeError, backward, reused};

use crate::disk::Disk;
use crate::error::StorageError;
use crate::session::Session;
use marey_format::{DeviceId, SessionId, limits};
use std::path::{Path, PathBuf};

/// The name of a segment's file.
pub fn segment_name(segment: u32) -> String {
    format!("{segment:06}.mlog")
}

/// The number in the name of a segment's file.
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".mlog")?;
    if digits.len() < 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    (number <= limits::SEGMENT_NUMBER_MAX).then_some(number)
}

/// The devices that have a log in a session, in order of their names.
pub fn devices(disk: &dyn Disk, session: &SessionId) -> Result<Vec<DeviceId>, StorageError> {
    devices_in(disk, &Session::dir(session).join("logs"))
}

/// The devices that have a log in a folder of logs.
pub fn devices_in(disk: &dyn Disk, logs: &Path) -> Result<Vec<DeviceId>, StorageError> {
    let io = |error| StorageError::io("listing", disk.describe(logs), error);
    if disk.stat(logs).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let entries = disk.list(logs).map_err(io)?;
    Ok(entries
        .into_iter()
        .filter(|e| e.stat.is_dir)
        .filter_map(|e| DeviceId::new(e.name).ok())
        .collect())
}

/// The segments of a log by number, in order, with their lengths in bytes.
pub(crate) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u32, PathBuf, u64)>, StorageError> {
    let io = |error| StorageError::io("listing", disk.describe(dir), error);
    if disk.stat(dir).map_err(io)?.is_none() {
        return Ok(Vec::new());
    }
    let mut found: Vec<_> = disk
        .list(dir)
        .map_err(io)?
        .into_iter()
        .filter(|entry| !entry.stat.is_dir)
        .filter_map(|entry| {
            Some((
                segment_number(&entry.name)?,
                dir.join(&entry.name),
                entry.stat.bytes,
            ))
        })
        .collect();
    found.sort();
    Ok(found)
}
