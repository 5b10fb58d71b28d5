//! What people say of a session's time: `annotations.jsonl` in its folder, one JSON object a line, only ever added to.
//!
//! Apart from the devices' logs: an annotation belongs to no device, may come long after the session was sealed, and changes
//! no byte of a generation that the same logs gave. Layout: format-spec's `session-files.md`.
//!
//! Invariants: a line is durable when [`append`] returns; each names the SHA-256 of the one before, so that none can be
//! changed or taken out unseen. The file is replaced as a whole each time: after a sync that failed nothing is known of what
//! stands in the old one, and there are few lines.

use crate::disk::{self, Disk};
use crate::error::StorageError;
use crate::session::Session;
use marey_format::types::hex;
use marey_format::{DeviceId, SessionId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Name of the file.
pub const ANNOTATIONS: &str = "annotations.jsonl";

/// Most annotations of one session.
pub const ANNOTATIONS_MAX: u64 = 10_000;

/// Longest file, in bytes: that many lines of the longest text.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Something that somebody said of a moment or a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    pub v: u32,
    /// Counts from 1.
    pub n: u64,
    /// When it is about: session time, nanoseconds UTC, as text.
    #[serde(with = "marey_format::json::int")]
    pub time_ns: i64,
    /// How long that lasted; absent for a moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// What kind, such as `mark` or `note`.
    pub kind: String,
    pub text: String,
    /// What it is about, if not all of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// `NAME@N`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Who said it.
    pub by: String,
    /// When it was said, nanoseconds UTC by the hub's wall clock, as text.
    #[serde(with = "marey_format::json::int")]
    pub said_utc_ns: i64,
    /// SHA-256 of the line before, without its newline; zeros for the first.
    pub prev: String,
}

/// An annotation that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAnnotation {
    pub time_ns: i64,
    pub duration_s: Option<f64>,
    pub kind: String,
    pub text: String,
    pub device: Option<DeviceId>,
    pub stream: Option<String>,
    pub by: String,
    pub said_utc_ns: i64,
}

/// What a file of annotations holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    pub annotations: Vec<Annotation>,
    /// Its lines as they stand.
    bytes: Vec<u8>,
    /// SHA-256 of the last line.
    head: Option<String>,
}

/// Reads a session's annotations.
///
/// # Errors
/// If the file can't be read, or a line of it is not what the one before ties it to: then which.
pub fn read(disk: &dyn Disk, session: &SessionId) -> Result<Annotations, StorageError> {
    let path = path(session);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(Annotations::default());
    }
    let bytes = disk::read_all(disk, &path, FILE_BYTES_MAX).map_err(io)?;
    parse(&bytes).map_err(|what| StorageError::damaged(disk.describe(&path), what))
}

fn parse(bytes: &[u8]) -> Result<Annotations, String> {
    let mut found = Annotations::default();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let n = found.annotations.len() as u64 + 1;
        let annotation: Annotation =
            serde_json::from_slice(line).map_err(|error| format!("line {n} is no annotation: {error}"))?;
        let prev = found.head.as_deref().unwrap_or(NONE_BEFORE);
        if annotation.n != n || annotation.prev != prev {
            return Err(format!(
                "line {n} does not follow the one before it: something was changed or taken out"
            ));
        }
        found.head = Some(hex(&Sha256::digest(line)));
        found.annotations.push(annotation);
    }
    found.bytes = bytes.to_vec();
    Ok(found)
}

