//! What people say of a session's time: `annotations.jsonl` in its folder, one JSON object a line, only ever added to.
//!
//! Apart from the devices' logs: an annotation belongs to no device, and may come long after the session was sealed. It goes
//! into the generation after it; what is corrected is said again as the next version of the same annotation. Layout:
//! format-spec's `session-files.md`.
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
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Name of the file.
pub const ANNOTATIONS: &str = "annotations.jsonl";

/// Most annotations of one session.
pub const ANNOTATIONS_MAX: u64 = 10_000;

/// Longest file, in bytes: that many lines of the longest text.
pub(crate) const FILE_BYTES_MAX: u64 = 128 << 20;

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
    /// The number of the annotation that this is a later version of; absent in the first version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<u64>,
    /// Counts the versions of one annotation from 1.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u32,
    /// It stands no more; the text says why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// SHA-256 of the line before, without its newline; zeros for the first.
    pub prev: String,
}

impl Annotation {
    /// The number that all of its versions go by: that of the first.
    pub fn number(&self) -> u64 {
        self.corrects.unwrap_or(self.n)
    }
}

fn first_version() -> u32 {
    1
}

fn is_first_version(version: &u32) -> bool {
    *version == first_version()
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
    /// The annotation that it is the next version of.
    pub corrects: Option<u64>,
    pub withdrawn: bool,
}

/// What a file of annotations holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    pub annotations: Vec<Annotation>,
    /// The first line that does not hold: from there on nothing is known.
    pub fault: Option<LineFault>,
    /// The lines that hold, as they stand.
    bytes: Vec<u8>,
    /// SHA-256 of the last of them.
    head: Option<String>,
}

/// Where a file of annotations stops to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    pub offset: u64,
    /// From there to the end.
    pub bytes: u64,
    pub why: String,
}

impl Annotations {
    /// The lines that hold, as they stand in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The newest version of each annotation, in the order of their numbers; also of those that were withdrawn.
    pub fn newest(&self) -> impl Iterator<Item = &Annotation> {
        let newest: BTreeMap<u64, &Annotation> = self
            .annotations
            .iter()
            .map(|version| (version.number(), version))
            .collect();
        newest.into_values()
    }

    /// The version that a line is, or what is wrong with what it says of itself.
    fn next_version(&self, corrects: Option<u64>) -> Result<u32, String> {
        let Some(number) = corrects else { return Ok(1) };
        match self.newest().find(|annotation| annotation.number() == number) {
            Some(newest) => Ok(newest.version.saturating_add(1)),
            None => Err(format!("there is no annotation {number}")),
        }
    }
}

/// Reads a session's annotations.
///
/// # Errors
/// If the file can't be read, or a line of it is not what the one before ties it to: then which.
pub fn read(disk: &dyn Disk, session: &SessionId) -> Result<Annotations, StorageError> {
    let found = read_what_holds(disk, session)?;
    match found.fault {
        Some(fault) => Err(StorageError::damaged(disk.describe(&path(session)), fault.why)),
        None => Ok(found),
    }
}

/// The same up to the first line that does not hold, which is named.
///
/// # Errors
/// If the file can't be read.
pub fn read_what_holds(disk: &dyn Disk, session: &SessionId) -> Result<Annotations, StorageError> {
    let path = path(session);
    let io = |error| StorageError::io("reading", disk.describe(&path), error);
    if disk.stat(&path).map_err(io)?.is_none() {
        return Ok(Annotations::default());
    }
    let bytes = disk::read_all(disk, &path, FILE_BYTES_MAX).map_err(io)?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Annotations {
    let mut found = Annotations::default();
    // The newest version of each annotation, by its number.
    let mut versions = BTreeMap::new();
    let mut offset = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match parse_line(line, &found, &mut versions) {
            Ok(annotation) => {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                found.head = Some(hex(&Sha256::digest(line)));
                found.annotations.push(annotation);
            }
            Err(why) => {
                found.fault = Some(LineFault {
                    offset: offset as u64,
                    bytes: (bytes.len() - offset) as u64,
                    why,
                });
                break;
            }
        }
        offset += line.len();
    }
    found.bytes = bytes[..offset].to_vec();
    found
}

/// The next line after those that were found.
fn parse_line(
    line: &[u8],
    found: &Annotations,
    versions: &mut BTreeMap<u64, u32>,
) -> Result<Annotation, String> {
    let n = found.annotations.len() as u64 + 1;
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let annotation: Annotation =
        serde_json::from_slice(line).map_err(|error| format!("line {n} is no annotation: {error}"))?;
    let prev = found.head.as_deref().unwrap_or(NONE_BEFORE);
    if annotation.n != n || annotation.prev != prev {
        return Err(format!(
            "line {n} does not follow the one before it: something was changed or taken out"
        ));
    }
    let known = annotation.corrects.map(|number| versions.get(&number).copied());
    let is_next = match known {
        None => annotation.version == first_version() && !annotation.withdrawn,
        Some(known) => known.is_some_and(|known| annotation.version == known.saturating_add(1)),
    };
    if !is_next {
        return Err(format!(
            "line {n} is version {} of annotation {}, and that has no version before it",
            annotation.version,
            annotation.number()
        ));
    }
    versions.insert(annotation.number(), annotation.version);
    Ok(annotation)
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
    let refused = |what| StorageError::damaged(disk.describe(&path), what);
    if n > ANNOTATIONS_MAX {
        let what = format!("it has {ANNOTATIONS_MAX} annotations, and takes no more");
        return Err(refused(what));
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
        corrects: new.corrects,
        version: found.next_version(new.corrects).map_err(refused)?,
        withdrawn: new.withdrawn,
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
            corrects: None,
            withdrawn: false,
        }
    }

    fn correction(of: u64, text: &str) -> NewAnnotation {
        NewAnnotation {
            corrects: Some(of),
            ..note(text)
        }
    }

    #[test]
    fn a_correction_is_the_next_version_and_all_versions_stay() {
        let disk = disk();
        let made = [
            note("one"),
            note("two"),
            correction(1, "one, really"),
            correction(1, "one, at last"),
        ];
        let versions = made.map(|new| append(&disk, &walk(), new).expect("taken").version);
        assert_eq!(versions, [1, 1, 2, 3]);
        let gone = NewAnnotation {
            withdrawn: true,
            ..correction(2, "it was another session")
        };
        append(&disk, &walk(), gone).expect("taken");
        let found = read(&disk, &walk()).expect("read");
        assert_eq!(found.annotations.len(), 5);
        let newest: Vec<_> = found
            .newest()
            .map(|a| (a.number(), a.version, a.withdrawn, a.text.as_str()))
            .collect();
        assert_eq!(
            newest,
            [
                (1, 3, false, "one, at last"),
                (2, 2, true, "it was another session")
            ]
        );
        // Of none that is there, and of a version: a correction has no number of its own.
        for of in [0, 3, 9] {
            assert!(append(&disk, &walk(), correction(of, "?")).is_err(), "{of}");
        }
        assert_eq!(read(&disk, &walk()).expect("read"), found);
    }

    #[test]
    fn lines_that_were_made_by_hand_count_versions_one_by_one() {
        let disk = disk();
        append(&disk, &walk(), note("one")).expect("taken");
        let first = disk::read_all(&disk, &path(&walk()), 1 << 20).expect("read");
        let found = parse(&first);
        for (corrects, version, withdrawn) in [
            (Some(1), 3, false),
            (Some(2), 2, false),
            (None, 2, false),
            (None, 1, true),
        ] {
            let line = Annotation {
                n: 2,
                prev: found.head.clone().expect("a line"),
                corrects,
                version,
                withdrawn,
                ..found.annotations[0].clone()
            };
            let mut bytes = first.clone();
            bytes.extend(serde_json::to_vec(&line).expect("JSON"));
            let parsed = parse(&bytes);
            let fault = parsed.fault.expect("it does not hold");
            assert_eq!(fault.offset, first.len() as u64);
            assert_eq!(fault.bytes, (bytes.len() - first.len()) as u64);
            assert_eq!((parsed.annotations.len(), parsed.bytes), (1, first.clone()));
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
            assert!(parse(&changed).fault.is_some(), "byte {at}");
        }
        assert!(
            parse(&bytes[first + 1..]).fault.is_some(),
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