/// Appends an annotation; it is durable when this returns. One at a time for each session: that is the caller's business.
///
/// # Errors
/// If the file can't be read or written, or is full.
pub fn append(disk: &dyn Disk, session: &SessionId, new: NewAnnotation) -> Result<Annotation, StorageError> {
    let found = read(disk, session)?;
    let path = path(session);
    let io = |error| StorageError::io("writing", disk.describe(&path), error);
    let n = found.annotations.len() as u64 + 1;
    if n > ANNOTATIONS_MAX {
        let what = format!("it has {ANNOTATIONS_MAX} annotations, and takes no more");
        return Err(StorageError::damaged(disk.describe(&path), what));
    }
    let annotation = Annotation {
        v: 1,
        n,
        time_ns: new.time_ns,
        duration_s: new.duration_s,
        kind: new.kind,
        text: new.text,
        device: new.device,
        stream: new.stream,
        by: new.by,
        said_utc_ns: new.said_utc_ns,
        prev: found.head.unwrap_or_else(|| NONE_BEFORE.to_owned()),
    };
    let mut line =
        serde_json::to_vec(&annotation).expect("an annotation has string keys and finite numbers only");
    line.push(b'\n');
    let mut bytes = found.bytes;
    bytes.extend_from_slice(&line);
    disk::replace(disk, &path, &bytes).map_err(io)?;
    Ok(annotation)
}

fn path(session: &SessionId) -> PathBuf {
    Session::dir(session).join(ANNOTATIONS)
}

const NONE_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::{Duration, FaultyDisk, Plan};
    use crate::disk::memory::MemoryDisk;
    use std::io;

    fn walk() -> SessionId {
        SessionId::new("walk").expect("a name")
    }

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk::create_dirs(&disk, &Session::dir(&walk())).expect("a folder");
        disk
    }

    fn note(text: &str) -> NewAnnotation {
        NewAnnotation {
            time_ns: 1_795_248_000_123_456_789,
            duration_s: Some(0.5),
            kind: "note".into(),
            text: text.into(),
            device: Some(DeviceId::new("phone").expect("a name")),
            stream: Some("imu@1".into()),
            by: "ada".into(),
            said_utc_ns: 7,
        }
    }

    #[test]
    fn what_was_said_is_read_back_in_order() {
        let disk = disk();
        for text in ["starts", "\"quoted\"\nand broken", "höher"] {
            append(&disk, &walk(), note(text)).expect("taken");
        }
        let found = read(&disk, &walk()).expect("read").annotations;
        let texts: Vec<_> = found.iter().map(|a| (a.n, a.text.as_str())).collect();
        assert_eq!(
            texts,
            [(1, "starts"), (2, "\"quoted\"\nand broken"), (3, "höher")]
        );
        assert_eq!(found[0].time_ns, 1_795_248_000_123_456_789);
    }

    #[test]
    fn a_change_of_any_byte_is_found() {
        let disk = disk();
        for text in ["one", "two"] {
            append(&disk, &walk(), note(text)).expect("taken");
        }
        let bytes = disk::read_all(&disk, &path(&walk()), 1 << 20).expect("read");
        let first = bytes.iter().position(|b| *b == b'\n').expect("a line");
        // The last line is tied by nothing after it; all before it is.
        for at in 0..first {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(parse(&changed).is_err(), "byte {at}");
        }
        assert!(
            parse(&bytes[first + 1..]).is_err(),
            "the first line was taken out"
        );
    }

    #[test]
    fn what_is_acknowledged_outlives_a_power_cut_wherever_a_write_fails() {
        for fail_at in 0..8 {
            let memory = disk();
            append(&memory, &walk(), note("first")).expect("taken");
            let fault = (fail_at, io::ErrorKind::StorageFull, Duration::Once);
            let faulty = FaultyDisk::new(
                memory.clone(),
                Plan {
                    fail_at: Some(fault),
                    ..Plan::default()
                },
            );
            let taken = append(&faulty, &walk(), note("second")).is_ok();
            memory.power_cut(None);
            let found = read(&memory, &walk()).expect("whole lines alone").annotations;
            assert!(found.len() > usize::from(taken), "operation {fail_at}");
            append(&memory, &walk(), note("third")).expect("it goes on");
            let found = read(&memory, &walk()).expect("whole").annotations;
            assert_eq!(found.last().map(|a| a.text.as_str()), Some("third"));
        }
    }
}
